//! `stack`: a container engine that is driven by files.
//!
//! This page is the architecture. A test (`tests/it/layering.rs`) enforces who may import whom.
//!
//! # The flow is one way
//!
//! ```text
//!  file ─[spec]─▶ Stack ─[reconcile::desired]─▶ Desired ─┐
//!                                                        ├─[diff]─▶ changes ─[plan]─▶ Plan ─[execute]─▶ Engine
//!  Engine::observe ─────────────────▶ Observed ──────────┘                                               │
//!       ▲                                                                                                │
//!       └── observe again: nothing that execute learned is kept as truth (level-triggered) ◀─────────────┘
//! ```
//!
//! Deciding is pure: values in, values out, without I/O, clock, randomness or log. Acting is straight-line: the plan has
//! said everything.
//!
//! # The rooms
//!
//! | room | what lives there | imports |
//! |---|---|---|
//! | [`diagnostics`] | what is wrong with a text, where, and what to do about it | nothing |
//! | [`spec`] | text → tree with spans → [`spec::Stack`]; Compose, native YAML and TOML; every error at once | diagnostics |
//! | [`reconcile`] | desired, diff, plan, check (pure); execute and controller (effects); the seam [`reconcile::engine::Engine`] | spec |
//! | [`runtime`] | the host: containers, images, networks, volumes as kernel and disk know them. Knows no stacks | nothing |
//! | [`build`] | Dockerfile → build graph → image | diagnostics, runtime |
//! | [`engine`] | who can hold a stack: [`engine::native`] (this host), [`engine::simulated`] (a world in memory, for tests) | spec, reconcile, runtime, build |
//! | [`cli`] | arguments, one file a command, views. Reads the environment, nobody else does | all |
//!
//! # How a container runs
//!
//! [`runtime::container::start`] starts this program again as the container's supervisor ([`runtime::shim`]): one
//! process with one thread, which mounts the root in a mount namespace of its own, starts the first process
//! ([`runtime::init::launch`]), and then waits in poll(2) for its end, its output, clients and time. Commands talk to it
//! over a socket or read the files that it writes; nothing but it holds state in memory. Names and ports of this host's
//! own programs are served by one further process for all containers ([`runtime::network::netd`]).
//!
//! An ordinary user's commands join a user namespace that a process of its own keeps, and are the same engine there
//! ([`runtime::rootless`]).
//!
//! Other engines bring a bundle and runc's words (`stack oci-runtime`, [`runtime::bundle`]): the same code of
//! [`runtime::init`], with nobody to supervise but who asked.
//!
//! The other way round, a container may name a runtime of others ([`runtime::outside`]): its supervisor makes all that it
//! has of the host, writes a bundle, and has that runtime make the processes.
//!
//! Programs of others that speak docker's plugin protocol extend the engine ([`runtime::plugin`]): each command asks them
//! anew, within bounds; a supervisor never does. Some are run by the engine itself ([`runtime::plugin::managed`]).
//!
//! Programs beside the container's own, such as hooks, join it from a process with one thread: a command that has several
//! starts this program once more for each ([`runtime::container::aside`]).
//!
//! # Invariants
//!
//! - What is asked for is durable before the first effect; every step done again, or after a crash half way, ends in the
//!   same state. There is no rollback code: the next round removes or finishes what is half made.
//! - Everything that the engine makes on the host is named after [`runtime::roots::Roots::key`]: two engines with
//!   different roots never touch each other's links, rules and groups, and no rule of anybody else is read or changed.
//! - Paths that an image or a container can influence are resolved by openat2(2) inside a root, never by name.
//! - A security step that fails ends the start of the container.
//! - What reads strangers' bytes has given up what it does not need ([`runtime::confine`]): layers are unpacked so,
//!   containers asked how they are, and names and ports served.
//! - No process of this program executes what a container names: a small static one does ([`runtime::init::launcher`]). The
//!   supervisor is executed from a mount that nobody can write to.
//! - No environment variable is read below `cli`, but for the places of docker's passwords and of registries' settings
//!   ([`runtime::image`]); no program but this one is run, neither `ip`, `nft` nor `mount`, but for the credential
//!   helpers that a user names, the runtime that a container names, the CNI plugins that a network names, and for an ordinary user newuidmap, newgidmap, and pasta or slirp4netns.
//!
//! # Files on disk
//!
//! Below the durable root (`/var/lib/stack`): `containers/NAME/{config.json,ended.json,files,upper,work,log}`,
//! `launcher-DIGEST` (becomes each container's program),
//! `images/{index.json,blobs,layers,signatures}`, `networks/{NAME.json,prefix}`, `endpoints/CONTAINER.json`,
//! `cni/OWNER/NETWORK.json`, `volumes/NAME/{volume.json,_data,snapshots}`, `volumes/.trash`, `configs/NAME.json`,
//! `secrets/{NAME.json,.salt}`,
//! `stacks/NAME/{journal,journal.1,generations}` (what became of a stack),
//! `plugins` (the root of another engine, whose containers are plugins; and `records/ID.json`, `data/ID`),
//! `skeleton` (the layer below all images). Below the volatile root (`/run/stack`), gone at reboot:
//! `containers/NAME/{status.json,start.json,shim.sock,…}`, `netns/CONTAINER`, `files/CONTAINER` (configs and secrets),
//! `outside/ID` (bundles), `volumes/NAME.json` (for whom a plugin has mounted it), `locks`. Of a container that goes with its end, `config.json` and `endpoints/CONTAINER.json` are below the volatile
//! root too, and what it writes in `containers/.transient-NAME`: the next command sweeps away what nobody owns. Every
//! JSON file has a version, is written under another name, synced, and renamed ([`runtime::state`]).

pub mod build;
pub mod cli;
pub mod diagnostics;
pub mod engine;
pub mod reconcile;
pub mod runtime;
pub mod spec;
