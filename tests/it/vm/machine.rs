//! A small machine in software (QEMU without hardware help): Debian's cloud kernel, one hierarchy of control groups, a
//! disk that outlives it. What it boots from is made by `tests/vm/make.sh`.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Longer than any boot with all its tests takes where two processors do everything in software.
const PATIENCE: Duration = Duration::from_secs(400);
/// What a machine says when it has run its tests.
const ENDED: &str = "machine: exit ";
/// What the third disk of each machine holds.
pub const SECRET: &str = "only for those who were given it\n";

/// The files that machines boot from, made once by each run.
fn made() -> &'static PathBuf {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("vm");
        let made = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vm/make.sh"))
            .arg(&directory)
            .arg(env!("CARGO_BIN_EXE_stack"))
            .arg(std::env::current_exe().unwrap())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(made.status.success(), "tests/vm/make.sh: {made:?}\nrun `tests/run.sh packages vm` first");
        directory
    })
}

/// A machine that is off, with its disk. Dropping it removes the disk.
pub struct Machine {
    directory: PathBuf,
    /// What runs the tests; nothing is the first process itself.
    first: &'static str,
}

impl Machine {
    /// With an empty disk.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("stack-vm-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let disk = directory.join("disk");
        File::create(&disk).unwrap().set_len(1 << 30).unwrap();
        let made = Command::new("/sbin/mkfs.ext4").arg("-q").arg(&disk).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let mut secret = SECRET.as_bytes().to_vec();
        secret.resize(4096, b'\n');
        std::fs::write(directory.join("secret"), secret).unwrap();
        Self { directory, first: "" }
    }

    /// The same, of which systemd is the first process.
    pub fn with_systemd(mut self) -> Self {
        self.first = "systemd";
        self
    }

    /// The same, which has control groups of version 1.
    pub fn with_hybrid_systemd(mut self) -> Self {
        self.first = "hybrid";
        self
    }

    /// Switches it on, to run these tests of this very program: whole names, whether ignored elsewhere or not.
    pub fn boot(&self, tests: &[&str]) -> Boot {
        let own = std::env::current_exe().unwrap();
        let words = ["--include-ignored", "--exact", "--nocapture", "--test-threads", "1"];
        let arguments = [&[self.first, own.to_str().unwrap()], tests, &words].concat().join(" ");
        assert!(arguments.len() < 1500, "more than a kernel takes: {arguments}");
        let groups = if self.first == "hybrid" { "systemd.unified_cgroup_hierarchy=0" } else { "" };
        let drive = |file: PathBuf, options: &str| format!("file={},format=raw,if=virtio{options}", file.display());
        let child = Command::new("qemu-system-x86_64")
            .args(["-machine", "q35", "-accel", "tcg", "-cpu", "max", "-m", "1024", "-nodefaults", "-no-user-config"])
            .args(["-display", "none", "-no-reboot", "-serial"])
            .arg(format!("file:{}", self.console().display()))
            .args(["-serial", "stdio", "-kernel"])
            .arg(made().join("vmlinuz"))
            .arg("-initrd")
            .arg(made().join("initramfs"))
            .arg("-append")
            .arg(format!("console=ttyS0 quiet panic=-1 {groups} -- {arguments}"))
            .arg("-drive")
            .arg(drive(made().join("system.img"), ",readonly=on"))
            .arg("-drive")
            .arg(drive(self.directory.join("disk"), ""))
            .arg("-drive")
            .arg(drive(self.directory.join("secret"), ""))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("qemu-system-x86_64");
        Boot::of(child, self.console(), tests.len())
    }

    /// What the kernel says.
    fn console(&self) -> PathBuf {
        self.directory.join("console")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.directory).unwrap();
    }
}

/// A machine that is on. Dropping it is a power cut.
pub struct Boot {
    child: Child,
    console: PathBuf,
    lines: Receiver<String>,
    heard: Vec<String>,
    tests: usize,
}

impl Boot {
    fn of(mut child: Child, console: PathBuf, tests: usize) -> Self {
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                // Nobody listens any more after a power cut.
                sender.send(line).ok();
            }
        });
        Self { child, console, lines, heard: Vec::new(), tests }
    }

    /// The rest of the next line that begins so; until then no test has failed.
    pub fn hears(&mut self, beginning: &str) -> String {
        let begun = Instant::now();
        loop {
            match self.lines.recv_timeout(PATIENCE.saturating_sub(begun.elapsed())) {
                Ok(line) => {
                    self.heard.push(line.clone());
                    if line.ends_with("FAILED") && beginning != ENDED {
                        self.fail(&format!("a test failed before `{beginning}`"));
                    }
                    if let Some(rest) = line.strip_prefix(beginning) {
                        return rest.to_owned();
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.fail(&format!("nothing like `{beginning}` within {PATIENCE:?}")),
                Err(RecvTimeoutError::Disconnected) => self.fail(&format!("it ended before `{beginning}`")),
            }
        }
    }

    /// Waits until all its tests have passed and it has switched itself off.
    pub fn ends_well(mut self) {
        let code = self.hears(ENDED);
        let passed = format!("test result: ok. {} passed", self.tests);
        if code != "0" || !self.heard.iter().any(|line| line.starts_with(&passed)) {
            self.fail(&format!("not all of its {} tests passed", self.tests));
        }
        self.child.wait().unwrap();
    }

    /// Takes its power away.
    pub fn cut(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn fail(&self, what: &str) -> ! {
        let console = std::fs::read(&self.console).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        panic!("{what}:\n{}\nits kernel:\n{console}", self.heard.join("\n"));
    }
}

impl Drop for Boot {
    fn drop(&mut self) {
        // It has ended, but for a test that failed.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
