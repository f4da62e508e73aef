//! This host as a subject of the conformance suite.
//!
//! The engine runs its supervisors from its own executable, which here is the test binary: [`role`] makes it answer to
//! those words before the test harness sees them.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use stack::engine::native::Native;
use stack::runtime::roots::Roots;
use stack::runtime::{container, network, volume};
use stack::spec::{Container, Image, ImageSource};

use crate::conformance::Subject;
use crate::stacks;
use crate::support::leftovers;

// Runs before main: the harness would take `shim` for the name of a test.
#[used]
#[unsafe(link_section = ".init_array")]
static ROLE: extern "C" fn() = role;

extern "C" fn role() {
    let first = std::env::args_os().nth(1);
    if first.is_some_and(|word| word == "shim" || word == "netd") {
        let succeeded = stack::cli::main() == ExitCode::SUCCESS;
        std::process::exit(i32::from(!succeeded));
    }
}

/// Each subject has its own.
static PORT: AtomicU16 = AtomicU16::new(18_080);

/// Asserts that the host holds nothing of the engine. Removes all that it holds after a test that failed.
struct Guard(Roots);

impl Drop for Guard {
    fn drop(&mut self) {
        let roots = &self.0;
        let base = roots.root.parent().expect("the roots are made below a directory of their own");
        let left = if std::thread::panicking() { Vec::new() } else { leftovers(roots, base) };
        for found in container::list(roots).unwrap_or_default() {
            if let Err(error) = container::remove(roots, &found.config.name, true) {
                eprintln!("container {}: {error}", found.config.name);
            }
        }
        for found in network::list(roots).unwrap_or_default() {
            if let Err(error) = network::remove(roots, &found.config.name) {
                eprintln!("network {}: {error}", found.config.name);
            }
        }
        for found in volume::list(roots).unwrap_or_default() {
            if let Err(error) = volume::remove(roots, &found.config.name, &[], volume::Removal::Now) {
                eprintln!("volume {}: {error}", found.config.name);
            }
        }
        match std::fs::remove_dir_all(base) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => eprintln!("{}: {error}", base.display()),
            _ => {}
        }
        assert!(left.is_empty(), "left behind on the host:\n{}", left.join("\n"));
    }
}

fn builtin(command: &[&str]) -> Container {
    let mut container = stacks::container();
    container.image =
        Image { reference: "builtin:whoami".to_owned(), source: ImageSource::Builtin("whoami".to_owned()) };
    // A process that is stopped before it has set up its handler only goes when it is killed.
    container.stop_grace_period_ms = Some(1_000);
    container.command = Some(command.iter().map(|word| (*word).to_owned()).collect());
    container
}

/// An empty engine on this host, with roots of its own.
pub fn native() -> Subject<Native> {
    let port = PORT.fetch_add(1, Ordering::Relaxed);
    let base = std::env::temp_dir().join(format!("stack-it-{}-{port}", std::process::id()));
    let roots = Roots::new(base.join("root"), base.join("run"));
    Subject {
        engine: Arc::new(Native::new(&roots)),
        runs: builtin(&["sleep", "forever"]),
        succeeds: builtin(&["exit", "0"]),
        fails: builtin(&["exit", "3"]),
        port,
        _guard: Box::new(Guard(roots)),
    }
}
