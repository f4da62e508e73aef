//! The words of the commands about whole stacks.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Consent, FormatArgument, PullWhen};

/// Which file, and how it is read.
#[derive(Clone, Debug, Default, Args)]
pub struct FileArguments {
    /// Files or directories of the stack, `-` for standard input; later ones override earlier ones
    #[arg(value_name = "FILE|DIR|-")]
    pub files: Vec<PathBuf>,
    /// The same, as Compose has it
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub more_files: Vec<PathBuf>,
    /// The stack's name; else `COMPOSE_PROJECT_NAME`, else `name:` in the file, else the folder's name
    #[arg(short, long, value_name = "NAME")]
    pub project_name: Option<String>,
    /// Enable what the file has under this profile
    #[arg(long, value_name = "NAME")]
    pub profile: Vec<String>,
    /// Read variables from this file instead of `.env`
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct Apply {
    #[command(flatten)]
    pub file: FileArguments,
    /// Show the plan and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Execute a saved plan; refused when the host has moved since
    #[arg(long, value_name = "FILE")]
    pub plan: Option<PathBuf>,
    /// Return once every container is running and healthy
    #[arg(long)]
    pub wait: bool,
    /// Wait, and give up after so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub wait_timeout: Option<u64>,
    /// Treat only this resource and what it needs
    #[arg(long, value_name = "NAME")]
    pub target: Vec<String>,
    /// How many steps are taken at once
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub parallel: usize,
    /// So many of this container, whatever the file says; the next apply without it takes that back
    #[arg(long, value_name = "NAME=N")]
    pub scale: Vec<String>,
    /// When to ask the registry, whatever the file says
    #[arg(long, value_enum, value_name = "WHEN")]
    pub pull: Option<PullWhen>,
    /// Refuse a tag that is not in stack.lock, instead of adding it
    #[arg(long)]
    pub locked: bool,
    /// Wait, and when something fails or gets unhealthy go back to the last generation
    #[arg(long, conflicts_with_all = ["dry_run", "target"])]
    pub rollback_on_failure: bool,
    /// Before anything is changed, take a snapshot of the stack's volumes, for `rollback --with-data`
    #[arg(long, conflicts_with = "dry_run")]
    pub snapshot: bool,
    /// Consent to the plan; `--yes=volumes` also to the loss of data in volumes
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "steps", value_name = "WHAT")]
    pub yes: Option<Consent>,
    /// Print nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
    /// Say what is decided; twice for each effect
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Accepted for Compose's sake: containers always run on when the command ends
    #[arg(short, long, hide = true)]
    pub detach: bool,
    /// Accepted for Compose's sake: what is no longer declared is always removed
    #[arg(long, hide = true)]
    pub remove_orphans: bool,
}

#[derive(Clone, Debug, Args)]
pub struct Plan {
    #[command(flatten)]
    pub file: FileArguments,
    /// Write the plan to a file that `apply --plan` executes
    #[arg(short, long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Exit 2 when there is something to do
    #[arg(long)]
    pub detailed_exitcode: bool,
    /// Treat only this resource and what it needs
    #[arg(long, value_name = "NAME")]
    pub target: Vec<String>,
    /// When to ask the registry, whatever the file says
    #[arg(long, value_enum, value_name = "WHEN")]
    pub pull: Option<PullWhen>,
    /// Refuse a tag that is not in stack.lock, instead of adding it
    #[arg(long)]
    pub locked: bool,
    #[command(flatten)]
    pub format: FormatArgument,
    /// Say what is decided; twice for each effect
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Clone, Debug, Args)]
pub struct Destroy {
    #[command(flatten)]
    pub file: FileArguments,
    /// Also remove the stack's volumes and the data in them (needs --yes=volumes, or an answer)
    #[arg(short, long)]
    pub volumes: bool,
    /// With --volumes: delete the data at once, it can't be brought back
    #[arg(long, visible_alias = "no-trash", requires = "volumes")]
    pub now: bool,
    /// Consent to the plan; `--yes=volumes` also to the loss of data in volumes
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "steps", value_name = "WHAT")]
    pub yes: Option<Consent>,
    /// Print nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
    /// Accepted for Compose's sake: everything of the stack is removed anyway
    #[arg(long, hide = true)]
    pub remove_orphans: bool,
}

#[derive(Clone, Debug, Args)]
pub struct Status {
    #[command(flatten)]
    pub file: FileArguments,
    #[command(flatten)]
    pub format: FormatArgument,
}

#[derive(Clone, Debug, Args)]
pub struct Watch {
    #[command(flatten)]
    pub file: FileArguments,
    /// Look at the host at least this often, in seconds
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    pub interval: u64,
    /// Say what is decided; twice for each effect
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Clone, Debug, Args)]
pub struct Validate {
    #[command(flatten)]
    pub file: FileArguments,
    #[command(flatten)]
    pub format: FormatArgument,
    /// Print nothing when the file is good
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Clone, Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_value_name = "WORD",
    subcommand_help_heading = "Kept configs"
)]
pub struct ConfigArguments {
    #[command(subcommand)]
    pub kept: Option<super::ObjectCommand>,
    #[command(flatten)]
    pub file: FileArguments,
    /// As which kind of text
    #[arg(long, value_enum, default_value_t)]
    pub format: TextFormat,
    /// Only whether the file is good
    #[arg(short, long)]
    pub quiet: bool,
    /// Print the names of services instead
    #[arg(long, group = "names")]
    pub services: bool,
    /// Print the images that containers are made from instead
    #[arg(long, group = "names")]
    pub images: bool,
    /// Print the names of networks instead
    #[arg(long, group = "names")]
    pub networks: bool,
    /// Print the names of volumes instead
    #[arg(long, group = "names")]
    pub volumes: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TextFormat {
    #[default]
    Yaml,
    Json,
}

/// Which stack, where it is not that of this folder.
#[derive(Clone, Debug, Default, Args)]
pub struct Which {
    /// A file of the stack
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The stack's name
    #[arg(short, long, value_name = "NAME")]
    pub project_name: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub struct Rollback {
    /// The generation to go back to, as `stack history` lists them; else the one before the last
    #[arg(value_name = "GENERATION")]
    pub generation: Option<u64>,
    #[command(flatten)]
    pub stack: Which,
    /// Also put back the data of volumes, from the snapshots that `apply --snapshot` took
    #[arg(long)]
    pub with_data: bool,
    /// Show the plan and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Return once every container is running and healthy
    #[arg(long)]
    pub wait: bool,
    /// How many steps are taken at once
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub parallel: usize,
    /// Consent to the plan; `--yes=volumes` also to the loss of data in volumes
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "steps", value_name = "WHAT")]
    pub yes: Option<Consent>,
    /// Print nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Clone, Debug, Args)]
pub struct Why {
    /// A container, a service, or `network/back`; else the whole stack
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    #[command(flatten)]
    pub stack: Which,
    /// Only what was done in the last so many times
    #[arg(short = 'n', long, value_name = "N")]
    pub last: Option<usize>,
    #[command(flatten)]
    pub format: FormatArgument,
}
