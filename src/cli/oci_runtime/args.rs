//! runc's words.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, FromArgMatches, Parser, Subcommand, ValueEnum};

/// Be an OCI runtime, with runc's words, for other engines
///
/// dockerd, containerd and podman start it for each step of a container's life. A symbolic link or copy of the program
/// with the name `stack-oci-runtime` is the same.
#[derive(Debug, Parser)]
#[command(name = "stack oci-runtime", version, disable_help_subcommand = true,
    after_long_help = crate::cli::args::OCI_EXAMPLES)]
pub struct OciRuntime {
    #[command(flatten)]
    pub options: Options,
    #[command(subcommand)]
    pub command: OciCommand,
}

/// What is said before the command.
#[derive(Debug, Args)]
pub struct Options {
    /// Where containers are known
    #[arg(long, value_name = "DIR", default_value = "/run/stack/oci")]
    pub root: PathBuf,
    /// Where errors and warnings are written, beside standard error
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// How they are written there
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// Write also what is decided
    #[arg(long)]
    pub debug: bool,
    /// Take `cgroupsPath` as systemd's `slice:prefix:name`
    #[arg(long)]
    pub systemd_cgroup: bool,
    /// For runc's callers; without root nothing of it works
    #[arg(long, value_name = "WORD", hide = true)]
    pub rootless: Option<String>,
    /// For runc's callers; there is no criu
    #[arg(long, value_name = "PATH", hide = true)]
    pub criu: Option<PathBuf>,
}

impl OciRuntime {
    /// What the words mean, the first of which is the program. Engines run this for each step of each container, and to set
    /// up the grammar of all commands takes as long as `start` itself: that of the one that is typed is tried first. What is
    /// wrong, and what is asked for help, is told by the whole.
    ///
    /// # Errors
    /// What to print, also where help was asked for.
    pub fn of(words: &[OsString]) -> Result<Self, clap::Error> {
        let matches = alone(words).and_then(|grammar| grammar.try_get_matches_from(words).ok());
        match matches.and_then(|matches| Self::from_arg_matches(&matches).ok()) {
            Some(arguments) => Ok(arguments),
            None => Self::try_parse_from(words),
        }
    }
}

/// The options, and of the commands the first word that is the name of one. A value that reads like a name (`--log start`)
/// chooses wrongly; what was typed is then an error here, and the whole grammar has it.
fn alone(words: &[OsString]) -> Option<clap::Command> {
    let (name, add) = words.iter().skip(1).find_map(|word| by_name(word.to_str()?))?;
    let bare = clap::Command::new("stack oci-runtime").disable_help_subcommand(true).subcommand_required(true);
    Some(Options::augment_args(bare).subcommand(add(clap::Command::new(name))))
}

type Add = fn(clap::Command) -> clap::Command;

