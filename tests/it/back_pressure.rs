//! More output than anybody takes: what waits is bounded, and whoever is not concerned does not wait.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{World, eventually};

/// What a supervisor, or a client, may take for what nobody reads.
const SLACK_KIB: u64 = 8 << 10;

/// How many clients come and go; how long a flood lasts is below. Both are as long as it takes where races are.
fn rounds() -> usize {
    std::env::var("STACK_RACES").map_or(150, |text| 10 * text.parse::<usize>().expect("STACK_RACES is a number"))
}

fn flood_for() -> Duration {
    Duration::from_secs(if std::env::var_os("STACK_RACES").is_some() { 60 } else { 4 })
}

fn number(path: String, key: &str) -> u64 {
    let text = fs::read_to_string(&path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_else(|| panic!("{path}: {key}"))
}

/// Memory of its own; pages of the program's file come and go.
fn held_kib(pid: u32) -> u64 {
    number(format!("/proc/{pid}/status"), "RssAnon")
}

fn supervisor(world: &World, name: &str) -> u32 {
    world.ok(&["inspect", "--format", "{{.Stack.Supervisor}}", name]).trim().parse().unwrap()
}

fn log_bytes(world: &World, name: &str) -> u64 {
    let directory = world.roots.root.join("containers").join(name).join("log");
    let sizes = fs::read_dir(directory).unwrap().filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()));
    sizes.sum()
}

/// As fast as it can: what is kept stays within its bounds, and the program never stands still for long.
#[test]
fn a_flood_is_kept_within_bounds_and_does_not_stop_who_makes_it() {
    let world = World::with_shell();
    for driver in ["json-file", "local"] {
        let options = ["--log-opt", "max-size=1m", "--log-opt", "max-file=3"];
        let run = ["run", "-d", "--name", "flood", "--network", "none", "--log-driver", driver];
        world.ok(&[&run[..], &options, &["shell", "/bin/busybox", "yes", "a line of a flood, as it comes"]].concat());
        let pid: u32 = world.field("flood", "pid").to_string().parse().unwrap();
        let written = || number(format!("/proc/{pid}/io"), "wchar");
        let begun = Instant::now();
        let (mut last, mut moved, mut longest) = (written(), begun, Duration::ZERO);
        while begun.elapsed() < flood_for() {
            thread::sleep(Duration::from_millis(20));
            let now = written();
            if now > last {
                (last, moved) = (now, Instant::now());
            }
            longest = longest.max(moved.elapsed());
            // What is being compressed is there twice for a moment, the second time small.
            let kept = log_bytes(&world, "flood");
            assert!(kept <= 4 << 20, "{driver}: {kept} bytes are kept");
        }
        assert!(longest < Duration::from_secs(1), "{driver}: it stood still for {longest:?}");
        assert!(last > 8 << 20, "{driver}: {last} bytes in {:?}", begun.elapsed());
        world.ok(&["stop", "-t", "0", "flood"]);
        assert!(log_bytes(&world, "flood") <= 3 << 20);
        // Each line is whole, from the first that is left on, but for the last, which it was killed in.
        let kept = world.ok(&["logs", "flood"]);
        let whole = kept.lines().filter(|line| *line == "a line of a flood, as it comes").count();
        assert!(whole > 1000 && kept.lines().count() - whole <= 1, "{driver}: {whole}");
        world.ok(&["rm", "flood"]);
    }
}

struct Client(Child);

