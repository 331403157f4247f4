//! The engine over io_uring, where a write begins now and completes later. An octet is *given* when its write is
//! submitted, and *written* at its completion.
//!
//! ```console
//! $ cargo run -p smtp-embedding --bin io_uring
//! bob@example.net has it: 250 2.0.0 Ok: stored as 0001
//! 5392678 octets in 91 completions
//! ```
//!
//! It needs Linux 5.11. If the kernel refuses io_uring, it prints that and sends nothing. `SMTP_HOST=mx.example.net`
//! in the environment names another server.

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("skipped: io_uring is of Linux alone");
}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(target_os = "linux")]
mod linux {
    use std::error::Error;
    use std::io::{self, ErrorKind};
    use std::net::{Shutdown, TcpStream};
    use std::os::fd::AsRawFd;
    use std::process::ExitCode;

    use io_uring::types::{Fd, SubmitArgs, Timespec};
    use io_uring::{IoUring, opcode, squeue};
    use smtp_proto::{
        BodyPart, Cause, ClientName, Config, Connection, Envelope, Event, Instant, TlsPolicy,
    };
    use smtp_tests::receiver::Receiver;

    const RECV: u64 = 1;
    const SEND: u64 = 2;

    struct Session {
        ring: IoUring,
        socket: TcpStream,
        engine: Connection,
        start: std::time::Instant,
        /// The buffer for input. The kernel owns it while `is_receiving`.
        input: Box<[u8]>,
        is_receiving: bool,
        /// The output, from `written` to `gathered`. The kernel owns it while `is_sending`.
        output: Box<[u8]>,
        written: usize,
        gathered: usize,
        is_sending: bool,
        completions: usize,
    }

    impl Session {
        fn now(&self) -> Instant {
            Instant::from_origin(self.start.elapsed())
        }

        fn send(&mut self, mut body: &[u8]) -> Result<(), Box<dyn Error>> {
            loop {
                while let Some(event) = self.engine.poll_event() {
                    match event {
                        Event::Finished(_, report) => {
                            for (mailbox, result) in &report {
                                match result {
                                    Ok(reply) => println!("{mailbox} has it: {reply}"),
                                    Err(error) => println!("{mailbox} did not get it: {error}"),
                                }
                            }
                        }
                        Event::Closed(result) => return Ok(result?),
                        _ => {}
                    }
                }
                if !self.is_sending {
                    body = self.give(body)?;
                }
                if !self.is_receiving {
                    self.is_receiving = true;
                    let (into, length) = (self.input.as_mut_ptr(), self.input.len() as u32);
                    let recv = opcode::Recv::new(Fd(self.socket.as_raw_fd()), into, length);
                    self.push(&recv.build().user_data(RECV))?;
                }
                self.wait()?;
                let now = self.now();
                self.engine.handle_timeout(now);
            }
        }

