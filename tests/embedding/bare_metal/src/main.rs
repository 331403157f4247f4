//! The engine on a microcontroller (Cortex-M4F), over a UART that leads to the server. It runs without an operating
//! system and without threads. The message is in flash, and is written from there without a copy.
//!
//! `cargo run -p smtp-embedding --bin bare_metal` runs it under QEMU.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {
    println!("this is for thumbv7em-none-eabihf: cargo run -p smtp-embedding --bin bare_metal");
}

#[cfg(target_os = "none")]
extern crate alloc;
#[cfg(target_os = "none")]
mod board;
#[cfg(target_os = "none")]
mod session;
