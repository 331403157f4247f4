//! The connection of a server's session: a socket, or memory.

use std::fmt::Debug;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use socket2::Socket;

pub(super) trait Wire: Read + Write + Send + Debug {
    /// A second handle, with which another thread can shut it down.
    fn handle(&self) -> io::Result<Box<dyn Wire>>;

    /// Bounds each later read and write.
    fn set_timeout(&self, timeout: Duration) -> io::Result<()>;

    fn shutdown(&self, how: Shutdown);

    /// Whether the client has closed its end, even if earlier octets are not read yet.
    fn is_left(&self) -> bool;

    /// Called before the server waits for anything but octets.
    fn rest(&self) {}
}

impl Wire for Socket {
    fn handle(&self) -> io::Result<Box<dyn Wire>> {
        Ok(Box::new(self.try_clone()?))
    }

    fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(timeout))?;
        self.set_write_timeout(Some(timeout))
    }

    fn shutdown(&self, how: Shutdown) {
        let _ = Self::shutdown(self, how);
    }

    #[cfg(target_os = "linux")]
    fn is_left(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(self, PollFlags::RDHUP)];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// It is noticed after its thread has read all octets.
    #[cfg(not(target_os = "linux"))]
    fn is_left(&self) -> bool {
        false
    }
}
