//! Makes the built-in image: its helper is a static program of the standard library alone, so that the first
//! `stack apply` needs neither a network nor anything but Rust. What the program would otherwise make and hash at each
//! run is made once, here: the layer's tar and its digest.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

#[path = "src/runtime/image/builtin/content.rs"]
mod content;

const SOURCE: &str = "src/runtime/image/builtin/whoami.rs";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/runtime/image/builtin/content.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    compile(&out.join("whoami"));
    let program = fs::read(out.join("whoami")).expect("rustc has written it");
    let layer = content::layer(&program).expect("a tar in memory");
    let digest = Sha256::digest(&layer).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    fs::write(out.join("whoami.diff_id"), format!("sha256:{digest}")).expect("OUT_DIR can be written to");
    fs::write(out.join("whoami.tar"), layer).expect("OUT_DIR can be written to");
}

fn compile(program: &Path) {
    let rustc = env::var_os("RUSTC").expect("cargo sets RUSTC");
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let status = Command::new(rustc)
        .args(["--edition=2024", "--crate-name=whoami", "--crate-type=bin", "--target", &target])
        .args(["-Ctarget-feature=+crt-static", "-Copt-level=z", "-Cpanic=abort", "-Cstrip=symbols", "-Clto=fat"])
        .args(["-Ccodegen-units=1", "-Dwarnings", SOURCE, "-o"])
        .arg(program)
        .status();
    let built = status.is_ok_and(|status| status.success());
    assert!(built, "the built-in image's helper {SOURCE} was not compiled; the lines above say why");
}
