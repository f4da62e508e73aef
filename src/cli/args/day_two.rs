//! The words of the commands about containers that are there.

use std::ffi::OsString;

use clap::Args;

use super::{FilterArgument, FormatArgument, Limits, List};

#[derive(Clone, Debug, Args)]
pub struct Ps {
    /// Also those that do not run
    #[arg(short, long)]
    pub all: bool,
    /// Only this stack's
    #[arg(short, long, value_name = "NAME")]
    pub project_name: Option<String>,
    /// The last N that were made, whether or not they run
    #[arg(short = 'n', long, value_name = "N")]
    pub last: Option<usize>,
    /// The one that was made last, whether or not it runs
    #[arg(short, long)]
    pub latest: bool,
    /// Also how much each has written to its own layer
    #[arg(short, long)]
    pub size: bool,
    /// Show ids, commands and lists in full
    #[arg(long)]
    pub no_trunc: bool,
    #[command(flatten)]
    pub list: List,
}

#[derive(Clone, Debug, Args)]
pub struct Logs {
    /// Containers, services, stacks or their files; all of this folder's stack when there is none
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Go on as more is written, until all of them have ended
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last N lines of each
    #[arg(short = 'n', long, default_value = "all", value_name = "N")]
    pub tail: String,
    /// From this time on: RFC 3339, seconds since 1970, or an age such as 10m
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Up to this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Show the time of each line
    #[arg(short, long)]
    pub timestamps: bool,
    /// Show the labels and variables that go with each line
    #[arg(long)]
    pub details: bool,
    /// Leave out the names before the lines of several containers
    #[arg(long)]
    pub no_log_prefix: bool,
    /// Don't colour these names
    #[arg(long)]
    pub no_color: bool,
    #[command(flatten)]
    pub format: FormatArgument,
}

#[derive(Clone, Debug, Args)]
pub struct Events {
    /// From this time on, as far as it is remembered: RFC 3339, seconds since 1970, or an age such as 10m; else from now
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Up to this time; else until Ctrl-C
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    #[command(flatten)]
    pub filter: FilterArgument,
    #[command(flatten)]
    pub format: FormatArgument,
}

#[derive(Clone, Debug, Args)]
pub struct Stats {
    /// Containers, services, or stacks; all that run when there is none
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Also those that do not run
    #[arg(short, long)]
    pub all: bool,
    /// Print once, and end
    #[arg(long)]
    pub no_stream: bool,
    /// Show ids in full
    #[arg(long)]
    pub no_trunc: bool,
    #[command(flatten)]
    pub format: FormatArgument,
}

