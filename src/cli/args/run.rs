//! The words of `run`, `exec` and `attach`: docker's, flag by flag.

use std::path::PathBuf;

use clap::Args;

use super::PullWhen;

#[derive(Clone, Debug, Default, Args)]
#[command(disable_help_flag = true, override_usage = "stack run|create [OPTIONS] IMAGE [COMMAND] [ARG]...")]
pub struct Run {
    /// Remove the container, and the volumes that only it has, when it ends
    #[arg(long)]
    pub rm: bool,
    /// Pass standard input on to it
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Return once it runs, and print its id
    #[arg(short, long)]
    pub detach: bool,
    /// Join only these of stdin, stdout and stderr
    #[arg(short, long, value_name = "STREAM", conflicts_with = "detach", ignore_case = true,
          value_parser = clap::builder::PossibleValuesParser::new(["stdin", "stdout", "stderr"]))]
    pub attach: Vec<String>,
    /// The keys that leave a terminal without ending what runs there
    #[arg(long, value_name = "KEYS")]
    pub detach_keys: Option<String>,
    /// Pass signals on; not with `--sig-proxy=false`
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true")]
    pub sig_proxy: bool,
    /// Its name; one that nothing else has when absent
    #[arg(long)]
    pub name: Option<String>,
    /// When to ask the registry
    #[arg(long, value_enum, value_name = "WHEN")]
    pub pull: Option<PullWhen>,
    /// For another platform than this host's, such as linux/arm64
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    pub platform: Option<String>,
    /// Write the container's id to this file, which must not be there
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<PathBuf>,
    /// Print nothing but data and errors
    #[arg(short, long)]
    pub quiet: bool,

    #[command(flatten, next_help_heading = "The program")]
    pub program: RunProgram,
    #[command(flatten, next_help_heading = "Files")]
    pub files: RunFiles,
    #[command(flatten, next_help_heading = "Network")]
    pub networking: RunNetwork,
    #[command(flatten, next_help_heading = "Limits")]
    pub limits: RunLimits,
    #[command(flatten, next_help_heading = "Security")]
    pub security: RunSecurity,
    #[command(flatten, next_help_heading = "Life")]
    pub life: RunLife,

    /// Print this help
    #[arg(long, action = clap::ArgAction::Help)]
    pub help: Option<bool>,
    /// The image, by reference or as `builtin:whoami`; then the program's arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "IMAGE [COMMAND] [ARG]")]
    pub words: Vec<String>,
}

impl Run {
    pub fn image(&self) -> &str {
        self.words.first().map(String::as_str).unwrap_or_default()
    }

    pub fn command(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }
}

#[derive(Clone, Debug, Default, Args)]
pub struct RunProgram {
    /// A variable; without a value, the caller's own
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// Variables from a file, one a line
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// The program, instead of the image's own
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// The user to be, and the group
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Further groups
    #[arg(long, value_name = "GROUP")]
    pub group_add: Vec<String>,
    /// The folder to start in
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// A small process 1 that reaps what others leave
    #[arg(long)]
    pub init: bool,
    /// A label
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub label: Vec<String>,
    /// Labels from a file, one a line
    #[arg(long, value_name = "FILE")]
    pub label_file: Vec<PathBuf>,
    /// An annotation of its bundle
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub annotation: Vec<String>,
}

#[derive(Clone, Debug, Default, Args)]
pub struct RunFiles {
    /// A volume by name, or a path of this host
    #[arg(short, long, value_name = "SOURCE:TARGET[:OPTIONS]")]
    pub volume: Vec<String>,
    /// A mount: `type=bind|volume|tmpfs,source=…,target=…[,readonly]`
    #[arg(long, value_name = "KEY=VALUE,…")]
    pub mount: Vec<String>,
    /// All volumes and bind mounts of another container
    #[arg(long, value_name = "CONTAINER[:ro]")]
    pub volumes_from: Vec<String>,
    /// A directory in memory
    #[arg(long, value_name = "TARGET[:OPTIONS]")]
    pub tmpfs: Vec<String>,
    /// Its root file system can't be written to
    #[arg(long)]
    pub read_only: bool,
    /// Size of /dev/shm
    #[arg(long, value_name = "BYTES")]
    pub shm_size: Option<String>,
    /// A device of this host
    #[arg(long, value_name = "SOURCE[:TARGET[:rwm]]")]
    pub device: Vec<String>,
    /// Devices that may be opened, such as `c 42:* rmw`
    #[arg(long, value_name = "RULE")]
    pub device_cgroup_rule: Vec<String>,
}

