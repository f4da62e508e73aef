//! The command line: arguments, one file a command, views.

use std::process::ExitCode;

/// Runs the program. The first word chooses: an internal role (the shim, the network helper) or a command for people.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
