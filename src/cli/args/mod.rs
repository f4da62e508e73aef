//! The words of the command line. A contract: scripts depend on names, flags and exit codes. What is printed by
//! `--help` and in `docs/cli.md` comes from here.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, FromArgMatches, Parser, Subcommand, ValueEnum};

use super::format::Format;

pub use examples::OCI_RUNTIME as OCI_EXAMPLES;

mod day_two;
mod examples;
mod kept_objects;
mod objects;
mod plugin;
mod run;
mod stack;

pub use day_two::*;
pub use kept_objects::*;
pub use objects::*;
pub use plugin::*;
pub use run::*;
pub use stack::*;

/// A container engine that is driven by files.
#[derive(Debug, Parser)]
#[command(name = "stack", version, after_long_help = examples::STACK)]
pub struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

impl Arguments {
    /// What the words mean. The grammar of all commands takes a millisecond to set up: that of the one that is typed is
    /// tried first. What is wrong, and what is asked for help, is told by the whole.
    ///
    /// # Errors
    /// What to print, also where help was asked for.
    pub fn of(words: &[OsString]) -> Result<Self, clap::Error> {
        let typed = words.get(1).and_then(|word| alone(word.to_str()?));
        let matches = typed.and_then(|grammar| grammar.try_get_matches_from(words).ok());
        match matches.and_then(|matches| Self::from_arg_matches(&matches).ok()) {
            Some(arguments) => Ok(arguments),
            None => Self::try_parse_from(words),
        }
    }
}

/// The grammar with this one command, of those that are typed most.
fn alone(word: &str) -> Option<clap::Command> {
    let command = |name: &'static str, add: fn(clap::Command) -> clap::Command| {
        let all = Global::augment_args(clap::Command::new("stack").disable_help_subcommand(true));
        all.subcommand(add(clap::Command::new(name)))
    };
    match word {
        "apply" | "up" => Some(command("apply", |one| Apply::augment_args(one).alias("up"))),
        "plan" => Some(command("plan", Plan::augment_args)),
        "status" => Some(command("status", Status::augment_args)),
        "run" => Some(command("run", Run::augment_args)),
        "exec" => Some(command("exec", Exec::augment_args)),
        "ps" => Some(command("ps", Ps::augment_args)),
        _ => None,
    }
}