#[derive(Clone, Debug, Default, Args)]
pub struct RunNetwork {
    /// A network by name, none, host, or container:NAME; several are all joined
    #[arg(long, alias = "net", value_name = "NETWORK")]
    pub network: Vec<String>,
    /// A further name there
    #[arg(long, alias = "net-alias", value_name = "NAME")]
    pub network_alias: Vec<String>,
    /// A port that this host hands on
    #[arg(short, long, value_name = "[[IP:]HOST:]CONTAINER[/PROTOCOL]")]
    pub publish: Vec<String>,
    /// Hand on all ports that the image names, from free ports of this host
    #[arg(short = 'P', long)]
    pub publish_all: bool,
    /// A port that is only told of
    #[arg(long, value_name = "PORT[/PROTOCOL]")]
    pub expose: Vec<String>,
    /// Its host name
    #[arg(short = 'h', long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Its domain name
    #[arg(long, value_name = "NAME")]
    pub domainname: Option<String>,
    /// A line of /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub add_host: Vec<String>,
    /// Another container of its networks, by a further name; it must run
    #[arg(long, value_name = "CONTAINER[:ALIAS]")]
    pub link: Vec<String>,
    /// A name server, instead of this host's
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<String>,
    /// A domain to look names up in
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// An option of the resolver
    #[arg(long, alias = "dns-opt", value_name = "OPTION")]
    pub dns_option: Vec<String>,
    /// Its address in the network
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<String>,
    /// Its address of IPv6 in the network
    #[arg(long, value_name = "ADDRESS")]
    pub ip6: Option<String>,
    /// A further address of it there, that counts on the link alone
    #[arg(long, value_name = "ADDRESS")]
    pub link_local_ip: Vec<String>,
    /// Its hardware address there
    #[arg(long, value_name = "ADDRESS")]
    pub mac_address: Option<String>,
}

/// Limits that hold for the whole container, and can be changed while it runs.
#[derive(Clone, Debug, Default, Args)]
pub struct Limits {
    /// Memory, such as 512m
    #[arg(short, long, value_name = "BYTES")]
    pub memory: Option<String>,
    /// Memory that it is squeezed to when the host needs some
    #[arg(long, value_name = "BYTES")]
    pub memory_reservation: Option<String>,
    /// Memory and swap together; -1 for no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Processors, such as 1.5
    #[arg(long, value_name = "N")]
    pub cpus: Option<String>,
    /// Its weight against others; 1024 is usual
    #[arg(short, long, value_name = "N")]
    pub cpu_shares: Option<u64>,
    /// The processors that it may use, such as 0-2,7
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// The memory nodes that it may use, such as 0-1
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Its weight at disks against others, 10 to 1000; 0 for the usual one
    #[arg(long, value_name = "N")]
    pub blkio_weight: Option<u16>,
    /// Processes and threads; -1 for no limit
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// How much of each period it may use of the processors, in microseconds; -1 for no limit
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub cpu_quota: Option<i64>,
    /// That period, in microseconds
    #[arg(long, value_name = "N")]
    pub cpu_period: Option<u64>,
}

#[derive(Clone, Debug, Default, Args)]
pub struct RunLimits {
    #[command(flatten)]
    pub changeable: Limits,
    /// A limit of each process, such as nofile=1024:2048
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub ulimit: Vec<String>,
    /// How readily the kernel kills it for want of memory, -1000 to 1000
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub oom_score_adj: Option<i32>,
    /// Let it wait for memory, instead of killing something in it (control groups of version 1)
    #[arg(long)]
    pub oom_kill_disable: bool,
    /// How readily its memory goes to the swap, 0 to 100 (control groups of version 1)
    #[arg(long, value_name = "N")]
    pub memory_swappiness: Option<u8>,
    /// The control group that its own is below
    #[arg(long, value_name = "PATH")]
    pub cgroup_parent: Option<String>,
}