        /// Begins a write of the octets to send. Returns the rest of the body.
        fn give<'b>(&mut self, mut body: &'b [u8]) -> io::Result<&'b [u8]> {
            let now = self.now();
            if self.written == self.gathered {
                let part = BodyPart::Last(body);
                let (gathered, used) = self.engine.poll_transmit_into(now, part, &mut self.output);
                (self.written, self.gathered, body) = (0, gathered, &body[used..]);
                if self.engine.wants_body() && body.is_empty() {
                    // An error means that the server has refused the message meanwhile. The report has the reason.
                    let _ = self.engine.finish_body();
                }
            }
            let rest = &self.output[self.written..self.gathered];
            if !rest.is_empty() {
                self.is_sending = true;
                // It may reach the server from here on, and get a reply before the completion comes.
                self.engine.handle_given(now, rest.len());
                let (from, length) = (rest.as_ptr(), rest.len() as u32);
                let send = opcode::Send::new(Fd(self.socket.as_raw_fd()), from, length);
                self.push(&send.build().user_data(SEND))?;
            }
            Ok(body)
        }

        fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
            // SAFETY: the buffer of the entry is on the heap, and stays unchanged until its completion. `settle`
            // waits for that before the session is dropped.
            #[expect(unsafe_code, reason = "the kernel is given an address")]
            let pushed = unsafe { self.ring.submission().push(entry) };
            pushed.map_err(io::Error::other)
        }

        /// Submits the entries, and waits for a completion or for the deadline.
        fn wait(&mut self) -> io::Result<()> {
            let left = self.engine.poll_timeout().map(|at| at - self.now());
            let time = left.map(Timespec::from);
            let mut arguments = SubmitArgs::new();
            if let Some(time) = &time {
                arguments = arguments.timespec(time);
            }
            match self.ring.submitter().submit_with_args(1, &arguments) {
                // The deadline has passed. Completions that came before it count first.
                Err(error) if error.raw_os_error() == Some(ETIME) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => drop(result?),
            }
            let now = self.now();
            let done: Vec<_> = self
                .ring
                .completion()
                .map(|done| (done.user_data(), done.result()))
                .collect();
            for (which, result) in done {
                self.completions += 1;
                match which {
                    RECV => self.is_receiving = false,
                    _ => self.is_sending = false,
                }
                match (which, usize::try_from(result)) {
                    (RECV, Ok(0)) => self.engine.handle_eof(now),
                    (RECV, Ok(n)) => self.engine.handle_input(now, &self.input[..n]),
                    (_, Ok(n)) => {
                        self.written += n;
                        self.engine.handle_written(now, n);
                    }
                    (_, Err(_)) => {
                        let error = io::Error::from_raw_os_error(-result);
                        self.engine
                            .handle_lost(now, Cause::Transport(error.to_string().into()));
                    }
                }
            }
            Ok(())
        }

        /// Ends all operations, so that the kernel gives the buffers back.
        fn settle(mut self) -> io::Result<usize> {
            // If this fails, the connection is gone already, and the operations end by themselves.
            let _ = self.socket.shutdown(Shutdown::Both);
            while self.is_receiving || self.is_sending {
                if let Err(error) = self.wait() {
                    // The kernel may still use the buffers, so they must stay.
                    std::mem::forget(self);
                    return Err(error);
                }
            }
            Ok(self.completions)
        }
    }

    const ETIME: i32 = 62;

    fn run() -> Result<(), Box<dyn Error>> {
        let ring = match IoUring::new(8) {
            Ok(ring) if ring.params().is_feature_ext_arg() => ring,
            Ok(_) => {
                println!("skipped: the kernel is older than Linux 5.11");
                return Ok(());
            }
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::PermissionDenied | ErrorKind::Unsupported
                ) =>
            {
                println!("skipped: the kernel refuses io_uring: {error}");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        // By default, a server inside this program takes the mail.
        let (receiver, socket) = match std::env::var("SMTP_HOST") {
            Ok(host) => (None, TcpStream::connect((host, 25))?),
            Err(_) => {
                let receiver = Receiver::new();
                let socket = TcpStream::connect(receiver.local_addr())?;
                (Some(receiver), socket)
            }
        };
        socket.set_nodelay(true)?;

        let start = std::time::Instant::now();
        let mut config = Config::new(ClientName::from(socket.local_addr()?.ip()));
        // STARTTLS works as in std_loop and mio, with rustls between the engine and the buffers.
        config.tls = TlsPolicy::Never;
        let mut engine = Connection::new(config, Instant::default());
        let message = vec![b'x'; 5 << 20];
        let message: Vec<u8> = message
            .chunks(70)
            .flat_map(|line| [line, b"\r\n"].concat())
            .collect();
        engine
            .submit(Envelope::new("alice@example.org", ["bob@example.net"])?.size_of(&message))?;
        engine.quit()?; // once the message is reported

        let mut session = Session {
            ring,
            socket,
            engine,
            start,
            input: vec![0; 4096].into_boxed_slice(),
            is_receiving: false,
            output: vec![0; 64 * 1024].into_boxed_slice(),
            written: 0,
            gathered: 0,
            is_sending: false,
            completions: 0,
        };
        let result = session.send(&message);
        let completions = session.settle()?;
        result?;
        println!("{} octets in {completions} completions", message.len());
        let taken = receiver.map(|receiver| receiver.messages());
        match taken.is_none_or(|taken| taken.len() == 1 && taken[0].content() == message) {
            true => Ok(()),
            false => Err("the server has not taken what was sent".into()),
        }
    }

    pub(super) fn main() -> ExitCode {
        if let Err(error) = run() {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
        ExitCode::SUCCESS
    }
}
