//! Compiles the helper of the built-in image: a static program of the standard library alone, so that the first
//! `stack apply` needs neither a network nor anything but Rust.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = "src/runtime/image/builtin/whoami.rs";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("whoami");
    let rustc = env::var_os("RUSTC").expect("cargo sets RUSTC");
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let status = Command::new(rustc)
        .args(["--edition=2024", "--crate-name=whoami", "--crate-type=bin", "--target", &target])
        .args(["-Ctarget-feature=+crt-static", "-Copt-level=z", "-Cpanic=abort", "-Cstrip=symbols", "-Clto=fat"])
        .args(["-Ccodegen-units=1", "-Dwarnings", SOURCE, "-o"])
        .arg(&out)
        .status();
    let built = status.is_ok_and(|status| status.success());
    assert!(built, "the built-in image's helper {SOURCE} was not compiled; the lines above say why");
}
