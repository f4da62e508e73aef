//! `doctor`: what this host lacks, and how to mend it.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::args::List;
use super::containers::show;
use super::failure::Failure;
use super::view::Table;
use crate::runtime::probe::{self, Fact};

pub fn doctor(arguments: &List) -> Result<ExitCode, Failure> {
    let facts = probe::probe();
    let mut table = Table::new(&["WHAT", "STATE", "DETAIL"]);
    for fact in &facts {
        let state = if fact.ok {
            "ok"
        } else if fact.needed {
            "MISSING"
        } else {
            "absent"
        };
        table.row([fact.what.to_owned(), state.to_owned(), fact.detail.clone()]);
    }
    let value = |fact: &Fact| json!({"what": fact.what, "ok": fact.ok, "needed": fact.needed, "detail": fact.detail});
    let values: Vec<Value> = facts.iter().map(value).collect();
    show(arguments.format.format, &table, &values)?;
    let missing = facts.iter().any(|fact| fact.needed && !fact.ok);
    Ok(if missing { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
