//! A docker daemon of a test's own.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{World, eventually};

/// Debian's daemon, with everything of it in a directory of its own.
pub struct Docker {
    pub directory: PathBuf,
    daemon: Child,
}

impl Docker {
    pub fn start(world: &World) -> Self {
        Self::start_with(world, &serde_json::json!({}))
    }

    /// With this as its `daemon.json`.
    pub fn start_with(world: &World, configuration: &serde_json::Value) -> Self {
        let directory = world.directory.join("d");
        fs::create_dir_all(directory.join("run")).unwrap();
        let log = fs::File::create(directory.join("log")).unwrap();
        let mut command = Command::new("dockerd");
        command.arg("-H").arg(format!("unix://{}/s", directory.display()));
        for (flag, name) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
            command.arg(flag).arg(directory.join(name));
        }
        fs::write(directory.join("daemon.json"), configuration.to_string()).unwrap();
        command.arg("--config-file").arg(directory.join("daemon.json"));
        command.args(["--storage-driver", "vfs", "--bip", "10.99.0.1/24"]);
        let daemon =
            command.stdout(log.try_clone().unwrap()).stderr(log).spawn().expect("dockerd, of Debian's docker.io");
        let mut docker = Self { directory, daemon };
        eventually("the daemon answers", || {
            let said = || fs::read_to_string(docker.directory.join("log")).unwrap();
            assert!(docker.daemon.try_wait().unwrap().is_none(), "it ended: {}", said());
            docker.command(&["version"]).status().unwrap().success()
        });
        docker
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.arg("-H").arg(format!("unix://{}/s", self.directory.display())).args(words);
        command
            .env("DOCKER_CONFIG", &self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> String {
        let output = self.command(words).output().unwrap();
        assert!(output.status.success(), "docker {words:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        kill(Pid::from_raw(self.daemon.id() as i32), Signal::SIGTERM).unwrap();
        self.daemon.wait().unwrap();
        // It leaves mounts of its own behind when it was killed.
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let places = mounts.lines().filter_map(|line| line.split(' ').nth(4)).rev();
        for place in places.filter(|place| place.starts_with(&*self.directory.to_string_lossy())) {
            Command::new("umount").args(["-l", place]).status().unwrap();
        }
    }
}
