//! The words of the command line. A contract: scripts depend on names, flags and exit codes.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A container engine driven by files.
#[derive(Debug, Parser)]
#[command(name = "stack", version, propagate_version = true, disable_help_subcommand = true)]
pub struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Where images, containers and volumes are kept
    #[arg(long, global = true, env = "STACK_ROOT", default_value = "/var/lib/stack", value_name = "DIR")]
    pub root: PathBuf,
    /// Where sockets, mounts and namespaces are kept until the next boot
    #[arg(long, global = true, env = "STACK_RUN_ROOT", default_value = "/run/stack", value_name = "DIR")]
    pub run_root: PathBuf,
    /// Where the host's configuration is: stack/, docker/daemon.json, certs.d
    #[arg(long, global = true, env = "STACK_ETC", default_value = "/etc", value_name = "DIR", hide = true)]
    pub etc: PathBuf,
    /// Say more; twice for still more
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the host be as the file says
    #[command(visible_alias = "up")]
    Apply(Apply),
    /// Show what apply would do; changes nothing
    Plan(Plan),
    /// Remove a stack's containers and networks; volumes only when asked
    #[command(visible_alias = "down")]
    Destroy(Destroy),
    /// Say whether a stack is as declared: exit 0 yes, 2 no, 1 error
    Status(Status),
    /// Keep converging when the file changes, a container dies, or a timer runs out
    Watch(Watch),
    /// Check a file and say everything that is wrong with it
    Validate(Validate),
    /// List containers
    Ps(Ps),
    /// Show what containers wrote
    Logs(Logs),
    /// Run a command in a running container
    Exec(Exec),
    /// Make a container from an image and run it
    Run(Box<Run>),
    /// Start stopped containers
    Start(Names),
    /// Stop running containers
    Stop(StopArguments),
    /// Stop and start containers
    Restart(StopArguments),
    /// Send a signal to containers
    Kill(Kill),
    /// Remove containers
    Rm(Rm),
    /// Wait for containers to end and print their exit codes
    Wait(Names),
    /// Suspend all processes of containers
    Pause(Names),
    /// Resume suspended containers
    Unpause(Names),
    /// List the processes of a container
    Top(Name),
    /// Show what containers use
    Stats(Stats),
    /// Show everything known about containers, images, networks or volumes, as JSON
    Inspect(Inspect),
    /// Make an image from a Dockerfile
    Build(Box<super::build::Build>),
    /// Fetch images from registries
    Pull(Pull),
    /// Send an image to a registry
    Push(Push),
    /// List images
    Images(Images),
    /// Remove images, or one of several names of an image
    Rmi(Rmi),
    /// Give an image another name
    Tag { image: String, name: String },
    /// Show how an image was made
    History {
        image: String,
        #[command(flatten)]
        format: FormatArgument,
    },
    /// Write images to an archive
    Save(Save),
    /// Take images from a docker or OCI archive
    Load(Load),
    /// Make an image of a root file system: a tar, a directory, or `-`
    Import { source: PathBuf, name: String },
    /// Write a container's whole file system to a tar
    Export(Export),
    /// Tell a registry who you are, from now on
    Login(Login),
    /// Forget a login
    Logout { server: Option<String> },
    /// Images: ls, pull, push, tag, rm, inspect, history, load, save, import, verify, prune
    #[command(subcommand)]
    Image(ImageCommand),
    /// What a registry has: tags, referrers, delete
    #[command(subcommand)]
    Registry(RegistryCommand),
    /// Networks: ls, rm, inspect
    #[command(subcommand)]
    Network(ObjectCommand),
    /// Volumes: ls, rm, inspect
    #[command(subcommand)]
    Volume(ObjectCommand),
    /// The whole engine: df, prune
    #[command(subcommand)]
    System(SystemCommand),
    /// Say what this host lacks and how to mend it
    Doctor(List),
    /// Print a completion script
    Completion { shell: clap_complete::Shell },
    /// Print the version
    Version(List),
}

