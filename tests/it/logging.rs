//! Where output goes: the drivers, what they keep, and what happens when they can't.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::support::{World, eventually};

/// A container that writes what it is told.
pub struct Talker {
    child: Child,
    input: Option<ChildStdin>,
}

impl Talker {
    pub fn start(world: &World, name: &str, flags: &[&str]) -> Self {
        let what = ["--network", "none", "-i", "builtin:whoami", "cat"];
        let mut command = world.command(&[&["run", "--name", name], flags, &what].concat());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let input = child.stdin.take();
        eventually("it runs", || world.field(name, "state") == "running");
        Self { child, input }
    }

    pub fn say(&mut self, text: &str) {
        std::io::Write::write_all(self.input.as_mut().unwrap(), text.as_bytes()).unwrap();
    }

    /// For one whose container has been ended.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn end(mut self) {
        drop(self.input.take());
        assert!(self.child.wait().unwrap().success());
    }
}

fn files(directory: &Path) -> Vec<(String, u64)> {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    let mut found: Vec<(String, u64)> = entries
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len()))
        .filter(|(name, _)| name.contains(".log"))
        .collect();
    found.sort();
    found
}

fn lines(range: std::ops::Range<usize>) -> String {
    range.map(|number| format!("line {number}\n")).collect()
}

/// Of both forms, with what was rotated away compressed: every way to read them reads all of it.
#[test]
fn compressed_files_are_read_as_if_they_were_not() {
    const COUNT: usize = 4000;
    let world = World::new();
    for (driver, newest) in [("local", "local.log"), ("json-file", "json.log")] {
        let flags = ["--log-driver", driver, "--log-opt", "max-size=20k", "--log-opt", "max-file=4"];
        let mut talker = Talker::start(&world, "talk", &[&flags[..], &["--log-opt", "compress=true"]].concat());
        for part in 0..40 {
            talker.say(&lines(part * 100..(part + 1) * 100));
            // So that each part has a time of its own.
            let last = lines((part + 1) * 100 - 1..(part + 1) * 100);
            eventually("it is written", || world.ok(&["logs", "--tail", "1", "talk"]) == last);
        }
        let directory = world.roots.root.join("containers/talk/log");
        eventually("all is compressed", || {
            let names: Vec<String> = files(&directory).into_iter().map(|(name, _)| name).collect();
            names == [newest.to_owned(), format!("{newest}.1.gz"), format!("{newest}.2.gz"), format!("{newest}.3.gz")]
        });
        assert!(files(&directory).iter().all(|(_, size)| *size <= 20 << 10), "{:?}", files(&directory));
        assert!(files(&directory)[1].1 < 10 << 10, "it is compressed: {:?}", files(&directory));
        let kept = world.ok(&["logs", "talk"]);
        let first = COUNT - kept.lines().count();
        assert!(first > 0 && first < COUNT - 600, "{driver}: {first}");
        assert_eq!(kept, lines(first..COUNT), "{driver}");
        assert_eq!(world.ok(&["logs", "--tail", "500", "talk"]), lines(COUNT - 500..COUNT), "{driver}");
        // By the times that they have, so that both ends are within compressed files.
        let timed = world.ok(&["logs", "--timestamps", "talk"]);
        let time = |number: usize| timed.lines().nth(number - first).unwrap().split(' ').next().unwrap().to_owned();
        let (since, until) = (time(first + 150), time(first + 450));
        let between = world.ok(&["logs", "--since", &since, "--until", &until, "talk"]);
        let numbers: Vec<usize> =
            between.lines().map(|line| line.strip_prefix("line ").unwrap().parse().unwrap()).collect();
        let expected = |number: usize| time(number) >= since && time(number) <= until;
        assert!(numbers.len() > 100 && numbers.iter().all(|number| expected(*number)), "{driver}");
        assert!(!expected(numbers[0] - 1) && !expected(numbers.last().unwrap() + 1), "{driver}");
        // Who follows is given what is kept, then what comes.
        let follow = world.command(&["logs", "-f", "talk"]).stdout(Stdio::piped()).spawn().unwrap();
        talker.say("the end\n");
        talker.end();
        let followed = String::from_utf8(follow.wait_with_output().unwrap().stdout).unwrap();
        assert!(followed.ends_with("line 3999\nthe end\n"), "{driver}");
        world.ok(&["rm", "talk"]);
    }
}

