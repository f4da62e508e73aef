//! The words of the commands about images, networks, volumes, and the engine as a whole.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{FormatArgument, List, Which};

#[derive(Clone, Debug, Args)]
pub struct Inspect {
    /// What to look at, by name or the beginning of an id
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// `json`, or a Go template such as `{{.State.Status}}`
    #[arg(short, long, value_name = "FORMAT", default_value = "json")]
    pub format: String,
    /// Look among these only
    #[arg(long = "type", value_enum, value_name = "KIND")]
    pub kind: Option<Kind>,
    /// Also how much a container has written to its own layer
    #[arg(short, long)]
    pub size: bool,
}

/// As [`Inspect`], of one kind.
#[derive(Clone, Debug, Args)]
pub struct InspectOne {
    /// What to look at, by name or the beginning of an id
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// `json`, or a Go template such as `{{.Name}}`
    #[arg(short, long, value_name = "FORMAT", default_value = "json")]
    pub format: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Container,
    Image,
    Network,
    Volume,
}

#[derive(Clone, Debug, Args)]
pub struct Pull {
    /// References of images: `[REGISTRY/]NAME[:TAG][@DIGEST]`; with --update the files of a stack
    #[arg(required_unless_present = "update", value_name = "IMAGE")]
    pub references: Vec<String>,
    /// Ask the registries what the tags of a stack stand for now, fetch that, and write it to its stack.lock
    #[arg(long, conflicts_with_all = ["platform", "all_tags"])]
    pub update: bool,
    /// With --update: the stack's images under this profile, too
    #[arg(long, value_name = "NAME", requires = "update")]
    pub profile: Vec<String>,
    /// With --update: read variables from this file instead of `.env`
    #[arg(long, value_name = "FILE", requires = "update")]
    pub env_file: Vec<PathBuf>,
    /// For another platform than this host's, such as linux/arm64
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    pub platform: Option<String>,
    /// Every tag of the repository
    #[arg(short, long)]
    pub all_tags: bool,
    /// Show no progress, and print the names only
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub format: FormatArgument,
}

#[derive(Clone, Debug, Args)]
pub struct Push {
    /// An image that is here
    #[arg(value_name = "IMAGE")]
    pub name: String,
    /// Where to, if not where its name says
    #[arg(value_name = "REFERENCE")]
    pub to: Option<String>,
    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub format: FormatArgument,
}

#[derive(Clone, Debug, Args)]
pub struct Images {
    /// Only images of this name, with or without a tag; `*` stands for anything
    #[arg(value_name = "NAME[:TAG]")]
    pub name: Option<String>,
    /// Accepted for docker's sake: there are no hidden images
    #[arg(short, long, hide = true)]
    pub all: bool,
    /// Also the digests that registries know them by
    #[arg(long)]
    pub digests: bool,
    /// Show ids in full
    #[arg(long)]
    pub no_trunc: bool,
    #[command(flatten)]
    pub list: List,
}

#[derive(Clone, Debug, Args)]
pub struct ImageRm {
    /// Names of images, or the beginnings of their ids
    #[arg(required = true, value_name = "IMAGE")]
    pub names: Vec<String>,
    /// One that is not there is fine
    #[arg(short, long)]
    pub force: bool,
}

#[derive(Clone, Debug, Args)]
pub struct Tag {
    /// An image that is here
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// The further name
    #[arg(value_name = "NAME[:TAG]")]
    pub name: String,
}

