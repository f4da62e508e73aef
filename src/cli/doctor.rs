//! `doctor`: what this host lacks, and how to mend it.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::args::Show;
use super::failure::Failure;
use super::format::{Column, Format, Listing, Row};
use super::view;
use crate::runtime::probe::{self, Fact};
use crate::runtime::roots::Roots;

const COLUMNS: &[Column] = &[("What", "WHAT"), ("State", "STATE"), ("Detail", "DETAIL")];

pub fn doctor(roots: &Roots, arguments: &Show) -> Result<ExitCode, Failure> {
    let facts = probe::probe(roots, &std::env::var_os("PATH").unwrap_or_default());
    let mut listing = Listing::new(COLUMNS, &["What", "State", "Detail"]);
    for fact in &facts {
        listing.push(row(fact));
    }
    listing.print(&arguments.format.format)?;
    if matches!(arguments.format.format, Format::Table) {
        view::out(&advice(&facts))?;
    }
    let missing = facts.iter().any(|fact| fact.needed && !fact.ok);
    Ok(if missing { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn state(fact: &Fact) -> &'static str {
    match (fact.ok, fact.needed) {
        (true, _) => "ok",
        (false, true) => "MISSING",
        (false, false) => "poor",
    }
}

fn row(fact: &Fact) -> Row {
    let value: Value = json!({"what": fact.what, "ok": fact.ok, "needed": fact.needed, "found": fact.found,
        "means": (!fact.ok).then_some(fact.means), "mend": (!fact.ok).then_some(&fact.mend)});
    let cells = [("What", fact.what.to_owned()), ("State", state(fact).to_owned()), ("Detail", fact.found.clone())];
    Row::new(cells, value)
}

/// What each thing that is not there means, and what to do; then what comes of it all.
fn advice(facts: &[Fact]) -> String {
    let lacking = || facts.iter().filter(|fact| !fact.ok);
    let mut text: String = lacking()
        .map(|fact| format!("\n{}: {}\n  means: {}\n  help: {}\n", fact.what, fact.found, fact.means, fact.mend))
        .collect();
    let needed = lacking().filter(|fact| fact.needed).count();
    text.push_str(match (lacking().count(), needed) {
        (0, _) => "\nContainers run here.\n",
        (_, 0) => "\nContainers run here, with the limits above.\n",
        _ => "\nContainers can't run here until what is MISSING is mended.\n",
    });
    text
}