/// Docker's form, with what was asked for beside each line.
#[test]
fn labels_and_variables_go_with_lines() {
    let world = World::new();
    let options =
        ["labels=team", "labels-regex=^com\\.ex", "env=COLOUR", "env-regex=^X_", "tag={{.Name}}/{{.ImageName}}"];
    let options: Vec<&str> = options.iter().flat_map(|option| ["--log-opt", option]).collect();
    let own =
        ["-l", "team=red", "-l", "com.example=1", "-l", "other=2", "-e", "COLOUR=blue", "-e", "X_A=3", "-e", "Y=4"];
    let run = ["run", "--name", "one", "--network", "none"];
    world.ok(&[&run[..], &options, &own, &["builtin:whoami", "echo", "hi"]].concat());
    let text = fs::read_to_string(world.roots.root.join("containers/one/log/json.log")).unwrap();
    let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
    let attributes = serde_json::json!({"team": "red", "com.example": "1", "COLOUR": "blue", "X_A": "3",
                                        "tag": "one/builtin:whoami"});
    assert_eq!((&line["log"], &line["attrs"]), (&"hi\n".into(), &attributes));
    let shown = world.ok(&["logs", "--details", "one"]);
    assert_eq!(shown, "COLOUR=blue,X_A=3,com.example=1,tag=one%2Fbuiltin%3Awhoami,team=red hi\n");
    assert_eq!(world.ok(&["logs", "one"]), "hi\n");
    world.ok(&["rm", "one"]);
}

/// Said for the very word, before anything is touched; on the command line, too.
#[test]
fn options_that_a_driver_has_not_are_told_with_their_place() {
    let world = World::new();
    let text = "containers:\n  web:\n    image: builtin:whoami\n    logging:\n      driver: local\n      options:\n        \
                max-size: 1m\n        labels: a\n";
    for (from, to, place, said) in [
        ("labels: a", "labels: a", "stack.yaml:8:9", "the logging driver `local` has no option `labels`"),
        ("labels: a", "max-fiel: 3", "stack.yaml:8:9", "did you mean `max-file`?"),
        ("labels: a", "max-file: none", "stack.yaml:8:19", "`max-file`: expected a number of files"),
        ("driver: local", "driver: locla", "stack.yaml:5:15", "did you mean `local`?"),
        ("driver: local", "driver: syslog", "stack.yaml:7:9", "the logging driver `syslog` has no option `max-size`"),
    ] {
        world.file("stack.yaml", &text.replace(from, to));
        let output = world.run(&["validate", "stack.yaml"]);
        let all = output.stdout + &output.stderr;
        assert!(output.code != 0 && all.contains(place) && all.contains(said), "{to}: {all}");
    }
    let flags = ["run", "--log-driver", "syslog", "--log-opt", "syslog-tls-cert=/a", "builtin:whoami"];
    let said = world.fails(125, &flags);
    assert!(said.contains("`syslog-tls-cert` needs `syslog-tls-key`"), "{said}");
    assert!(world.names().is_empty());
}

/// A small file system of its own.
struct Disk {
    place: PathBuf,
}

