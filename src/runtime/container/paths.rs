//! Where the files of one container are.

use std::path::PathBuf;

use crate::runtime::roots::Roots;

/// All paths of one container.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The directory while it is made, and while it goes.
    pub making: PathBuf,
    pub going: PathBuf,
    pub directory: PathBuf,
    pub config: PathBuf,
    pub upper: PathBuf,
    pub work: PathBuf,
    pub logs: PathBuf,
    pub log: PathBuf,
    /// Everything from here on is gone at reboot.
    pub run: PathBuf,
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
    pub fn of(roots: &Roots, name: &str) -> Self {
        let directory = roots.durable("containers").join(name);
        let run = roots.volatile("containers").join(name);
        let logs = directory.join("log");
        let beside = |word: &str| roots.durable("containers").join(format!(".{word}-{name}"));
        Self {
            making: beside("making"),
            going: beside("going"),
            config: directory.join("config.json"),
            upper: directory.join("upper"),
            work: directory.join("work"),
            log: logs.join("json.log"),
            logs,
            directory,
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
}
