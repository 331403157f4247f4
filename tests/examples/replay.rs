//! Plays records again, which `send --record FILE` and `Server::record` have written. No server is needed, and no time
//! passes.
//!
//! ```console
//! $ cargo run -p smtp-tests --example replay -- FILE...
//! FILE: the same
//! ```
//!
//! Where the engine does something else than it did, the first difference is printed, and the exit code is 1.

use std::process::ExitCode;

use smtp_tests::play::replay::replay;

fn main() -> ExitCode {
    let mut differ = false;
    for path in std::env::args().skip(1) {
        let played = std::fs::read_to_string(&path)
            .map_err(|error| format!("{path}: {error}"))
            .and_then(|record| replay(&path, &record).map_err(|failure| failure.to_string()));
        match played {
            Ok(()) => println!("{path}: the same"),
            Err(problem) => {
                println!("{problem}");
                differ = true;
            }
        }
    }
    ExitCode::from(u8::from(differ))
}