#[derive(Clone, Debug, Args)]
pub struct Import {
    /// A tar of a root file system, a directory, or `-` for a tar from standard input
    #[arg(value_name = "FILE|DIR|-")]
    pub source: PathBuf,
    /// The image's name
    #[arg(value_name = "NAME[:TAG]")]
    pub name: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ArchiveFormat {
    #[default]
    DockerArchive,
    OciArchive,
}

#[derive(Clone, Debug, Args)]
pub struct Save {
    /// Images that are here
    #[arg(required = true, value_name = "IMAGE")]
    pub names: Vec<String>,
    /// The archive; standard output when absent
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Which kind of archive
    #[arg(long, value_enum, default_value_t)]
    pub format: ArchiveFormat,
}

#[derive(Clone, Debug, Args)]
pub struct Commit {
    /// The container's name, or the beginning of its id
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// The image's name; it is listed under its id when absent
    #[arg(value_name = "NAME[:TAG]")]
    pub name: Option<String>,
    /// Who made it
    #[arg(short, long)]
    pub author: Option<String>,
    /// What it is for
    #[arg(short, long, value_name = "TEXT")]
    pub message: Option<String>,
    /// How it is run, as a line of a Dockerfile; can be given several times
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    pub changes: Vec<String>,
    /// Suspend the container meanwhile
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    pub pause: bool,
}

#[derive(Clone, Debug, Args)]
pub struct Export {
    /// The container's name, or the beginning of its id
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// The tar; standard output when absent
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct Login {
    /// The registry; docker.io when absent
    #[arg(value_name = "REGISTRY")]
    pub server: Option<String>,
    /// Who you are there
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
    /// Images that are here; all when there is none
    #[arg(value_name = "IMAGE")]
    pub names: Vec<String>,
    /// Fetch again what is damaged
    #[arg(long)]
    pub repair: bool,
    #[command(flatten)]
    pub format: FormatArgument,
}

#[derive(Debug, Subcommand)]
pub enum RegistryCommand {
    /// List the tags of a repository
    Tags {
        /// `[REGISTRY/]NAME`
        repository: String,
        #[command(flatten)]
        format: FormatArgument,
    },
    /// List what refers to an image: signatures, attestations
    Referrers {
        /// The image there
        reference: String,
        #[command(flatten)]
        format: FormatArgument,
    },
    /// Remove an image from its registry
    Delete {
        /// The image there
        reference: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// List images
    #[command(visible_alias = "list")]
    Ls(Images),
    /// Fetch images from registries
    Pull(Pull),
    /// Send an image to a registry
    Push(Push),
    /// Give an image a further name
    Tag(Tag),
    /// Show everything known about images
    Inspect(InspectOne),
    /// Show how an image was made, the last step first
    History(History),
    /// Take images from a docker or OCI archive
    Load(Load),
    /// Write images to an archive
    Save(Save),
    /// Make an image of a root file system
    Import(Import),
    /// Hash everything again, and compare what is unpacked
    Verify(Verify),
    /// Remove images, or one of several names of an image
    #[command(visible_alias = "remove")]
    Rm(ImageRm),
    /// Remove images without a name that no container uses; all with --all
    Prune(ImagePrune),
}

#[derive(Clone, Debug, Args)]
pub struct Load {
    /// The archive; standard input when absent
    #[arg(short, long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// The name to list it under, instead of those in the archive
    #[arg(short, long, value_name = "NAME")]
    pub tag: Option<String>,
    /// Which one of an archive for several platforms
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    pub platform: Option<String>,
    /// Show no progress, and print the names only
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub format: FormatArgument,
}

#[derive(Clone, Debug, Args)]
pub struct History {
    /// The image's name, or the beginning of its id; without one: the generations of a stack
    #[arg(value_name = "IMAGE")]
    pub name: Option<String>,
    #[command(flatten)]
    pub stack: Which,
    /// Show commands in full
    #[arg(long)]
    pub no_trunc: bool,
    #[command(flatten)]
    pub format: FormatArgument,
}

#[derive(Clone, Debug, Args)]
pub struct ObjectNames {
    /// Their names
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// One that is not there is fine
    #[arg(short, long)]
    pub force: bool,
}

#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// List networks
    #[command(visible_alias = "list")]
    Ls(List),
    /// Make a network that belongs to no stack
    Create(NetworkCreate),
    /// Show everything known about networks
    Inspect(InspectOne),
    /// Show what of containers can be reached from where, and what the host's firewall does about it
    Exposure(NetworkExposure),
    /// Connect a container to a network, while it runs or for when it starts
    Connect(NetworkConnect),
    /// Disconnect a container from a network
    Disconnect(NetworkDisconnect),
    /// Remove networks that no container uses
    #[command(visible_alias = "remove")]
    Rm(ObjectNames),
    /// Remove all networks that no container uses and that belong to no stack
    Prune(Prune),
}

#[derive(Clone, Debug, Args)]
pub struct NetworkCreate {
    /// The network's name
    pub name: String,
    /// Its addresses, such as 10.1.2.0/24 or fd00:1::/64, one range of each family at most; free ones when absent
    #[arg(long, value_name = "SUBNET")]
    pub subnet: Vec<String>,
    /// This host's address in one of them; the first when absent
    #[arg(long, value_name = "ADDRESS")]
    pub gateway: Vec<String>,
    /// The part of a subnet that containers get their addresses from
    #[arg(long, value_name = "SUBNET")]
    pub ip_range: Vec<String>,
    /// An address that somebody else has, by what it is for
    #[arg(long, value_name = "NAME=ADDRESS")]
    pub aux_address: Vec<String>,
    /// Whether it has IPv6; one with such a subnet has it anyway
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub ipv6: bool,
    /// Whether it has IPv4
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub ipv4: bool,
    /// Containers made by hand may join it, which they always may
    #[arg(long)]
    pub attachable: bool,
    /// No way in or out, but between its containers
    #[arg(long)]
    pub internal: bool,
    /// `bridge`, `macvlan`, `ipvlan` or `cni`
    #[arg(short, long, default_value = "bridge")]
    pub driver: String,
    /// Options of the driver: `parent=eth0`, `com.docker.network.driver.mtu=1400`
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub opt: Vec<String>,
    /// Labels, to find it by
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub struct NetworkExposure {
    #[command(flatten)]
    pub format: FormatArgument,
}

#[derive(Clone, Debug, Args)]
pub struct NetworkConnect {
    /// The network's name
    pub network: String,
    /// The container's name, or the beginning of its id
    pub container: String,
    /// Its address there; a free one when absent
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<String>,
    /// A further name by which others in the network find it
    #[arg(long, value_name = "NAME")]
    pub alias: Vec<String>,
    /// The network with the highest gives the default route
    #[arg(long, value_name = "NUMBER", default_value_t = 0, allow_negative_numbers = true)]
    pub gw_priority: i64,
    /// Options of its place: `com.docker.network.endpoint.ifname=NAME`
    #[arg(long, value_name = "KEY=VALUE")]
    pub driver_opt: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub struct NetworkDisconnect {
    /// The network's name
    pub network: String,
    /// The container's name, or the beginning of its id
    pub container: String,
    /// Also what is left of a container that is not there any more
    #[arg(short, long)]
    pub force: bool,
}

#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(VolumeList),
    /// Make a volume that belongs to no stack
    Create(VolumeCreate),
    /// Show everything known about volumes
    Inspect(InspectOne),
    /// Remove volumes that no container uses; for some time they can be brought back
    #[command(visible_alias = "remove")]
    Rm(VolumeRm),
    /// Bring back a volume that was removed
    Undelete(VolumeUndelete),
    /// Keep what a volume holds now
    Snapshot(VolumeSnapshot),
    /// List snapshots
    LsSnapshots(VolumeSnapshots),
    /// Forget snapshots; the volume stays as it is
    RmSnapshot(VolumeRmSnapshot),
    /// Put back what a snapshot has; what the volume holds now goes into the trash
    Restore(VolumeRestore),
    /// Make a volume with what another one holds
    Clone(VolumeClone),
    /// Write what a volume holds as a tar archive
    Export(VolumeExport),
    /// Make a volume from a tar archive
    Import(VolumeImport),
    /// Remove volumes without a name that no container uses; all of no stack with --all
    Prune(VolumePrune),
}

#[derive(Clone, Debug, Args)]
pub struct VolumeList {
    /// Also how much each takes on disk
    #[arg(short, long)]
    pub size: bool,
    /// Those that were removed and can be brought back
    #[arg(long, conflicts_with_all = ["size", "filter"])]
    pub trash: bool,
    #[command(flatten)]
    pub list: List,
}

#[derive(Clone, Debug, Args)]
pub struct VolumeRm {
    #[command(flatten)]
    pub objects: ObjectNames,
    /// Delete the data at once: it can't be brought back
    #[arg(long, visible_alias = "no-trash")]
    pub now: bool,
}

#[derive(Clone, Debug, Args)]
pub struct VolumeUndelete {
    /// Its name, which means the one that was removed last, or its id in the trash
    #[arg(value_name = "NAME|ID")]
    pub name: String,
    /// Give it another name
    #[arg(long = "as", value_name = "NAME")]
    pub new: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub struct VolumeSnapshot {
    /// The volume
    pub volume: String,
    /// The snapshot's name; the date and time (UTC) when absent
    pub name: Option<String>,
    /// Suspend the containers that use the volume meanwhile
    #[arg(long)]
    pub pause: bool,
    /// Take what is there while containers go on writing
    #[arg(long, conflicts_with = "pause")]
    pub live: bool,
    /// Consent to a copy where the file system can't share blocks
    #[arg(short, long)]
    pub yes: bool,
}

#[derive(Clone, Debug, Args)]
pub struct VolumeSnapshots {
    /// Of these volumes; of all when absent
    #[arg(value_name = "VOLUME")]
    pub names: Vec<String>,
    #[command(flatten)]
    pub format: FormatArgument,
}

#[derive(Clone, Debug, Args)]
pub struct VolumeRmSnapshot {
    /// The volume
    pub volume: String,
    /// The snapshots
    #[arg(required = true, value_name = "SNAPSHOT")]
    pub names: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub struct VolumeRestore {
    /// The volume; no container that uses it may run
    pub volume: String,
    /// The snapshot
    pub snapshot: String,
    /// Consent to a copy where the file system can't share blocks
    #[arg(short, long)]
    pub yes: bool,
}

#[derive(Clone, Debug, Args)]
pub struct VolumeClone {
    /// The volume
    pub volume: String,
    /// The new volume's name
    #[arg(value_name = "NEW")]
    pub new: String,
    /// What this snapshot has, not what the volume holds now
    #[arg(long, value_name = "NAME")]
    pub snapshot: Option<String>,
    /// Consent to a copy where the file system can't share blocks
    #[arg(short, long)]
    pub yes: bool,
}

#[derive(Clone, Debug, Args)]
pub struct VolumeExport {
    /// The volume
    pub volume: String,
    /// Write to this file, and not to standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// What this snapshot has, not what the volume holds now
    #[arg(long, value_name = "NAME")]
    pub snapshot: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub struct VolumeImport {
    /// The new volume's name
    #[arg(value_name = "NEW")]
    pub volume: String,
    /// Read from this file, and not from standard input
    #[arg(short, long, value_name = "FILE")]
    pub input: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct VolumeCreate {
    /// The volume's name; one that nothing else has when absent
    pub name: Option<String>,
    /// `local`, or the plugin that makes it
    #[arg(short, long, default_value = "local")]
    pub driver: String,
    /// What the driver is told; `local` takes `type=…`, `device=…`, `o=…`
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub opt: Vec<String>,
    /// Labels, to find it by
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
}

/// What every `prune` takes.
#[derive(Clone, Debug, Args)]
pub struct Prune {
    /// Don't ask
    #[arg(short, long)]
    pub force: bool,
    /// Only those for which this holds: label=, label!=, until=
    #[arg(long, value_name = "KEY=VALUE")]
    pub filter: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub struct ImagePrune {
    /// All images that no container uses, not only those without a name
    #[arg(short, long)]
    pub all: bool,
    #[command(flatten)]
    pub prune: Prune,
}

#[derive(Clone, Debug, Args)]
pub struct VolumePrune {
    /// All volumes that no container uses and that belong to no stack, not only those without a name
    #[arg(short, long)]
    pub all: bool,
    /// Delete what is in the trash, whatever its age, and nothing else
    #[arg(long, conflicts_with_all = ["all", "filter", "now"])]
    pub trash: bool,
    /// Delete the data at once: it can't be brought back
    #[arg(long, visible_alias = "no-trash")]
    pub now: bool,
    #[command(flatten)]
    pub prune: Prune,
}

#[derive(Debug, Subcommand)]
pub enum SystemCommand {
    /// Show what takes how much disk
    Df {
        /// Each object, not only the sums
        #[arg(short, long)]
        verbose: bool,
        #[command(flatten)]
        format: FormatArgument,
    },
    /// Remove stopped containers, networks and images that are of no use to anything
    Prune(SystemPrune),
    /// Print the version of this program, and what the host's kernel has
    Info(super::Show),
    /// Start what ran when the host went down, of all stacks, in the order that was declared: for the host's start
    Boot(Quietly),
    /// Stop all that runs, dependents first, for the next boot to bring it back: for the host's end
    Halt(Quietly),
    /// Print a unit for systemd that boots and halts
    Unit,
}

#[derive(Clone, Debug, Args)]
pub struct Quietly {
    /// Print nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
}

/// Nothing of a stack is touched.
#[derive(Clone, Debug, Args)]
pub struct SystemPrune {
    /// All images that no container uses, not only those without a name
    #[arg(short, long)]
    pub all: bool,
    /// Also volumes without a name that no container uses, and the data in them
    #[arg(long)]
    pub volumes: bool,
    #[command(flatten)]
    pub prune: Prune,
}
