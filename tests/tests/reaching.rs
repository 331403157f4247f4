//! How a server is reached by both adapters, and what becomes of a connection that does not do what it should:
//! each ends in an error, within its deadline.

use std::time::Duration;

use smtp_proto::Stage;
use smtp_tests::delivery::runtime;
use smtp_tests::watchdog::within_limit;

#[cfg(target_os = "linux")]
mod unix {
    use super::*;
    use smtp_adapter::Server;
    use smtp_tests::jammed::JammedUnix;

    fn server(jammed: &JammedUnix) -> Server {
        let server = Server::unix(jammed.path()).lmtp();
        server.connect_timeout(Duration::from_millis(300))
    }

    #[test]
    fn a_socket_that_is_not_accepted_ends_at_the_deadline_blocking() {
        let jammed = JammedUnix::start("blocking").unwrap();
        let server = server(&jammed);
        let connect = move || smtp_blocking::Session::connect(&server).map(drop);
        let error = within_limit(connect).expect("it hangs").unwrap_err();
        assert_eq!(error.stage(), Stage::Connect);
        assert!(error.to_string().contains("timed out"), "{error}");
    }

    #[test]
    fn a_socket_that_is_not_accepted_ends_at_the_deadline_tokio() {
        let jammed = JammedUnix::start("tokio").unwrap();
        let server = server(&jammed);
        let connect = move || {
            let connect = smtp_tokio::Session::connect(&server);
            runtime().block_on(connect).map(drop)
        };
        let error = within_limit(connect).expect("it hangs").unwrap_err();
        assert_eq!(error.stage(), Stage::Connect);
    }
}
