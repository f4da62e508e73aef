//! `validate`: everything that is wrong with a file, and nothing else.

use std::process::ExitCode;

use serde_json::json;

use super::args::Validate;
use super::failure::Failure;
use super::format::{Format, print_value};
use super::{stack_file, view};
use crate::spec;

pub fn validate(arguments: &Validate) -> Result<ExitCode, Failure> {
    let options = stack_file::options(&arguments.file)?;
    let format = &arguments.format.format;
    let for_people = matches!(format, Format::Table);
    match spec::load(&options) {
        Ok(loaded) => {
            let warnings = loaded.warnings.render(view::color());
            if for_people && !warnings.trim().is_empty() {
                view::note(warnings.trim_end());
            }
            let (name, count) = (&loaded.stack.name, loaded.stack.containers.len());
            let value = json!({"ok": true, "name": name, "problems": loaded.warnings.to_json()});
            if !arguments.quiet {
                print_value(format, &value, || format!("{name}: {count} containers\n"))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(diagnostics) if for_people => Err(Failure::new(diagnostics.render(view::color()))),
        Err(diagnostics) => {
            print_value(format, &json!({"ok": false, "problems": diagnostics.to_json()}), String::new)?;
            Ok(ExitCode::FAILURE)
        }
    }
}
