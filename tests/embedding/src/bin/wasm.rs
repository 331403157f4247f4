//! The engine as a WebAssembly module without imports (`tests/embedding/wasm`), driven by node over a real socket.
//!
//! ```console
//! $ cargo run -p smtp-embedding --bin wasm
//! the module has 0 imports
//! bob@example.net has it: 250 2.0.0 Ok: stored as 0001
//! the server has taken 196 octets for bob@example.net
//! the module: 229504 octets
//! ```
//!
//! `SMTP_HOST=mx.example.net` in the environment names another server.

use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use smtp_tests::receiver::Receiver;

const TARGET: &str = "wasm32-unknown-unknown";

fn run() -> Result<(), Box<dyn Error>> {
    if let Err(error) = Command::new("node")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
    {
        println!("skipped: node cannot be run: {error}");
        return Ok(());
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let module = build(folder)?;
    // By default, a server inside this program takes the mail.
    let receiver = Receiver::new();
    let (host, port) = match std::env::var("SMTP_HOST") {
        Ok(host) => (host, 25),
        Err(_) => ("127.0.0.1".to_owned(), receiver.local_addr().port()),
    };
    let node = Command::new("node")
        .arg(folder.join("wasm/drive.mjs"))
        .arg(&module)
        .args([&host, &port.to_string()])
        .args(["alice@example.org", "bob@example.net"])
        .stdin(File::open(folder.join("message.eml"))?)
        .status()?;
    if !node.success() {
        return Err("node ended in an error".into());
    }
    for message in receiver.messages() {
        let to = message.forward_paths.join(", ");
        println!("the server has taken {} octets for {to}", message.octets);
    }
    println!("the module: {} octets", module.metadata()?.len());
    Ok(())
}

/// Builds the module, optimized for size.
fn build(folder: &Path) -> Result<std::path::PathBuf, Box<dyn Error>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "build",
            "--quiet",
            "-p",
            "smtp-wasm",
            "--release",
            "--target",
            TARGET,
        ])
        .args(["--config", "profile.release.opt-level='s'"])
        .args(["--config", "profile.release.lto=true"])
        .args(["--config", "profile.release.strip=true"])
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(folder)
        .stderr(Stdio::inherit())
        .output()?;
    // Cargo prints the path of the module.
    let lines = String::from_utf8_lossy(&output.stdout);
    let module = lines
        .split('"')
        .find(|word| word.ends_with("/smtp_wasm.wasm"));
    match module {
        Some(module) if output.status.success() => Ok(module.into()),
        _ => Err(
            format!("the module cannot be built; rustup target add {TARGET} may be missing").into(),
        ),
    }
}

fn main() -> ExitCode {
    if let Err(error) = run() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
