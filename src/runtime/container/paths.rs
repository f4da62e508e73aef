//! Where the files of one container are.
//!
//! A container that goes with its end (`--rm`) is kept in another way: its record is below the volatile root, since nobody
//! wants it back after a reboot, and nothing waits for the disk. Only what it writes is below the durable root, in a
//! directory beside those of the others that belongs to nobody once the record is gone.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::runtime::roots::Roots;

/// What the directories' names begin with while they are made, while they go, and of transient containers. No name of a
/// container begins so.
pub(super) const MAKING: &str = ".making-";
pub(super) const GOING: &str = ".going-";
pub(super) const TRANSIENT: &str = ".transient-";

fn transient_config(roots: &Roots, name: &str) -> PathBuf {
    roots.volatile("containers").join(name).join("config.json")
}

/// All paths of one container.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The directory while it is made, and while it goes.
    pub making: PathBuf,
    pub going: PathBuf,
    pub directory: PathBuf,
    pub config: PathBuf,
    /// How it ended, while it does not run.
    pub ended: PathBuf,
    pub upper: PathBuf,
    pub work: PathBuf,
    pub logs: PathBuf,
    /// The same for all containers: what is below the image's layers.
    pub skeleton: PathBuf,
    /// Everything from here on is gone at reboot.
    pub run: PathBuf,
    pub run_going: PathBuf,
    pub status: PathBuf,
    pub start: PathBuf,
    pub socket: PathBuf,
    pub rootfs: PathBuf,
    pub hosts: PathBuf,
    pub resolv_conf: PathBuf,
    pub hostname: PathBuf,
    /// Beside the directories, not in them: it must outlive a removal that somebody waits for.
    pub lock: PathBuf,
}

impl Paths {
    /// Of the container with this name as it is; where there is none, of one that stays until it is removed.
    pub fn of(roots: &Roots, name: &str) -> Self {
        let is_transient = transient_config(roots, name).exists();
        if is_transient { Self::transient(roots, name) } else { Self::durable(roots, name) }
    }

    /// Of one that stays until it is removed.
    pub fn durable(roots: &Roots, name: &str) -> Self {
        let directory = roots.durable("containers").join(name);
        let (config, logs) = (directory.join("config.json"), directory.join("log"));
        Self::new(roots, name, directory, config, logs)
    }

    /// Of one that goes with its end.
    pub fn transient(roots: &Roots, name: &str) -> Self {
        let directory = roots.durable("containers").join(format!("{TRANSIENT}{name}"));
        Self::new(roots, name, directory.clone(), transient_config(roots, name), directory)
    }

    fn new(roots: &Roots, name: &str, directory: PathBuf, config: PathBuf, logs: PathBuf) -> Self {
        let run = roots.volatile("containers").join(name);
        let beside = |word: &str| roots.durable("containers").join(format!("{word}{name}"));
        Self {
            making: beside(MAKING),
            going: beside(GOING),
            config,
            ended: directory.join("ended.json"),
            upper: directory.join("upper"),
            work: directory.join("work"),
            logs,
            skeleton: roots.durable("skeleton"),
            directory,
            run_going: roots.volatile("containers").join(format!("{GOING}{name}")),
            status: run.join("status.json"),
            start: run.join("start.json"),
            socket: run.join("shim.sock"),
            rootfs: run.join("rootfs"),
            hosts: run.join("hosts"),
            resolv_conf: run.join("resolv.conf"),
            hostname: run.join("hostname"),
            run,
            lock: roots.volatile("locks").join(format!("container-{name}")),
        }
    }

    /// Gives both directories their places under another name. What is durable goes first: the rest is worth nothing
    /// without it.
    pub fn move_to(&self, to: &Self) -> io::Result<()> {
        fs::rename(&self.directory, &to.directory)?;
        match fs::rename(&self.run, &to.run) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