#[derive(Clone, Debug, Args)]
pub struct Top {
    #[command(flatten)]
    pub format: FormatArgument,
    /// The container, or a service that has one
    #[arg(value_name = "CONTAINER")]
    pub name: String,
    /// Which columns, in the words of ps(1): -ef, aux, or -o with a list such as pid,user,rss,args
    #[arg(value_name = "PS OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
    pub options: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub struct PortArguments {
    /// The container, or a service that has one
    #[arg(value_name = "CONTAINER")]
    pub name: String,
    /// Only where this port of the container is found
    #[arg(value_name = "PORT[/PROTOCOL]")]
    pub port: Option<String>,
    #[command(flatten)]
    pub format: FormatArgument,
}

#[derive(Clone, Debug, Args)]
pub struct Start {
    /// Containers, services, stacks or their files; all of this folder's stack when there is none
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Show what it writes until it ends, and exit with its code
    #[arg(short, long)]
    pub attach: bool,
    /// Pass standard input on to it
    #[arg(short, long)]
    pub interactive: bool,
    /// Pass signals on; not with `--sig-proxy=false`
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true")]
    pub sig_proxy: bool,
    /// The keys that leave a terminal without ending what runs there
    #[arg(long, value_name = "KEYS")]
    pub detach_keys: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub struct Stop {
    /// Containers, services, stacks or their files; all of this folder's stack when there is none
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Seconds before the container is killed
    #[arg(short, long, alias = "timeout", value_name = "SECONDS")]
    pub time: Option<u64>,
    /// The signal that asks it to end, instead of its own
    #[arg(short, long)]
    pub signal: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub struct Kill {
    /// Containers, services, or stacks
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// The signal's name or number
    #[arg(short, long, default_value = "KILL")]
    pub signal: String,
}

#[derive(Clone, Debug, Args)]
pub struct Rm {
    /// Containers or services
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Kill it first when it runs; one that is not there is fine
    #[arg(short, long)]
    pub force: bool,
    /// Also remove the volumes that only this container has, those without a name
    #[arg(short, long)]
    pub volumes: bool,
}

#[derive(Clone, Debug, Args)]
pub struct Rename {
    /// The container, or a service that has one
    #[arg(value_name = "CONTAINER")]
    pub name: String,
    /// Its name from now on
    #[arg(value_name = "NEW")]
    pub new: String,
}

#[derive(Clone, Debug, Args)]
pub struct Update {
    /// Containers, services, or stacks
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    #[command(flatten)]
    pub limits: Limits,
    /// no, always, unless-stopped, or `on-failure[:N]`
    #[arg(long, value_name = "POLICY")]
    pub restart: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub struct Diff {
    /// The container, or a service that has one; or the number of a generation
    #[arg(value_name = "CONTAINER|GENERATION")]
    pub name: String,
    /// A further generation: tells what differs between the two
    #[arg(value_name = "GENERATION", requires = "name")]
    pub with: Option<u64>,
    #[command(flatten)]
    pub format: FormatArgument,
}

#[derive(Clone, Debug, Args)]
pub struct Cp {
    /// Keep owners; else copies are the caller's on this host, and root's in a container
    #[arg(short, long)]
    pub archive: bool,
    /// Copy what a link leads to, not the link
    #[arg(short = 'L', long)]
    pub follow_link: bool,
    /// Don't say how much was copied
    #[arg(short, long)]
    pub quiet: bool,
    /// CONTAINER:PATH, a path of this host, or `-` for a tar from standard input
    #[arg(value_name = "SOURCE|-")]
    pub source: OsString,
    /// The same, where it goes to; `-` for a tar to standard output
    #[arg(value_name = "TARGET|-")]
    pub target: OsString,
}

/// `stack container …`: docker's long forms of the commands about containers.
#[derive(Debug, clap::Subcommand)]
pub enum ContainerCommand {
    /// List containers
    #[command(visible_aliases = ["list", "ps"])]
    Ls(Ps),
    /// Make a container from an image and run it
    Run(Box<super::Run>),
    /// Make a container from an image, and don't start it
    Create(Box<super::Run>),
    /// Run a further command in a running container
    Exec(super::Exec),
    /// Join the input and output of a running container
    Attach(super::Attach),
    /// Show what containers wrote
    Logs(Logs),
    /// Show what containers use
    Stats(Stats),
    /// List the processes of a container
    Top(Top),
    /// List the published ports of a container
    Port(PortArguments),
    /// Show everything known about containers
    Inspect(super::InspectOne),
    /// Start stopped containers
    Start(Start),
    /// Stop running containers
    Stop(Stop),
    /// Stop containers and start them again
    Restart(Stop),
    /// Send a signal to containers
    Kill(Kill),
    /// Suspend all processes of containers
    Pause(super::Names),
    /// Let the processes of suspended containers go on
    Unpause(super::Names),
    /// Wait for containers to end, and print their exit codes
    Wait(super::Names),
    /// Give a container another name
    Rename(Rename),
    /// Change limits and the restart policy of containers while they run
    Update(Update),
    /// List the files that a container has added (A), changed (C) and deleted (D)
    Diff(Diff),
    /// Make an image of what one has become
    Commit(super::Commit),
    /// Copy files between containers and this host, whether or not they run
    Cp(Cp),
    /// Remove containers
    #[command(visible_alias = "remove")]
    Rm(Rm),
    /// Remove all stopped containers that belong to no stack
    Prune(super::Prune),
}
