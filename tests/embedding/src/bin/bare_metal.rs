//! The engine on a microcontroller without an operating system (`tests/embedding/bare_metal`), under QEMU. Its UART leads
//! to the server.
//!
//! ```console
//! $ cargo run -p smtp-embedding --bin bare_metal
//! bob@example.net has it: 250 2.0.0 Ok: stored as 0001
//! flash: 143784 octets
//! RAM: 48 octets of static data
//! RAM: 3744 octets of stack at most
//! RAM: 2112 octets of heap at most
//! the server has taken 89 octets for bob@example.net
//! ```
//!
//! `SMTP_HOST=mx.example.net` in the environment names another server.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use smtp_tests::receiver::Receiver;

const TARGET: &str = "thumbv7em-none-eabihf";
const QEMU: &str = "qemu-system-arm";

fn run() -> Result<(), Box<dyn Error>> {
    if let Err(error) = Command::new(QEMU)
        .arg("--version")
        .stdout(Stdio::null())
        .status()
    {
        println!("skipped: {QEMU} cannot be run: {error}");
        return Ok(());
    }
    let program = build()?;
    // By default, a server inside this program takes the mail.
    let receiver = Receiver::new();
    let address = match std::env::var("SMTP_HOST") {
        Ok(host) => format!("{host}:25"),
        Err(_) => receiver.local_addr().to_string(),
    };
    let qemu = Command::new(QEMU)
        .args([
            "-machine",
            "mps2-an386",
            "-display",
            "none",
            "-monitor",
            "none",
        ])
        .args(["-serial", &format!("tcp:{address},nodelay")])
        .args(["-semihosting-config", "enable=on,target=native"])
        .arg("-kernel")
        .arg(program)
        .stdin(Stdio::null())
        .status()?;
    if !qemu.success() {
        return Err("the program ended in an error".into());
    }
    for message in receiver.messages() {
        let to = message.forward_paths.join(", ");
        println!("the server has taken {} octets for {to}", message.octets);
    }
    Ok(())
}

/// Builds the program, optimized for size.
fn build() -> Result<PathBuf, Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "build",
            "--quiet",
            "-p",
            "smtp-bare-metal",
            "--release",
            "--target",
            TARGET,
        ])
        .args(["--config", "profile.release.opt-level='s'"])
        .args(["--config", "profile.release.lto=true"])
        .args(["--config", "profile.release.codegen-units=1"])
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(folder)
        .stderr(Stdio::inherit())
        .output()?;
    // Cargo prints the path of the program.
    let lines = String::from_utf8_lossy(&output.stdout);
    let program = lines
        .split('"')
        .find(|word| word.ends_with("/release/smtp-bare-metal"));
    match program {
        Some(program) if output.status.success() => Ok(program.into()),
        _ => {
            let target = format!("rustup target add {TARGET} may be missing");
            Err(format!("the program cannot be built; {target}").into())
        }
    }
}

fn main() -> ExitCode {
    if let Err(error) = run() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
