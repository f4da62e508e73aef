//! `doctor`: what this host lacks, and how to mend it.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::args::Show;
use super::failure::Failure;
use super::format::{Column, Listing, Row};
use crate::runtime::probe::{self, Fact};

const COLUMNS: &[Column] = &[("What", "WHAT"), ("State", "STATE"), ("Detail", "DETAIL")];

pub fn doctor(arguments: &Show) -> Result<ExitCode, Failure> {
    let facts = probe::probe();
    let mut listing = Listing::new(COLUMNS, &["What", "State", "Detail"]);
    for fact in &facts {
        listing.push(row(fact));
    }
    listing.print(&arguments.format.format)?;
    let missing = facts.iter().any(|fact| fact.needed && !fact.ok);
    Ok(if missing { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn row(fact: &Fact) -> Row {
    let state = match (fact.ok, fact.needed) {
        (true, _) => "ok",
        (false, true) => "MISSING",
        (false, false) => "absent",
    };
    let value: Value = json!({"what": fact.what, "ok": fact.ok, "needed": fact.needed, "detail": fact.detail});
    Row::new([("What", fact.what.to_owned()), ("State", state.to_owned()), ("Detail", fact.detail.clone())], value)
}