impl Disk {
    fn mount(place: PathBuf, size: &str) -> Self {
        fs::create_dir_all(&place).unwrap();
        let options = format!("size={size},mode=700");
        mount(Some("disk"), &place, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
        Self { place }
    }

    /// Until nothing more fits.
    fn fill(&self) {
        let mut file = fs::File::create(self.place.join("filler")).unwrap();
        let piece = vec![1; 64 << 10];
        while std::io::Write::write_all(&mut file, &piece).is_ok() {}
    }

    fn clear(&self) {
        fs::remove_file(self.place.join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        umount2(&self.place, MntFlags::MNT_DETACH).ok();
    }
}

/// The container goes on; what is missing is counted, and said where it is missing; the log goes on by itself.
#[test]
fn a_full_disk_costs_lines_and_nothing_else() {
    let around = World::new();
    let disk = Disk::mount(around.directory.join("disk"), "48m");
    let mut world = World::at(disk.place.clone());
    world.roots.run = around.directory.join("n");
    for driver in ["json-file", "local"] {
        let mut talker = Talker::start(&world, "talk", &["--log-driver", driver]);
        talker.say("before\n");
        eventually("it is written", || world.ok(&["logs", "talk"]) == "before\n");
        disk.fill();
        let loss = || -> serde_json::Value {
            let text = world.ok(&["inspect", "--format", "{{json .Stack.LogLoss}}", "talk"]);
            serde_json::from_str(text.trim()).unwrap()
        };
        // As many as fill what is left of the file's last page, and more.
        let mut said = 0;
        eventually("lines are lost", || {
            talker.say(&"x".repeat(2000));
            talker.say("\n");
            said += 1;
            loss()["Reason"].as_str().is_some_and(|reason| reason.contains("No space left"))
        });
        assert_eq!(world.field("talk", "state"), "running");
        disk.clear();
        talker.say("after\n");
        eventually("it goes on", || world.ok(&["logs", "--tail", "1", "talk"]) == "after\n");
        eventually("it is over", || loss()["Reason"].is_null());
        let output = world.run(&["logs", "talk"]);
        let missing: usize = output.stderr.split(' ').nth(1).unwrap().parse().unwrap();
        assert!(output.stderr.contains(" missing here, since 2"), "{}", output.stderr);
        assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
        let kept = output.stdout.lines().filter(|line| line.starts_with('x')).count();
        assert_eq!((kept + missing, loss()["Lines"].as_u64()), (said, Some(missing as u64)), "{driver}");
        let events = world.ok(&["events", "--since", "1h", "--until", "0s", "--format", "{{.Action}}"]);
        assert!(events.lines().filter(|action| *action == "log_loss").count() >= 1, "{events}");
        talker.end();
        world.ok(&["rm", "talk"]);
    }
    drop(world);
}

/// A disk that can be made to hang: whoever writes to it waits for as long.
struct Hanging {
    place: PathBuf,
}

impl Hanging {
    fn mount(around: &World) -> Self {
        let (image, place) = (around.directory.join("image"), around.directory.join("hanging"));
        fs::File::create(&image).unwrap().set_len(96 << 20).unwrap();
        fs::create_dir_all(&place).unwrap();
        let (image, shown) = (image.to_str().unwrap(), place.to_str().unwrap());
        sh(&["mkfs.ext4", "-q", "-E", "nodiscard", image]);
        sh(&["mount", "-o", "loop", image, shown]);
        Self { place }
    }

    fn hang(&self) {
        sh(&["fsfreeze", "--freeze", self.place.to_str().unwrap()]);
    }

    fn go_on(&self) {
        sh(&["fsfreeze", "--unfreeze", self.place.to_str().unwrap()]);
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        // It may not hang at all.
        Command::new("fsfreeze").arg("--unfreeze").arg(&self.place).stderr(Stdio::null()).status().ok();
        umount2(&self.place, MntFlags::MNT_DETACH).ok();
    }
}

fn sh(words: &[&str]) {
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
}

/// `mode: non-blocking`: the container, its supervisor and whoever asks go on; what does not wait is counted and said.
#[test]
fn a_disk_that_hangs_holds_up_nobody_where_that_is_asked_for() {
    let around = World::new();
    let disk = Hanging::mount(&around);
    let mut world = World::at(disk.place.clone());
    world.roots.run = around.directory.join("n");
    let flags =
        ["--log-opt", "mode=non-blocking", "--log-opt", "max-buffer-size=64k", "--log-opt", "labels=a", "-l", "a=b"];
    let mut talker = Talker::start(&world, "talk", &flags);
    talker.say("before\n");
    eventually("it is written", || world.ok(&["logs", "talk"]) == "before\n");
    let lost = || -> u64 {
        let text = world.ok(&["inspect", "--format", "{{.Stack.LogLoss.Lines}}", "talk"]);
        text.trim().parse().unwrap()
    };
    disk.hang();
    let count = 30_000;
    talker.say(&(0..count).map(|number| format!("line {number} {}\n", "x".repeat(60))).collect::<String>());
    eventually("lines are dropped", || lost() > 0);
    world.ok(&["exec", "talk", "/whoami", "true"]);
    disk.go_on();
    eventually("it is said", || world.run(&["logs", "--tail", "1", "talk"]).stderr.contains("dropped before this"));
    talker.say("after\n");
    eventually("it goes on", || world.ok(&["logs", "--tail", "1", "talk"]) == "after\n");
    let output = world.run(&["logs", "talk"]);
    let missing: usize = output.stderr.split(' ').nth(1).unwrap().parse().unwrap();
    let kept = output.stdout.lines().filter(|line| line.starts_with("line ")).count();
    assert!(kept + missing == count && missing > 10_000, "{kept} {missing} {}", output.stderr);
    eventually("it is counted", || lost() == missing as u64);
    assert!(world.ok(&["logs", "--details", "--tail", "1", "talk"]).starts_with("a=b after"));
    // Nor does an end wait for it.
    disk.hang();
    talker.say("the end\n");
    world.ok(&["kill", "talk"]);
    eventually("it has ended", || world.field("talk", "state") == "exited");
    disk.go_on();
    eventually("the last line is kept", || world.ok(&["logs", "--tail", "1", "talk"]) == "the end\n");
    talker.kill();
    world.ok(&["rm", "talk"]);
}
