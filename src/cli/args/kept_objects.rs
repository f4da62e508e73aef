//! The words of `stack secret` and `stack config`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{InspectOne, List, ObjectNames};

/// What is done with configs or secrets that the engine keeps for stacks that say `external`.
#[derive(Clone, Debug, Subcommand)]
pub enum ObjectCommand {
    /// Keep the content of a file, or of standard input, under a name; prints the id
    Create(ObjectCreate),
    /// List what is kept
    #[command(visible_alias = "list")]
    Ls(List),
    /// Show everything known about them; never what a secret holds
    Inspect(InspectOne),
    /// Forget those that no container uses
    #[command(visible_alias = "remove")]
    Rm(ObjectNames),
}

#[derive(Clone, Debug, Args)]
pub struct ObjectCreate {
    /// The name that stacks know it by
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Where the content is, at most 1 MiB; `-` is standard input
    #[arg(value_name = "FILE|-")]
    pub file: PathBuf,
    /// A label, NAME=VALUE
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub label: Vec<String>,
    /// Where there is one of this name: give it this content, which the next apply brings to its containers
    #[arg(long)]
    pub replace: bool,
}
