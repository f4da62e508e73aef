//! Every system call that changes something as the last one: strace kills whoever is about to make the K-th, or lets it
//! fail. The next apply converges all the same, and destroying leaves nothing.
//!
//! The call is counted by each thread of the command, the supervisors, containers and the name server for itself. A part
//! of all K is tried; with the variable `STACK_SWEEP=all` every one, which takes ten minutes.

use std::fs;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Output, World, eventually, finish, free_port, get, leftovers, processes};

/// What changes files, mounts, namespaces, links, rules and processes.
const CHANGES: &str = "mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,rmdir,link,linkat,symlink,symlinkat,chmod,\
                       fchmod,fchmodat,fsync,fdatasync,syncfs,ftruncate,mount,umount2,move_mount,fsmount,open_tree,\
                       mount_setattr,pivot_root,unshare,setns,clone,clone3,fork,vfork,execve,sendto,sendmsg,bind";
/// What a disk that is full or broken refuses.
const DISK: &str =
    "mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat,fsync,fdatasync,syncfs,ftruncate";
/// Files, groups, pipes: the most frequent, so they are counted apart.
const WRITES: &str = "write,pwrite64,writev,pwritev,copy_file_range";

struct Sweep {
    world: World,
    port: u16,
}

impl Sweep {
    fn new() -> Self {
        let (world, port) = (World::new(), free_port());
        let text = format!(
            r#"
name: two
containers:
  web:
    image: builtin:whoami
    environment: {{COUNTER_FILE: /data/hits}}
    volumes: ["data:/data"]
    ports: ["{port}:80"]
    networks: [front]
    configs: [note]
  client:
    image: builtin:whoami
    networks: [front]
    depends_on: [web]
configs: {{note: {{content: kept}}}}
volumes: {{data: {{}}}}
networks: {{front: {{}}}}
"#
        );
        world.file("stack.yaml", &text);
        Self { world, port }
    }

    fn apply(&self) {
        self.world.ok(&["apply"]);
        self.world.ok(&["status"]);
        // It runs, which is not yet that it listens: it has no health check.
        eventually("it answers", || get(self.port, "/").is_ok_and(|page| page.contains("name: ")));
    }

    fn traced(&self, rule: &str, calls: &str, words: &[&str]) -> Output {
        traced(&self.world, &self.world.command(words), rule, calls)
    }

    /// How many of these calls the busiest thread makes.
    fn most(&self, calls: &str, words: &[&str]) -> usize {
        most(&self.world, &self.world.command(words), calls)
    }

    /// Back to nothing at all.
    fn clear(&self, what: &str) {
        self.world.ok(&["destroy", "two", "--volumes", "--yes=volumes"]);
        self.world.ok(&["image", "rm", "builtin:whoami"]);
        let left = leftovers(&self.world.roots, &self.world.directory);
        assert!(left.is_empty(), "{what}:\n{}", left.join("\n"));
    }
}

/// Runs the program under strace to its end; what it started goes on without.
pub fn traced(world: &World, plain: &Command, rule: &str, calls: &str) -> Output {
    let log = world.directory.join("trace");
    let mut command = Command::new("strace");
    command.args(["-D", "-I2", "-f", "-qq", "-o"]).arg(&log).arg("-e").arg(format!("trace={calls}"));
    if !rule.is_empty() {
        command.arg("-e").arg(format!("inject={calls}:{rule}"));
    }
    command.arg(plain.get_program()).args(plain.get_args()).current_dir(&world.directory);
    for (key, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    // Not pipes: strace holds them too, for as long as what was started runs.
    let said = world.directory.join("said");
    let child = command.stdout(Stdio::null()).stderr(fs::File::create(&said).unwrap()).spawn().expect("strace");
    let output = Output {
        code: finish(child, &["under strace"]).code,
        stdout: String::new(),
        stderr: fs::read_to_string(&said).unwrap(),
    };
    // With `-D` strace is not our child: it is known by the log that only this world has.
    let log = log.display().to_string();
    let tracers = || processes().into_iter().filter(|(_, line)| line.starts_with("strace ") && line.contains(&log));
    for (pid, _) in tracers() {
        kill(Pid::from_raw(pid as i32), Signal::SIGTERM).ok();
    }
    eventually("strace has let go", || tracers().next().is_none());
    output
}

/// How many of these calls the busiest thread makes.
pub fn most(world: &World, plain: &Command, calls: &str) -> usize {
    let output = traced(world, plain, "", calls);
    assert_eq!(output.code, 0, "{output:?}");
    let log = fs::read_to_string(world.directory.join("trace")).unwrap();
    let begun = log.lines().filter(|line| !["<...", "+++", "---"].iter().any(|mark| line.contains(mark)));
    let mut count = std::collections::BTreeMap::<&str, usize>::new();
    for thread in begun.filter_map(|line| line.split(' ').next()) {
        *count.entry(thread).or_default() += 1;
    }
    count.into_values().max().expect("some calls were made")
}

/// So many of `1..=most`, evenly. When all are asked for, more than anybody waits for are still thinned out.
pub fn some(most: usize, count: usize) -> impl Iterator<Item = usize> {
    (1..=most).step_by(most.div_ceil(rounds(count, 500)))
}

/// So many, or when all are asked for, so many.
pub fn rounds<T>(some: T, all: T) -> T {
    if std::env::var("STACK_SWEEP").is_ok_and(|word| word == "all") { all } else { some }
}

#[test]
fn an_apply_killed_before_any_change_is_finished_by_the_next() {
    let sweep = Sweep::new();
    for (calls, count) in [(CHANGES, 14), (WRITES, 8)] {
        let most = sweep.most(calls, &["apply"]);
        sweep.clear("after counting");
        let mut killed = 0;
        for turn in some(most, count) {
            let output = sweep.traced(&format!("signal=KILL:when={turn}"), calls, &["apply"]);
            killed += usize::from(output.code != 0);
            let again = sweep.world.run(&["apply"]);
            assert_eq!(again.code, 0, "killed at {turn} of {calls}: {output:?}\n{again:#?}");
            sweep.apply();
            sweep.clear(&format!("killed at {turn} of {calls}"));
        }
        assert!(killed > 2, "strace killed {killed} only");
    }
}

#[test]
fn a_destroy_killed_before_any_change_is_finished_by_the_next() {
    let sweep = Sweep::new();
    let words = ["destroy", "two", "--volumes", "--yes=volumes"];
    sweep.apply();
    let most = sweep.most(CHANGES, &words);
    for turn in some(most, 10) {
        sweep.apply();
        sweep.traced(&format!("signal=KILL:when={turn}"), CHANGES, &words);
        sweep.clear(&format!("killed at {turn}"));
    }
}

#[test]
fn a_disk_that_fails_at_any_call_costs_an_error_and_nothing_else() {
    let sweep = Sweep::new();
    let most = sweep.most(DISK, &["apply"]);
    sweep.clear("after counting");
    for error in ["ENOSPC", "EIO"] {
        for turn in some(most, 6) {
            let output = sweep.traced(&format!("error={error}:when={turn}"), DISK, &["apply"]);
            let said = output.code == 0 || output.code == 1 && output.stderr.contains("error");
            assert!(said, "{error} at {turn}: {output:#?}");
            let again = sweep.world.run(&["apply"]);
            assert_eq!(again.code, 0, "{error} at {turn}: {output:?}\n{again:#?}");
            sweep.apply();
            sweep.clear(&format!("{error} at {turn}"));
        }
    }
}
