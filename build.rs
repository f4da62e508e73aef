//! Makes the built-in image: its helper is a static program of the standard library alone, so that the first
//! `stack apply` needs neither a network nor anything but Rust. What the program would otherwise make and hash at each
//! run is made once, here: the layer's tar and its digest. Also the launcher, which becomes each container's program, and
//! what a supervisor is while it sleeps.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

#[path = "src/runtime/image/builtin/content.rs"]
mod content;

const WHOAMI: &str = "src/runtime/image/builtin/whoami.rs";
const LAUNCHER: &str = "src/runtime/init/launcher/program.rs";
const SLEEPER: &str = "src/runtime/shim/sleeper/program.rs";

fn main() {
    println!("cargo::rerun-if-changed={WHOAMI}");
    println!("cargo::rerun-if-changed={LAUNCHER}");
    println!("cargo::rerun-if-changed={SLEEPER}");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/runtime/image/builtin/content.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let with_library = ["-Ctarget-feature=+crt-static"];
    compile("whoami", WHOAMI, &with_library, &out.join("whoami"));
    compile("launcher", LAUNCHER, &with_library, &out.join("launcher"));
    // At a fixed address there is nothing to relocate, so that no page of it is written to.
    let alone = ["-Crelocation-model=static", "-Clink-arg=-nostartfiles", "-Clink-arg=-nostdlib", "-Clink-arg=-static"];
    compile("sleeper", SLEEPER, &alone, &out.join("sleeper"));
    let launcher = fs::read(out.join("launcher")).expect("rustc has written it");
    fs::write(out.join("launcher.digest"), &hexadecimal(&launcher)[..16]).expect("OUT_DIR can be written to");
    let program = fs::read(out.join("whoami")).expect("rustc has written it");
    let layer = content::layer(&program).expect("a tar in memory");
    fs::write(out.join("whoami.diff_id"), format!("sha256:{}", hexadecimal(&layer)))
        .expect("OUT_DIR can be written to");
    fs::write(out.join("whoami.tar"), layer).expect("OUT_DIR can be written to");
}

fn hexadecimal(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn compile(name: &str, source: &str, how: &[&str], program: &Path) {
    let rustc = env::var_os("RUSTC").expect("cargo sets RUSTC");
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let status = Command::new(rustc)
        .args(["--edition=2024", "--crate-name", name, "--crate-type=bin", "--target", &target])
        .args(["-Copt-level=z", "-Cpanic=abort", "-Cstrip=symbols", "-Clto=fat", "-Ccodegen-units=1", "-Dwarnings"])
        .args(how)
        .args([source, "-o"])
        .arg(program)
        .status();
    let built = status.is_ok_and(|status| status.success());
    assert!(built, "the static program {source} was not compiled; the lines above say why");
}
