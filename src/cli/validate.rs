//! `validate`: everything that is wrong with a file, and nothing else.

use std::process::ExitCode;

use super::args::{Format, Validate};
use super::failure::Failure;
use super::{stack_file, view};
use crate::spec;

pub fn validate(arguments: &Validate) -> Result<ExitCode, Failure> {
    let options = stack_file::options(&arguments.file)?;
    let json = arguments.format.format == Format::Json;
    match spec::load(&options) {
        Ok(loaded) if json => view::json(
            &serde_json::json!({"ok": true, "name": loaded.stack.name, "problems": loaded.warnings.to_json()}),
        )?,
        Ok(loaded) => {
            let warnings = loaded.warnings.render(stack_file::color());
            if !warnings.trim().is_empty() {
                eprintln!("{}", warnings.trim_end());
            }
            if !arguments.quiet {
                view::out(&format!("{}: {} containers\n", loaded.stack.name, loaded.stack.containers.len()))?;
            }
        }
        Err(diagnostics) if json => {
            view::json(&serde_json::json!({"ok": false, "problems": diagnostics.to_json()}))?;
            return Ok(ExitCode::FAILURE);
        }
        Err(diagnostics) => return Err(Failure::new(diagnostics.render(stack_file::color()))),
    }
    Ok(ExitCode::SUCCESS)
}
