//! The `send` examples of both adapters as scripts call them: flags in, JSON and an exit code out. They run against
//! the embedded receiving server, and against servers that misbehave.

/// Each test runs the example of each adapter.
macro_rules! for_both {
    ($($(#[$where:meta])* $test:ident),* $(,)?) => {
        mod blocking {
            $($(#[$where])* #[test] fn $test() { super::$test("smtp-blocking"); })*
        }
        mod tokio {
            $($(#[$where])* #[test] fn $test() { super::$test("smtp-tokio"); })*
        }
    };
}

mod bulk;
mod extensions;
mod failures;
mod first;
mod input;
mod limits;
mod options;
mod record;
mod run;
mod server;
mod terminal;
mod trust;

const MESSAGE: &[u8] = b"Subject: test\r\n\r\nHello.\r\n.\r\n..dots\r\n";

type Adapter = &'static str;

const ONE: [&str; 1] = ["bob@example.net"];