#[derive(Clone, Debug, Default, Args)]
pub struct RunSecurity {
    /// A capability more than usual, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_add: Vec<String>,
    /// A capability less, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_drop: Vec<String>,
    /// no-new-privileges, seccomp=FILE, seccomp=unconfined, systempaths=unconfined
    #[arg(long, value_name = "OPTION")]
    pub security_opt: Vec<String>,
    /// All capabilities and devices: as much as root on this host
    #[arg(long)]
    pub privileged: bool,
    /// `host` for the host's ids, `private` to insist on its own; without it, its own wherever that is possible
    #[arg(long, value_name = "host|private")]
    pub userns: Option<String>,
    /// Whose processes it sees
    #[arg(long, value_name = "host|container:NAME")]
    pub pid: Option<String>,
    /// Whose shared memory it uses
    #[arg(long, value_name = "host|private|shareable|container:NAME")]
    pub ipc: Option<String>,
    /// Whose host name it has
    #[arg(long, value_name = "host")]
    pub uts: Option<String>,
    /// Whose control groups it sees
    #[arg(long, value_name = "host|private")]
    pub cgroupns: Option<String>,
    /// A setting of the kernel, in its namespaces only
    #[arg(long, value_name = "KEY=VALUE")]
    pub sysctl: Vec<String>,
}

#[derive(Clone, Debug, Default, Args)]
pub struct RunLife {
    /// Who makes its processes: runc, crun, youki, runsc, a path, or a name of the host's; `stack` is this program
    #[arg(long, value_name = "NAME|PATH")]
    pub runtime: Option<String>,
    /// no, always, unless-stopped, or `on-failure[:N]`
    #[arg(long, default_value = "no", value_name = "POLICY")]
    pub restart: String,
    /// The signal that asks it to end
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<String>,
    /// How long it may take to end before it is killed
    #[arg(long, value_name = "SECONDS")]
    pub stop_timeout: Option<u64>,
    /// A shell command whose exit code 0 means healthy
    #[arg(long, value_name = "COMMAND")]
    pub health_cmd: Option<String>,
    /// Asked by the engine: `http://:8080/health`, `tcp://:5432`, `grpc://:9000/SERVICE`
    #[arg(long, value_name = "URL", conflicts_with = "health_cmd")]
    pub health_probe: Option<String>,
    /// Between two checks
    #[arg(long, value_name = "DURATION")]
    pub health_interval: Option<String>,
    /// How long a check may take
    #[arg(long, value_name = "DURATION")]
    pub health_timeout: Option<String>,
    /// How many checks in a row must fail
    #[arg(long, value_name = "N")]
    pub health_retries: Option<u32>,
    /// How long after its start failures do not count
    #[arg(long, value_name = "DURATION")]
    pub health_start_period: Option<String>,
    /// Between two checks in that time
    #[arg(long, value_name = "DURATION")]
    pub health_start_interval: Option<String>,
    /// No check, whatever the image says
    #[arg(long)]
    pub no_healthcheck: bool,
    /// json-file, local, journald, syslog, or none
    #[arg(long, value_name = "DRIVER")]
    pub log_driver: Option<String>,
    /// What the driver takes, such as max-size=10m
    #[arg(long, value_name = "KEY=VALUE")]
    pub log_opt: Vec<String>,
}

#[derive(Clone, Debug, Args)]
#[command(override_usage = "stack exec [OPTIONS] CONTAINER COMMAND [ARG]...")]
pub struct Exec {
    /// Pass standard input on to it
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Return once it runs
    #[arg(short, long)]
    pub detach: bool,
    /// The keys that leave a terminal without ending what runs there
    #[arg(long, value_name = "KEYS")]
    pub detach_keys: Option<String>,
    /// A variable; without a value, the caller's own
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// Variables from a file, one a line
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// The user to be, and the group
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// The folder to start in
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// All capabilities
    #[arg(long)]
    pub privileged: bool,
    /// The container; then the program and its arguments
    #[arg(
        required = true,
        num_args = 2..,
        trailing_var_arg = true,

        value_name = "CONTAINER COMMAND [ARG]"
    )]
    pub words: Vec<String>,
}

impl Exec {
    pub fn container(&self) -> &str {
        self.words.first().map(String::as_str).unwrap_or_default()
    }

    pub fn command(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }
}

#[derive(Clone, Debug, Args)]
pub struct Attach {
    /// The container's name, or the beginning of its id
    #[arg(value_name = "CONTAINER")]
    pub name: String,
    /// Don't pass standard input on
    #[arg(long)]
    pub no_stdin: bool,
    /// Pass signals on; not with `--sig-proxy=false`
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true")]
    pub sig_proxy: bool,
    /// The keys that leave a terminal without ending what runs there
    #[arg(long, value_name = "KEYS")]
    pub detach_keys: Option<String>,
}
