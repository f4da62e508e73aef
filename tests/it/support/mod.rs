//! A world of its own for each test: roots, the program, and the proof afterwards that the host holds nothing of it.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{self, SigHandler, Signal};
use stack::runtime::roots::Roots;

pub mod archive;
pub mod docker;
pub mod island;
pub mod leftovers;
pub mod terminal;

/// Longer than anything here takes on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A stack that counts its visits behind this port of the host, once it is found healthy, and one that waits for it.
pub fn hello(port: u16, check: &str) -> String {
    format!(
        r#"
name: hello
containers:
  counter:
    image: builtin:whoami
    environment: {{COUNTER_FILE: /data/hits}}
    volumes: ["data:/data"]
    ports: ["{port}:80"]
    networks: [front]
    healthcheck: {{test: ["CMD", "/whoami", "health"], {check}}}
  greeter:
    image: builtin:whoami
    networks: [front]
    depends_on: {{counter: {{condition: service_healthy}}}}
volumes: {{data: {{}}}}
networks: {{front: {{}}}}
"#
    )
}

/// Two roots in a directory of its own. Dropping it destroys what is left and asserts that nothing remains.
pub struct World {
    pub directory: PathBuf,
    pub roots: Roots,
}

/// How a command ended.
#[derive(Debug)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Ctrl-C means to the programs under test what it means on a terminal, also where the tests run in the background of a
/// shell, which has its children ignore it.
fn interruptible() {
    for signal in [Signal::SIGINT, Signal::SIGQUIT] {
        // SAFETY: no handler is installed; the default action is.
        unsafe { signal::signal(signal, SigHandler::SigDfl) }.unwrap();
    }
}

impl World {
    pub fn new() -> Self {
        interruptible();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("stk{}-{number}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        Self::at(directory)
    }

    /// With these roots in a directory that is there already.
    pub fn at(directory: PathBuf) -> Self {
        let mut roots = Roots::new(directory.join("r"), directory.join("n"));
        roots.program = PathBuf::from(env!("CARGO_BIN_EXE_stack"));
        Self { directory, roots }
    }

    /// A file of the world, with this text.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.roots.program);
        command.args(words).current_dir(&self.directory);
        command.env("STACK_ROOT", &self.roots.root).env("STACK_RUN_ROOT", &self.roots.run);
        for key in ["COMPOSE_PROJECT_NAME", "COMPOSE_FILE", "COMPOSE_PROFILES", "RUST_LOG"] {
            command.env_remove(key);
        }
        command
    }

    /// One with the image `shell`, which says nothing of what it runs.
    pub fn with_shell() -> Self {
        let world = Self::new();
        world.busybox("root");
        let archive = world.archive("shell", "root", &serde_json::json!({}));
        world.ok(&["load", "-i", archive.to_str().unwrap()]);
        world
    }