impl Client {
    fn start(world: &World, words: &[&str]) -> Self {
        let mut command = world.command(words);
        Self(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Neither its supervisor nor the client keeps what is not read, and nobody else waits.
#[test]
fn who_does_not_read_is_waited_for_by_its_own_container_alone() {
    let world = World::with_shell();
    let quiet = ["run", "-d", "--network", "none", "--log-driver", "none", "-i", "--name"];
    world.ok(&[&quiet[..], &["noisy", "shell", "/bin/sh", "-c", "read go; exec /bin/busybox yes"]].concat());
    world.ok(&["run", "-d", "--name", "other", "--network", "none", "shell", "sleep", "100000"]);
    let mut attach = world.command(&["attach", "noisy"]);
    let mut attach = attach.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(attach.stdin.as_mut().unwrap(), b"go\n").unwrap();
    let mut output = attach.stdout.take().unwrap();
    let mut piece = vec![0; 1 << 20];
    output.read_exact(&mut piece).unwrap();
    let before = [held_kib(supervisor(&world, "noisy")), held_kib(attach.id())];
    let pid: u32 = world.field("noisy", "pid").to_string().parse().unwrap();
    let written = || number(format!("/proc/{pid}/io"), "wchar");
    let mut last = 0;
    eventually("it waits", || {
        let before = std::mem::replace(&mut last, written());
        before == last
    });
    let after = [held_kib(supervisor(&world, "noisy")), held_kib(attach.id())];
    assert!((0..2).all(|who| after[who] < before[who] + SLACK_KIB), "{before:?} {after:?}");
    // It can still be asked, entered and stopped; the other is not concerned.
    world.ok(&["exec", "noisy", "echo"]);
    world.ok(&["exec", "other", "echo"]);
    world.ok(&["run", "--rm", "--network", "none", "shell", "echo"]);
    // Who comes back to read gets all of it, in order.
    output.read_exact(&mut piece).unwrap();
    assert!(piece.chunks(2).all(|line| line == &piece[..2]), "something is missing");
    // A client that dies does not hold it back any more.
    attach.kill().unwrap();
    attach.wait().unwrap();
    let stuck = written();
    eventually("it goes on", || written() > stuck);
    world.ok(&["rm", "-f", "noisy", "other"]);
}

/// What an exec prints is in nobody's memory while its reader is slow.
#[test]
fn an_exec_whose_reader_is_slow_is_held_in_nobodys_memory() {
    let world = World::with_shell();
    world.ok(&["run", "-d", "--name", "box", "--network", "none", "shell", "sleep", "100000"]);
    for flags in [&["exec", "box"][..], &["exec", "-t", "box"]] {
        let before = held_kib(supervisor(&world, "box"));
        let mut client = Client::start(&world, &[flags, &["/bin/busybox", "yes"]].concat());
        let mut output = client.0.stdout.take().unwrap();
        let mut piece = vec![0; 4 << 20];
        output.read_exact(&mut piece[..1 << 20]).unwrap();
        let own = held_kib(client.0.id());
        // Far more than pipes hold, at a reader's pace.
        output.read_exact(&mut piece).unwrap();
        let grown = held_kib(client.0.id()).saturating_sub(own);
        assert!(grown < SLACK_KIB, "{flags:?}: the client has grown by {grown} KiB");
        assert!(held_kib(supervisor(&world, "box")) < before + SLACK_KIB);
        world.ok(&["exec", "box", "echo"]);
        client.kill();
    }
    world.ok(&["rm", "-f", "box"]);
}

/// Killed in the middle: nothing of them is left in the supervisor, nor any process of theirs that nobody waits for.
#[test]
fn clients_that_die_leave_nothing_behind() {
    let world = World::with_shell();
    world.ok(&["run", "-d", "--name", "box", "--network", "none", "shell", "sleep", "100000"]);
    let pid = supervisor(&world, "box");
    let asleep = || number(format!("/proc/{pid}/smaps_rollup"), "Pss") <= 64;
    eventually("its supervisor sleeps", asleep);
    let count = |what: &str| fs::read_dir(PathBuf::from(format!("/proc/{pid}/{what}"))).unwrap().count();
    let before = [count("fd"), count("task")];
    for _ in 0..rounds().div_ceil(30) {
        let mut clients = Vec::new();
        for number in 0..30 {
            let words = match number % 3 {
                0 => &["attach", "box"][..],
                1 => &["exec", "box", "cat", "/dev/zero"],
                _ => &["exec", "-t", "box", "sleep", "100"],
            };
            clients.push(Client::start(&world, words));
        }
        // Some are killed on their way in, some long after.
        for (number, client) in clients.into_iter().enumerate() {
            if number % 2 == 0 {
                thread::yield_now();
            }
            client.kill();
        }
    }
    assert_eq!(supervisor(&world, "box"), pid);
    eventually("its supervisor sleeps again", asleep);
    assert_eq!([count("fd"), count("task")], before);
    world.ok(&["exec", "box", "echo"]);
    world.ok(&["rm", "-f", "box"]);
}
