//! Packages, scripts and certificates.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::Result;

/// Runs a script and returns its output, or what both its outputs said when it fails.
pub(crate) fn sh(script: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).args(arguments);
    let output = command.stdin(Stdio::null()).output()?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        return Ok(stdout.into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}: {stdout}{stderr} of {script}", output.status).into())
}

/// Installs the package `$1`. `--no-remove` because postfix and exim4 conflict as packages: better an error
/// than a lost mail server. Without a policy-rc.d the package of Dovecot may start its service.
const INSTALL: &str = r#"
export DEBIAN_FRONTEND=noninteractive
echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections
set -- install -y --no-install-recommends --no-remove -o DPkg::Lock::Timeout=300 "$1"
apt-get "$@" || { apt-get update && apt-get "$@"; }"#;

/// Installs these packages, but those whose program is there.
pub(crate) fn install(programs: &[(&str, &str)]) -> Result<()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    for (program, package) in programs {
        if !fs::exists(program)? {
            println!("installing {package} with apt-get");
            sh(INSTALL, &[package])?;
        }
    }
    Ok(())
}

/// The CA's certificate, and the server's key with its certificate, in PEM.
pub(super) fn certificates(name: &str) -> Result<(String, String)> {
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "test CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_key = KeyPair::generate()?;
    let ca_pem = ca.self_signed(&ca_key)?.pem();

    let mut server = CertificateParams::new([name, "localhost", "127.0.0.1"].map(String::from))?;
    server.distinguished_name.push(DnType::CommonName, name);
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;
    let server_key = KeyPair::generate()?;
    let server = server.signed_by(&server_key, &Issuer::new(ca, ca_key))?;
    Ok((ca_pem, server_key.serialize_pem() + &server.pem()))
}