    /// A root file system with a shell, from Debian's busybox, in this folder.
    pub fn busybox(&self, folder: &str) -> PathBuf {
        let root = self.directory.join(folder);
        for directory in ["bin", "etc", "tmp"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).expect("Debian's package busybox-static");
        for name in
            ["sh", "cat", "echo", "ls", "sleep", "test", "touch", "mkdir", "ln", "mv", "rm", "id", "grep", "kill"]
        {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/:/bin/sh\n").unwrap();
        fs::write(root.join("etc/group"), "root:x:0:\napp:x:1000:\n").unwrap();
        root
    }

    /// A docker archive with one layer, this folder of the world, and these words in its configuration.
    pub fn archive(&self, name: &str, folder: &str, words: &serde_json::Value) -> PathBuf {
        let parts = self.directory.join(format!("{name}.parts"));
        fs::create_dir_all(&parts).unwrap();
        tar(&parts.join("layer.tar"), &self.directory.join(folder), &["."]);
        let layer = stack::reconcile::facts::hash(&fs::read(parts.join("layer.tar")).unwrap());
        let config = serde_json::json!({"architecture": architecture(), "os": "linux", "config": words,
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]}});
        fs::write(parts.join("config.json"), config.to_string()).unwrap();
        let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [format!("{name}:latest")], "Layers": ["layer.tar"]}]);
        fs::write(parts.join("manifest.json"), manifest.to_string()).unwrap();
        let archive = self.directory.join(name);
        tar(&archive, &parts, &["config.json", "manifest.json", "layer.tar"]);
        archive
    }

    /// Runs the program to its end.
    pub fn run(&self, words: &[&str]) -> Output {
        self.run_with(words, "")
    }

    /// As [`World::run`], with this text to read.
    pub fn run_with(&self, words: &[&str], input: &str) -> Output {
        let mut command = self.command(words);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).ok();
        finish(child, words)
    }

    /// Runs it, asserts that it succeeds, and gives what it printed.
    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert_eq!(output.code, 0, "stack {}: {output:#?}", words.join(" "));
        output.stdout
    }

    /// Runs it, asserts this exit code, and gives what it said on standard error.
    #[track_caller]
    pub fn fails(&self, code: i32, words: &[&str]) -> String {
        let output = self.run(words);
        assert_eq!(output.code, code, "stack {}: {output:#?}", words.join(" "));
        output.stderr
    }

    /// The names of all containers, whether or not they run.
    pub fn names(&self) -> Vec<String> {
        self.ok(&["ps", "-a", "--format", "{{.Name}}"]).lines().map(str::to_owned).collect()
    }

    /// One field of a container, as `ps --format json` has it.
    pub fn field(&self, container: &str, field: &str) -> serde_json::Value {
        let text = self.ok(&["ps", "-a", "--format", "json"]);
        let all: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        let found = all.into_iter().find(|one| one["name"] == container);
        found.map_or(serde_json::Value::Null, |one| one[field].clone())
    }

    /// What the host holds of this world, a line each.
    pub fn left(&self) -> Vec<String> {
        leftovers::of(&self.roots, &self.directory)
    }

    /// What one wants to know of a test that has failed, and what is gone a moment later.
    fn tell(&self) {
        eprintln!("containers: {}", self.run(&["ps", "-a"]).stdout);
        for name in self.run(&["ps", "-a", "--format", "{{.Name}}"]).stdout.lines() {
            let Output { stdout, stderr, .. } = self.run(&["logs", "--tail", "20", "--timestamps", name]);
            eprintln!("logs of {name}: {stdout}{stderr}");
            let status = self.roots.run.join("containers").join(name).join("status.json");
            eprintln!("status: {}", fs::read_to_string(status).unwrap_or_else(|error| error.to_string()));
        }
    }

    fn destroy_all(&self) {
        let text = self.run(&["ps", "-aq"]).stdout;
        for name in text.lines() {
            self.run(&["rm", "-f", name]);
        }
        for name in self.run(&["network", "ls", "-q"]).stdout.lines() {
            self.run(&["network", "rm", name]);
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell();
            self.destroy_all();
        } else {
            let left = leftovers(&self.roots, &self.directory);
            self.destroy_all();
            assert!(left.is_empty(), "left behind on the host:\n{}", left.join("\n"));
        }
        fs::remove_dir_all(&self.directory).ok();
    }
}

/// What is left on the host of the engine with these roots. What ends by itself, as a server without anything to serve,
/// has a moment for it.
pub fn leftovers(roots: &Roots, directory: &Path) -> Vec<String> {
    let begun = Instant::now();
    loop {
        let left = leftovers::of(roots, directory);
        if left.is_empty() || begun.elapsed() > Duration::from_secs(10) {
            return left;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn tar(archive: &Path, directory: &Path, names: &[&str]) {
    let made = Command::new("tar").arg("-C").arg(directory).arg("-cf").arg(archive).args(names).status().unwrap();
    assert!(made.success());
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

/// All processes of the host, by their command lines.
pub fn processes() -> Vec<(u32, String)> {
    let pids = entries(Path::new("/proc")).filter_map(|path| path.file_name()?.to_str()?.parse::<u32>().ok());
    let line = |pid: u32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ");
    pids.map(|pid| (pid, line(pid))).collect()
}

/// Waits for it; one that takes longer than [`PATIENCE`] is killed, and the test fails.
pub fn finish(mut child: Child, words: &[&str]) -> Output {
    let read = |stream: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            stream.map(|mut stream| stream.read_to_end(&mut bytes));
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let stdout = read(child.stdout.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>));
    let stderr = read(child.stderr.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>));
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("stack {} did not end: {:?} {:?}", words.join(" "), stdout.join(), stderr.join());
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    let code = status.code().unwrap_or_else(|| 128 + signal.unwrap_or(0));
    Output { code, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

/// Does something with files as who is root in the user namespace of that process: files belong to nobody there whom
/// others make.
pub fn as_root_of(pid: i32, action: impl FnOnce()) {
    let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
    let root = map.split_whitespace().nth(1).unwrap().parse().unwrap();
    let become_owner = |id: u32| {
        nix::unistd::setfsgid(nix::unistd::Gid::from_raw(id));
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(id));
    };
    become_owner(root);
    action();
    become_owner(0);
}

/// Looks at the world until it is so.
#[track_caller]
pub fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One that nobody listens on now, each call another one, and none that the kernel gives to connections that leave: a
/// test would lose such a port to its neighbour between asking for it and listening on it.
pub fn free_port() -> u16 {
    const FROM: u32 = 20_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(64).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = (FROM + number % 12_000) as u16;
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}

/// The body of an HTTP answer from this host.
pub fn get(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    std::io::Write::write_all(&mut stream, format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    body.ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}