#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Where images, containers and volumes are kept; else `STACK_ROOT`, else /var/lib/stack
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Where sockets, mounts and namespaces are kept until the next boot; else `STACK_RUN_ROOT`, else /run/stack
    #[arg(long, global = true, value_name = "DIR")]
    pub run_root: Option<PathBuf>,
    /// Where the host's own configuration is; else `STACK_ETC`, else /etc
    #[arg(long, global = true, value_name = "DIR", hide = true)]
    pub etc: Option<PathBuf>,
    /// Print nothing but data and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say what is decided; twice for each effect
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// A file of the stack, as Compose takes it before the command
    #[arg(short = 'f', long = "file", value_name = "FILE", hide = true)]
    pub files: Vec<PathBuf>,
    /// The stack's name, as Compose takes it before the command
    #[arg(short, long, value_name = "NAME", hide = true)]
    pub project_name: Option<String>,
    /// A profile, as Compose takes it before the command
    #[arg(long, value_name = "NAME", hide = true)]
    pub profile: Vec<String>,
    /// A file of variables, as Compose takes it before the command
    #[arg(long, value_name = "FILE", hide = true)]
    pub env_file: Vec<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the host be as the file says
    #[command(visible_alias = "up", after_long_help = examples::APPLY)]
    Apply(Apply),
    /// Show what apply would do, and change nothing
    #[command(after_long_help = examples::PLAN)]
    Plan(Plan),
    /// Remove a stack's containers and networks, and volumes only when asked
    #[command(visible_alias = "down", after_long_help = examples::DESTROY)]
    Destroy(Destroy),
    /// Say whether a stack is as declared: exit 0 yes, 2 no, 1 error
    #[command(after_long_help = examples::STATUS)]
    Status(Status),
    /// Keep converging when the file changes, a container dies, or a timer runs out
    #[command(after_long_help = examples::WATCH)]
    Watch(Watch),
    /// Check a file and say everything that is wrong with it
    #[command(after_long_help = examples::VALIDATE)]
    Validate(Validate),
    /// Print the file as it is understood: merged, with variables and extensions replaced; or, with one of the words below,
    /// configs that the engine keeps for stacks that say `external`
    #[command(after_long_help = examples::CONFIG)]
    Config(ConfigArguments),
    /// Print the JSON Schema of stack.yaml, for editors
    #[command(after_long_help = examples::SCHEMA)]
    Schema,
    /// Make a container from an image and run it
    #[command(after_long_help = examples::RUN)]
    Run(Box<Run>),
    /// Make a container from an image, and don't start it
    #[command(after_long_help = examples::CREATE)]
    Create(Box<Run>),
    /// Run a further command in a running container
    #[command(after_long_help = examples::EXEC)]
    Exec(Exec),
    /// Join the input and output of a running container
    #[command(after_long_help = examples::ATTACH)]
    Attach(Attach),
    /// List containers
    #[command(after_long_help = examples::PS)]
    Ps(Ps),
    /// Show what containers wrote
    #[command(after_long_help = examples::LOGS)]
    Logs(Logs),
    /// Show what happens to containers, networks, volumes and images, as it happens
    #[command(after_long_help = examples::EVENTS)]
    Events(Events),
    /// Show what containers use, live on a terminal
    #[command(after_long_help = examples::STATS)]
    Stats(Stats),
    /// List the processes of a container
    #[command(after_long_help = examples::TOP)]
    Top(Top),
    /// List the published ports of a container
    #[command(after_long_help = examples::PORT)]
    Port(PortArguments),
    /// Show everything known about containers, images, networks or volumes
    #[command(after_long_help = examples::INSPECT)]
    Inspect(Inspect),
    /// Start stopped containers
    #[command(after_long_help = examples::START)]
    Start(Start),
    /// Stop running containers: by their signal, and when their time is up by force
    #[command(after_long_help = examples::STOP)]
    Stop(Stop),
    /// Stop containers and start them again
    #[command(after_long_help = examples::RESTART)]
    Restart(Stop),
    /// Send a signal to containers
    #[command(after_long_help = examples::KILL)]
    Kill(Kill),
    /// Suspend all processes of containers
    #[command(after_long_help = examples::PAUSE)]
    Pause(Names),
    /// Let the processes of suspended containers go on
    #[command(after_long_help = examples::UNPAUSE)]
    Unpause(Names),
    /// Wait for containers to end, and print their exit codes
    #[command(after_long_help = examples::WAIT)]
    Wait(Names),
    /// Give a container another name
    #[command(after_long_help = examples::RENAME)]
    Rename(Rename),
    /// Change limits and the restart policy of containers while they run
    #[command(after_long_help = examples::UPDATE)]
    Update(Update),
    /// List the files that a container has added (A), changed (C) and deleted (D)
    #[command(after_long_help = examples::DIFF)]
    Diff(Diff),
    /// Copy files between containers and this host, whether or not they run
    #[command(after_long_help = examples::CP)]
    Cp(Cp),
    /// Remove containers
    #[command(after_long_help = examples::RM)]
    Rm(Rm),
    /// Make an image from a Dockerfile
    #[command(after_long_help = examples::BUILD)]
    Build(Box<super::build::Build>),
    /// Fetch images from registries
    #[command(after_long_help = examples::PULL)]
    Pull(Pull),
    /// Send an image to a registry
    #[command(after_long_help = examples::PUSH)]
    Push(Push),
    /// List images
    #[command(after_long_help = examples::IMAGES)]
    Images(Images),
    /// Remove images, or one of several names of an image
    #[command(after_long_help = examples::RMI)]
    Rmi(ImageRm),
    /// Give an image a further name
    #[command(after_long_help = examples::TAG)]
    Tag(Tag),
    /// Show the generations of a stack, or how an image was made, the last step first
    #[command(after_long_help = examples::HISTORY)]
    History(History),
    /// Make a stack be as it was in an earlier generation
    #[command(after_long_help = examples::ROLLBACK)]
    Rollback(Rollback),
    /// Tell what was done to a stack or to one thing of it: when, by whom, for which cause
    #[command(after_long_help = examples::WHY)]
    Why(Why),
    /// Write images to an archive
    #[command(after_long_help = examples::SAVE)]
    Save(Save),
    /// Take images from a docker or OCI archive
    #[command(after_long_help = examples::LOAD)]
    Load(Load),
    /// Make an image of a root file system
    #[command(after_long_help = examples::IMPORT)]
    Import(Import),
    /// Write a container's whole file system to a tar
    #[command(after_long_help = examples::EXPORT)]
    Export(Export),
    /// Make an image of what a container has become
    #[command(after_long_help = examples::COMMIT)]
    Commit(Commit),
    /// Tell a registry who you are, from now on
    #[command(after_long_help = examples::LOGIN)]
    Login(Login),
    /// Forget a login
    #[command(after_long_help = examples::LOGOUT)]
    Logout {
        /// The registry; docker.io when absent
        #[arg(value_name = "REGISTRY")]
        server: Option<String>,
    },
    /// Containers, with all of their commands
    #[command(subcommand)]
    Container(ContainerCommand),
    /// Images, with all of their commands
    #[command(subcommand)]
    Image(ImageCommand),
    /// What a registry has: its tags, what refers to an image
    #[command(subcommand)]
    Registry(RegistryCommand),
    /// Networks: list, make, look at, remove
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Volumes: list, make, look at, remove
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Secrets that the engine keeps for stacks that say `external`: make, list, look at, remove
    #[command(subcommand)]
    Secret(ObjectCommand),
    /// Plugins that this engine runs: install, look at, enable, disable, remove
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// The engine as a whole: what it takes on disk, and what of that is of no use
    #[command(subcommand)]
    System(SystemCommand),
    /// Say what this host lacks, and how to mend it: exit 1 where containers can't run
    #[command(after_long_help = examples::DOCTOR)]
    Doctor(Show),
    /// Print a completion script for a shell
    #[command(after_long_help = examples::COMPLETION)]
    Completion {
        /// The shell that the script is for
        shell: super::completion::Shell,
    },
    /// Be an OCI runtime, with runc's words, for other engines
    #[command(after_long_help = examples::OCI_RUNTIME)]
    OciRuntime {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// What may stand at the cursor; for the scripts of `completion`
    #[command(hide = true)]
    Complete {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Print the version of this program, and what the host's kernel has
    #[command(after_long_help = examples::VERSION)]
    Version(Show),
}

impl Command {
    /// The files that it reads, where it reads some.
    pub fn file(&mut self) -> Option<&mut FileArguments> {
        match self {
            Self::Apply(arguments) => Some(&mut arguments.file),
            Self::Plan(arguments) => Some(&mut arguments.file),
            Self::Destroy(arguments) => Some(&mut arguments.file),
            Self::Status(arguments) => Some(&mut arguments.file),
            Self::Watch(arguments) => Some(&mut arguments.file),
            Self::Validate(arguments) => Some(&mut arguments.file),
            Self::Config(arguments) => Some(&mut arguments.file),
            _ => None,
        }
    }

    /// How often `-v` was typed after it.
    pub fn verbose(&self) -> u8 {
        match self {
            Self::Apply(arguments) => arguments.verbose,
            Self::Plan(arguments) => arguments.verbose,
            Self::Watch(arguments) => arguments.verbose,
            _ => 0,
        }
    }
}

/// How results are shown, where there is nothing to leave out.
#[derive(Clone, Debug, Default, Args)]
pub struct Show {
    #[command(flatten)]
    pub format: FormatArgument,
}

#[derive(Clone, Debug, Default, Args)]
pub struct FormatArgument {
    /// `table`, `json`, or a Go template such as `{{.Name}}` or `table {{.Name}}\t{{.Status}}`
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    pub format: Format,
}

/// Which of them.
#[derive(Clone, Debug, Default, Args)]
pub struct FilterArgument {
    /// Only those for which this holds; several values of one key are alternatives
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub filter: Vec<String>,
}

/// What every list takes.
#[derive(Clone, Debug, Args)]
pub struct List {
    /// Print only ids, or names where there are no ids
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub filter: FilterArgument,
    #[command(flatten)]
    pub format: FormatArgument,
}

#[derive(Clone, Debug, Args)]
pub struct Names {
    /// Containers or services
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PullWhen {
    /// Ask the registry even where the image is here
    Always,
    /// Ask it where the image is not here
    Missing,
    /// Fail where the image is not here
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Consent {
    /// To all steps that lose no data
    Steps,
    /// Also to the loss of data in volumes
    Volumes,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_words_are_consistent() {
        Arguments::command().debug_assert();
        for word in ["apply", "up", "plan", "status", "run", "exec", "ps"] {
            alone(word).unwrap().debug_assert();
        }
    }

    fn words_of(line: &str) -> Vec<OsString> {
        ["stack"].into_iter().chain(line.split(' ')).map(OsString::from).collect()
    }

    /// The words of a line as a shell reads them: what stands in quotes is no place to split at.
    fn words(line: &str) -> Vec<String> {
        let mut words = vec![String::new()];
        let mut quote = None;
        for c in line.chars() {
            match (quote, c) {
                (Some(open), c) if c == open => quote = None,
                (None, '\'' | '"') => quote = Some(c),
                (None, c) if c.is_whitespace() => words.push(String::new()),
                (_, c) => words.last_mut().unwrap().push(c),
            }
        }
        words.retain(|word| !word.is_empty());
        words
    }

    /// Every command shows how it is used, and what it shows is understood.
    #[test]
    fn examples_are_understood() {
        for command in Arguments::command()
            .get_subcommands()
            .filter(|command| !command.has_subcommands() && !command.is_hide_set())
        {
            let name = command.get_name();
            let text = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
            let lines: Vec<&str> =
                text.lines().filter(|line| line.starts_with("  ") && line.contains("stack ")).collect();
            assert!(lines.iter().any(|line| line.contains(name)), "`stack {name} --help` has no example");
            for line in lines.iter().flat_map(|line| line.split("||")).flat_map(|line| line.split(" | ")) {
                // What comes after two spaces is the remark.
                let line = line.trim().split("  ").next().unwrap_or_default();
                let line = line.split(['<', '>']).next().unwrap_or_default().trim_end();
                if line.starts_with("stack ")
                    && let Err(error) = Arguments::try_parse_from(words(line))
                {
                    panic!("{line}: {error}");
                }
            }
        }
    }

    /// Whatever follows the image is the program's own, however much it looks like a flag of ours.
    #[test]
    fn what_follows_the_image_belongs_to_the_program() {
        for (line, words) in [
            ("run -it --rm alpine ls -l --rm", vec!["alpine", "ls", "-l", "--rm"]),
            ("run alpine --version", vec!["alpine", "--version"]),
            ("run -d --name x alpine -h", vec!["alpine", "-h"]),
            ("exec -it box sh -c true", vec!["box", "sh", "-c", "true"]),
            ("exec box --help", vec!["box", "--help"]),
        ] {
            let parsed = Arguments::of(&words_of(line)).unwrap_or_else(|error| panic!("{line}: {error}"));
            let found = match parsed.command {
                Command::Run(run) => run.words,
                Command::Exec(exec) => exec.words,
                _ => unreachable!(),
            };
            assert_eq!(found, words, "{line}");
        }
    }

    /// What fingers type after years of other engines.
    #[test]
    fn lines_of_docker_and_compose_are_understood() {
        for line in [
            "up -d",
            "-f compose.yaml up -d",
            "-f a.yaml -f b.yaml -p shop up -d --remove-orphans",
            "up -f compose.yaml",
            "down -v --remove-orphans",
            "ps -aq --no-trunc",
            "ps -a -f status=exited -f label=x=y",
            "ps -n 3",
            "ps -l -s",
            "logs -f --tail=10 -t web",
            "logs -n 10 web",
            "rm -fv a b",
            "stop -t 3 a",
            "stop --time 3 a",
            "restart -t 0 a",
            "kill -s HUP a",
            "run -h name -it --rm -v /a:/b:ro -p 80:80 -P -e A=1 -e B -w /x -u 1:2 -m 64m --cpus .5 alpine",
            "run --memory-swap -1 --oom-score-adj -500 --pids-limit -1 alpine",
            "run --net host --pid host --ipc host alpine",
            "run --mount type=bind,src=/a,dst=/b alpine",
            "run --ulimit nofile=1024:2048 --sysctl net.core.somaxconn=1 --device /dev/fuse alpine",
            "run --health-cmd true --health-interval 1s --health-retries 2 --no-healthcheck alpine",
            "run --log-driver json-file --log-opt max-size=1m alpine",
            "inspect -f {{.State.Status}} a",
            "inspect --type container a",
            "images --digests --no-trunc -q",
            "images nginx",
            "rmi -f a b",
            "image prune -a -f",
            "image ls",
            "container ls -a",
            "container prune -f",
            "container run --rm alpine true",
            "volume create data",
            "volume create -d local -o type=tmpfs -o device=tmpfs --label a=b data",
            "volume rm a b",
            "volume prune -f",
            "network create --subnet 10.1.0.0/24 --internal back",
            "network prune -f --filter until=1h",
            "system df -v",
            "system prune -af --volumes",
            "stats --no-stream a b",
            "top a",
            "port a 80/tcp",
            "start -a -i a",
            "logs",
            "restart",
            "stop -t 1",
            "rename a b",
            "update --memory 1g --cpus 2 --restart always a b",
            "update -m 1g --memory-swap -1 a",
            "diff a",
            "events --since 10m --until 0s -f type=container --filter event=die --format json",
            "cp a:/b .",
            "cp -aqL ./x a:/b/",
            "cp - a:/b",
            "config --services",
            "-f a.yaml config -q",
            "help apply",
            "version --format {{.version}}",
            "completion bash",
        ] {
            let told = |parsed: Result<Arguments, clap::Error>| match parsed {
                Err(error) if error.use_stderr() => panic!("{line}: {error}"),
                other => format!("{:?}", other.ok()),
            };
            // The grammar of the command alone says the same, where there is one.
            assert_eq!(told(Arguments::of(&words_of(line))), told(Arguments::try_parse_from(words_of(line))));
        }
    }
}