/// The commands of a container's life.
fn by_name(word: &str) -> Option<(&'static str, Add)> {
    Some(match word {
        "create" => ("create", Create::augment_args),
        "start" => ("start", Id::augment_args),
        "state" => ("state", Id::augment_args),
        "kill" => ("kill", Kill::augment_args),
        "delete" => ("delete", Delete::augment_args),
        "exec" => ("exec", Exec::augment_args),
        _ => return None,
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum OciCommand {
    /// Make a container; its program waits for `start`
    Create(Create),
    /// Let the program of a container begin
    Start(Id),
    /// Make a container, start it, wait for its end, and remove it
    Run(Run),
    /// Print the state of a container as JSON
    State(Id),
    /// Send a signal to a container
    Kill(Kill),
    /// Remove a container that has ended
    Delete(Delete),
    /// Run a further program in a container
    Exec(Box<Exec>),
    /// Show the processes of a container
    Ps {
        /// `table` or `json`: the numbers alone
        #[arg(short, long, default_value = "table")]
        format: Shape,
        /// The container
        id: String,
        /// Words for ps(1), which is not run
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        rest: Vec<String>,
    },
    /// List containers
    List {
        /// `table` or `json`
        #[arg(short, long, default_value = "table")]
        format: Shape,
        /// Ids only
        #[arg(short, long)]
        quiet: bool,
    },
    /// Write a config.json to begin with
    Spec {
        /// The directory for it
        #[arg(short, long, value_name = "DIR", default_value = ".")]
        bundle: PathBuf,
        /// For an ordinary user, who becomes root of a user namespace
        #[arg(long)]
        rootless: bool,
    },
    /// Print what this program can do, as JSON
    Features,
    /// Change limits of a container
    Update(Box<Update>),
    /// Suspend the processes of a container
    Pause(Id),
    /// Let suspended processes go on
    Resume(Id),
    /// Print what a container uses, as JSON
    Events {
        /// Once, instead of every interval
        #[arg(long)]
        stats: bool,
        /// Seconds, or a duration such as 500ms
        #[arg(long, value_name = "TIME", default_value = "5s")]
        interval: String,
        /// The container
        id: String,
    },
    /// Refused: there is no criu
    #[command(hide = true)]
    Checkpoint {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
    /// Refused: there is no criu
    #[command(hide = true)]
    Restore {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct Id {
    /// The container
    pub id: String,
}

#[derive(Debug, Args)]
pub struct Kill {
    /// To every process of it
    #[arg(short, long)]
    pub all: bool,
    /// The container
    pub id: String,
    /// By name or number
    #[arg(default_value = "TERM")]
    pub signal: String,
}

#[derive(Debug, Args)]
pub struct Delete {
    /// End it first where it runs; one that is not there is fine
    #[arg(short, long)]
    pub force: bool,
    /// The container
    pub id: String,
}

#[derive(Debug, Args)]
pub struct Create {
    /// The directory of config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// A unix socket that is sent the terminal
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// A unix socket that is sent a descriptor of the first process (pidfd_open(2))
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// A file for the number of the first process
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Give this many descriptors beside the standard ones to the program
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u32,
    /// Refused: the root is always changed by pivot_root(2)
    #[arg(long)]
    pub no_pivot: bool,
    /// For runc's callers; every container has a keyring of its own
    #[arg(long, hide = true)]
    pub no_new_keyring: bool,
    /// The container
    pub id: String,
}

#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    pub create: Create,
    /// Return when it runs
    #[arg(short, long)]
    pub detach: bool,
    /// Do not remove it at its end
    #[arg(long)]
    pub keep: bool,
    /// For runc's callers: orphans are left to whoever reaps those of this program
    #[arg(long, hide = true)]
    pub no_subreaper: bool,
}

#[derive(Debug, Args)]
pub struct Exec {
    /// A unix socket that is sent the terminal
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// A unix socket that is sent a descriptor of the process (pidfd_open(2))
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// A file for the number of the process
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// The process as JSON, as in config.json
    #[arg(short, long, value_name = "FILE")]
    pub process: Option<PathBuf>,
    /// The working directory
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// A variable, added to the container's
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub env: Vec<String>,
    /// With a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// The user, by number
    #[arg(short, long, value_name = "UID[:GID]")]
    pub user: Option<String>,
    /// A further group, by number
    #[arg(short = 'g', long, value_name = "GID")]
    pub additional_gids: Vec<u32>,
    /// A further capability
    #[arg(short, long, value_name = "NAME")]
    pub cap: Vec<String>,
    /// The program can gain no rights
    #[arg(long)]
    pub no_new_privs: bool,
    /// Return when it runs
    #[arg(short, long)]
    pub detach: bool,
    /// Give this many descriptors beside the standard ones to the program
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u32,
    /// Also in a container that is suspended: the process, and this command, wait until it goes on
    #[arg(long)]
    pub ignore_paused: bool,
    /// A group below the container's, which is there; of version 1 for these controllers
    #[arg(long, value_name = "[CONTROLLER,…:]PATH")]
    pub cgroup: Vec<String>,
    /// The AppArmor profile
    #[arg(long, value_name = "NAME")]
    pub apparmor: Option<String>,
    /// The SELinux label
    #[arg(long, value_name = "LABEL")]
    pub process_label: Option<String>,
    /// The container
    pub id: String,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Update {
    /// Limits as JSON, as in config.json; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    pub resources: Option<PathBuf>,
    /// Bytes of memory, such as 64m; -1 is unlimited
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = bytes)]
    pub memory: Option<i64>,
    /// Bytes of memory that are kept for it
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = bytes)]
    pub memory_reservation: Option<i64>,
    /// Bytes of memory and swap together
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = bytes)]
    pub memory_swap: Option<i64>,
    /// Refused: kernels do not limit their own memory apart any more
    #[arg(long, value_name = "BYTES", hide = true, value_parser = bytes)]
    pub kernel_memory: Option<i64>,
    /// Bytes of memory for buffers of TCP
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = bytes)]
    pub kernel_memory_tcp: Option<i64>,
    /// Microseconds of each period
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub cpu_quota: Option<i64>,
    /// Microseconds of a period
    #[arg(long, value_name = "TIME")]
    pub cpu_period: Option<u64>,
    /// Microseconds that may be saved up for later periods
    #[arg(long, value_name = "TIME")]
    pub cpu_burst: Option<u64>,
    /// The weight among others, 1024 is usual
    #[arg(long, value_name = "N", alias = "cpu-share")]
    pub cpu_shares: Option<u64>,
    /// 1: only what nobody else wants
    #[arg(long, value_name = "0|1")]
    pub cpu_idle: Option<i64>,
    /// Microseconds of each period for processes in real time
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub cpu_rt_runtime: Option<i64>,
    /// Microseconds of a period for processes in real time
    #[arg(long, value_name = "TIME")]
    pub cpu_rt_period: Option<u64>,
    /// Processors
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// How many processes there may be
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// The weight among others at disks, 10 to 1000
    #[arg(long, value_name = "N")]
    pub blkio_weight: Option<u16>,
    /// Refused: caches of processors are not managed
    #[arg(long, value_name = "TEXT", hide = true)]
    pub l3_cache_schema: Option<String>,
    /// Refused: bandwidth of processors is not managed
    #[arg(long, value_name = "TEXT", hide = true)]
    pub mem_bw_schema: Option<String>,
    /// The container
    pub id: String,
}

/// `67108864`, `64m`, `64MiB`: powers of 1024.
fn bytes(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?}: bytes are meant, such as 67108864 or 64m");
    let lower = text.to_ascii_lowercase();
    let end = lower.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(lower.len());
    let (number, unit) = lower.split_at(end);
    let unit = unit.trim_end_matches("ib").trim_end_matches('b');
    let power = ["", "k", "m", "g", "t"].iter().position(|known| *known == unit).ok_or_else(wrong)?;
    let number: i64 = number.trim().parse().map_err(|_| wrong())?;
    number.checked_mul(1 << (10 * power)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        let all = ["-1", "0", "1024", "64m", "64MiB", "2Gb", "1k", "", "x", "1x", "9999999999g"];
        let found = all.map(|text| bytes(text).ok());
        let expected = [-1, 0, 1024, 64 << 20, 64 << 20, 2 << 30, 1024].map(Some);
        assert_eq!(found[..7], expected);
        assert_eq!(found[7..], [None; 4]);
    }
}