/// Which file, and how it is read.
#[derive(Clone, Debug, Default, Args)]
pub struct FileArguments {
    /// Files or directories of the stack, `-` for standard input; later ones override earlier ones
    #[arg(value_name = "FILE|DIR|-")]
    pub files: Vec<PathBuf>,
    /// The stack's name
    #[arg(short, long, env = "COMPOSE_PROJECT_NAME", value_name = "NAME")]
    pub project_name: Option<String>,
    /// Enable a profile
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
    /// Show the plan, change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Execute a saved plan; refused when the host has moved since
    #[arg(long, value_name = "FILE")]
    pub plan: Option<PathBuf>,
    /// Return once every container is running and healthy
    #[arg(long)]
    pub wait: bool,
    /// Give up waiting after so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub wait_timeout: Option<u64>,
    /// Only this resource and what it needs
    #[arg(long, value_name = "NAME")]
    pub target: Vec<String>,
    /// How many steps at once
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub parallel: usize,
    /// When to ask the registry
    #[arg(long, value_enum)]
    pub pull: Option<PullWhen>,
    /// Consent; `--yes=volumes` also to the loss of data in volumes
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "steps", value_name = "WHAT")]
    pub yes: Option<Consent>,
    /// Print nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
    /// Accepted for Compose's sake: containers always run on when the command ends
    #[arg(short, long, hide = true)]
    pub detach: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PullWhen {
    Always,
    Missing,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Consent {
    Steps,
    Volumes,
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
    #[arg(long, value_name = "NAME")]
    pub target: Vec<String>,
    #[arg(long, value_enum)]
    pub pull: Option<PullWhen>,
    #[command(flatten)]
    pub format: FormatArgument,
}

#[derive(Clone, Debug, Args)]
pub struct Destroy {
    /// The stack's file or its name; the file of this folder when absent
    #[arg(value_name = "FILE|NAME")]
    pub target: Option<String>,
    #[arg(short, long, env = "COMPOSE_PROJECT_NAME", value_name = "NAME")]
    pub project_name: Option<String>,
    /// Also remove the stack's volumes and the data in them (needs --yes=volumes or an answer)
    #[arg(short, long)]
    pub volumes: bool,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "steps", value_name = "WHAT")]
    pub yes: Option<Consent>,
    #[arg(short, long)]
    pub quiet: bool,
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

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Json,
}

#[derive(Clone, Debug, Default, Args)]
pub struct FormatArgument {
    /// `table` for people, `json` for programs
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

#[derive(Clone, Debug, Args)]
pub struct List {
    #[command(flatten)]
    pub format: FormatArgument,
    /// Print names or ids only
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Clone, Debug, Args)]
pub struct Ps {
    /// Also those that do not run
    #[arg(short, long)]
    pub all: bool,
    /// Only this stack's
    #[arg(short, long, value_name = "NAME")]
    pub project_name: Option<String>,
    #[command(flatten)]
    pub list: List,
}

#[derive(Clone, Debug, Args)]
pub struct Logs {
    /// Containers, or one stack's name
    #[arg(required = true)]
    pub names: Vec<String>,
    /// Go on as more is written
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last N lines
    #[arg(short = 'n', long, default_value = "all", value_name = "N")]
    pub tail: String,
    /// From this time on: RFC 3339, seconds since 1970, or an age such as 10m
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Show the time of each line
    #[arg(short, long)]
    pub timestamps: bool,
}

#[derive(Clone, Debug, Args)]
pub struct Exec {
    #[arg(short, long)]
    pub interactive: bool,
    #[arg(short, long)]
    pub tty: bool,
    #[arg(short, long)]
    pub detach: bool,
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub env: Vec<String>,
    #[arg(short, long)]
    pub user: Option<String>,
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    #[arg(long)]
    pub privileged: bool,
    pub name: String,
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub struct Run {
    /// Remove the container when it ends
    #[arg(long)]
    pub rm: bool,
    #[arg(short, long)]
    pub interactive: bool,
    #[arg(short, long)]
    pub tty: bool,
    #[arg(short, long)]
    pub detach: bool,
    #[arg(long)]
    pub name: Option<String>,
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub env: Vec<String>,
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    #[arg(short, long, value_name = "SOURCE:TARGET[:OPTIONS]")]
    pub volume: Vec<String>,
    #[arg(long)]
    pub tmpfs: Vec<String>,
    #[arg(short, long, value_name = "[IP:]HOST:CONTAINER[/PROTOCOL]")]
    pub publish: Vec<String>,
    #[arg(long, alias = "net")]
    pub network: Option<String>,
    #[arg(long)]
    pub network_alias: Vec<String>,
    #[arg(long)]
    pub hostname: Option<String>,
    #[arg(short, long)]
    pub user: Option<String>,
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    #[arg(long)]
    pub entrypoint: Option<String>,
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    #[arg(short, long, value_name = "BYTES")]
    pub memory: Option<String>,
    #[arg(long)]
    pub cpus: Option<f64>,
    #[arg(long)]
    pub pids_limit: Option<i64>,
    #[arg(long)]
    pub cap_add: Vec<String>,
    #[arg(long)]
    pub cap_drop: Vec<String>,
    #[arg(long)]
    pub security_opt: Vec<String>,
    #[arg(long)]
    pub privileged: bool,
    /// `private` (or `auto`) for a user namespace of its own: root inside is nobody outside
    #[arg(long, value_name = "host|private")]
    pub userns: Option<String>,
    /// Whose processes it sees
    #[arg(long, value_name = "host|container:NAME")]
    pub pid: Option<String>,
    /// Whose shared memory it uses
    #[arg(long, value_name = "host|private|shareable|container:NAME")]
    pub ipc: Option<String>,
    #[arg(long)]
    pub read_only: bool,
    #[arg(long)]
    pub init: bool,
    #[arg(long, default_value = "no")]
    pub restart: String,
    #[arg(long)]
    pub stop_signal: Option<String>,
    #[arg(long, value_name = "SECONDS")]
    pub stop_timeout: Option<u64>,
    #[arg(long, value_enum)]
    pub pull: Option<PullWhen>,
    /// A reference, or `builtin:whoami`
    pub image: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub struct Name {
    pub name: String,
}

#[derive(Clone, Debug, Args)]
pub struct Names {
    #[arg(required = true)]
    pub names: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub struct StopArguments {
    /// Seconds before the container is killed
    #[arg(short, long, alias = "timeout", value_name = "SECONDS")]
    pub time: Option<u64>,
    #[arg(required = true)]
    pub names: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub struct Kill {
    #[arg(short, long, default_value = "KILL")]
    pub signal: String,
    #[arg(required = true)]
    pub names: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub struct Rm {
    /// Kill it first when it runs
    #[arg(short, long)]
    pub force: bool,
    #[arg(required = true)]
    pub names: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub struct Stats {
    pub names: Vec<String>,
    /// Print once (the only form so far)
    #[arg(long)]
    pub no_stream: bool,
    #[command(flatten)]
    pub format: FormatArgument,
}

#[derive(Clone, Debug, Args)]
pub struct Inspect {
    #[arg(required = true)]
    pub names: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub struct Pull {
    #[arg(required = true, value_name = "REFERENCE")]
    pub references: Vec<String>,
    /// Another platform than this host's, as linux/arm64
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    pub platform: Option<String>,
    /// Every tag of the repository
    #[arg(short, long)]
    pub all_tags: bool,
    /// Print the names only
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub format: FormatArgument,
}

#[derive(Clone, Debug, Args)]
pub struct Push {
    pub name: String,
    /// Where to, if not where the name says
    #[arg(value_name = "REFERENCE")]
    pub to: Option<String>,
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub format: FormatArgument,
}

#[derive(Clone, Debug, Args)]
pub struct Images {
    /// Only images of this name; `*` stands for any text
    pub reference: Option<String>,
    /// dangling=true|false, label=KEY[=VALUE], reference=PATTERN, before=IMAGE, since=IMAGE
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub filter: Vec<String>,
    /// Also those that only other images need: there are none, for docker's sake
    #[arg(short, long, hide = true)]
    pub all: bool,
    /// Show the digests by which registries know them
    #[arg(long)]
    pub digests: bool,
    #[command(flatten)]
    pub list: List,
}

#[derive(Clone, Debug, Args)]
pub struct Rmi {
    #[arg(required = true, value_name = "IMAGE")]
    pub names: Vec<String>,
    /// No error where there is no such image
    #[arg(short, long)]
    pub force: bool,
}

#[derive(Clone, Debug, Args)]
pub struct Load {
    /// The archive; standard input where none is given
    #[arg(short, long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// The name to list it under, instead of the archive's own
    #[arg(short, long)]
    pub tag: Option<String>,
    /// Which one of an archive for several platforms
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    pub platform: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ArchiveFormat {
    #[default]
    DockerArchive,
    OciArchive,
}

#[derive(Clone, Debug, Args)]
pub struct Save {
    #[arg(required = true, value_name = "IMAGE")]
    pub names: Vec<String>,
    /// The archive; standard output where none is given
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t)]
    pub format: ArchiveFormat,
}

#[derive(Clone, Debug, Args)]
pub struct Export {
    pub container: String,
    /// The tar; standard output where none is given
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct Login {
    /// The registry; docker.io where none is given
    pub server: Option<String>,
    #[arg(short, long)]
    pub username: Option<String>,
    /// Seen by everybody who lists processes: --password-stdin is better
    #[arg(short, long)]
    pub password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    pub password_stdin: bool,
}

#[derive(Clone, Debug, Args)]
pub struct Verify {
    /// All images where none is given
    #[arg(value_name = "IMAGE")]
    pub names: Vec<String>,
    /// Fetch again what is damaged
    #[arg(long)]
    pub repair: bool,
    #[command(flatten)]
    pub format: FormatArgument,
}

#[derive(Clone, Debug, Args)]
pub struct Prune {
    /// Also images that have a name
    #[arg(short, long)]
    pub all: bool,
    #[arg(short, long)]
    pub force: bool,
}

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    #[command(visible_alias = "list")]
    Ls(Images),
    #[command(visible_alias = "remove")]
    Rm(Rmi),
    Inspect(Inspect),
    Pull(Pull),
    Push(Push),
    Tag {
        image: String,
        name: String,
    },
    History {
        image: String,
        #[command(flatten)]
        format: FormatArgument,
    },
    Load(Load),
    Save(Save),
    Import {
        source: PathBuf,
        name: String,
    },
    /// Hash everything again, and compare what is unpacked
    Verify(Verify),
    /// Remove images that nothing uses
    Prune(Prune),
}

#[derive(Debug, Subcommand)]
pub enum RegistryCommand {
    /// List the tags of a repository
    Tags {
        repository: String,
        #[command(flatten)]
        format: FormatArgument,
    },
    /// List what refers to an image: signatures, attestations
    Referrers {
        reference: String,
        #[command(flatten)]
        format: FormatArgument,
    },
    /// Remove an image from its registry
    Delete { reference: String },
}

#[derive(Debug, Subcommand)]
pub enum ObjectCommand {
    #[command(visible_alias = "list")]
    Ls(List),
    Rm(Names),
    Inspect(Inspect),
}

#[derive(Debug, Subcommand)]
pub enum SystemCommand {
    /// What takes how much disk
    Df(List),
    /// Remove stopped containers of no stack, unused networks and images
    Prune {
        /// Also images that only stopped containers use
        #[arg(short, long)]
        all: bool,
        #[arg(short, long)]
        force: bool,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_words_are_consistent() {
        Arguments::command().debug_assert();
    }
}
