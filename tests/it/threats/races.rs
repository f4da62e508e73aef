//! Races: what a mount, a copy or a terminal is made on changes into a link to the host meanwhile, and back.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::json;

use super::{Canary, image, rounds, run};
use crate::oci_runtime::Bundle;
use crate::support::World;

/// Two names that are exchanged in one step, as renameat2(2) does it, again and again until this is dropped.
struct Swap {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Swap {
    fn of(one: PathBuf, other: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let exchange = move || renameat2(AT_FDCWD, &one, AT_FDCWD, &other, RenameFlags::RENAME_EXCHANGE).unwrap();
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                exchange();
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || ended.is_some_and(|ended| ended.is_ok()));
    }
}

/// A world with the canary, an image, and a volume in which `at` is a directory, or for a moment a link to the canary.
struct Race {
    world: World,
    canary: Canary,
    shared: PathBuf,
}

impl Race {
    fn new() -> Self {
        let world = World::new();
        let canary = Canary::new(&world);
        image(&world, "plain", &json!({}), |_| ());
        world.ok(&["volume", "create", "shared"]);
        let shared = world.roots.root.join("volumes/shared/_data");
        Self { world, canary, shared }
    }

    /// A directory at `at`, and a link to the canary by an absolute or a relative path, which take turns.
    fn swap_directory(&self, absolute: bool) -> Swap {
        let at = self.shared.join("at");
        fs::create_dir_all(at.join("own")).unwrap();
        let target = match absolute {
            true => self.canary.path.clone(),
            // More steps up than there are, so that it leads to the host's root from wherever the volume is seen.
            false => Path::new(&"../".repeat(12)).join(self.canary.path.strip_prefix("/").unwrap()),
        };
        symlink(target, self.shared.join("link")).unwrap();
        Swap::of(at, self.shared.join("link"))
    }

    fn forget(&self) {
        for name in ["at", "link"] {
            let path = self.shared.join(name);
            fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path)).unwrap();
        }
    }

    #[track_caller]
    fn over(self, ran: usize) {
        assert!(ran > 0, "not one round came to its end");
        self.world.ok(&["volume", "rm", "shared"]);
    }
}

/// CVE-2021-30465, CVE-2024-45310: the target of a mount becomes a link to the host's while a container is started.
#[test]
fn a_target_that_is_swapped_meanwhile_leads_nowhere() {
    let race = Race::new();
    fs::write(race.world.directory.join("mounted"), "x").unwrap();
    let file = format!("{}:/data/at/ptmx", race.world.directory.join("mounted").display());
    let mut ran = 0;
    for absolute in [true, false] {
        let swap = race.swap_directory(absolute);
        for round in 0..rounds() / 2 {
            let more: [&str; 4] = match round % 3 {
                0 => ["--tmpfs", "/data/at/inner", "-w", "/"],
                1 => ["--tmpfs", "/data/at/new", "-w", "/data/at/new/deep"],
                _ => ["-v", &file, "-w", "/"],
            };
            let flags = [&["-v", "shared:/data"], &more[..]].concat();
            let output = run(&race.world, &flags, "plain", &["sh", "-c", "echo evil >/data/at/inner/file; echo ran"]);
            assert!(output.code == 125 || output.stdout == "ran\n", "{output:?}");
            ran += usize::from(output.code == 0);
            race.canary.is_untouched("a mount");
        }
        drop(swap);
        race.forget();
    }
    race.over(ran);
}

/// CVE-2021-25741 of an orchestrator: a part of a volume is mounted, and becomes a link to the host's after it was looked
/// at, be it while the container is started or while it is stopped.
#[test]
fn a_part_of_a_volume_that_is_swapped_meanwhile_is_of_the_volume() {
    let race = Race::new();
    let swap = race.swap_directory(true);
    let part = ["--mount", "type=volume,source=shared,target=/x,volume-subpath=at"];
    let mut ran = 0;
    for round in 0..rounds() {
        let userns = ["--userns", if round % 3 == 0 { "private" } else { "host" }];
        let flags = [&part[..], &userns].concat();
        let output = run(&race.world, &flags, "plain", &["sh", "-c", "echo evil >/x/file; ls /x; rm /x/file"]);
        assert!(output.code == 125 || output.stdout == "file\nown\n", "{output:?}");
        ran += usize::from(output.code == 0);
        race.canary.is_untouched("a part of a volume");
    }
    drop(swap);
    // One that was made before is not started on a link, and shows nothing of it to a copy.
    let is_link = |name: &str| fs::symlink_metadata(race.shared.join(name)).unwrap().is_symlink();
    let to_link = || fs::rename(race.shared.join("link"), race.shared.join("at")).unwrap();
    if is_link("at") {
        renameat2(AT_FDCWD, &race.shared.join("at"), AT_FDCWD, &race.shared.join("link"), RenameFlags::RENAME_EXCHANGE)
            .unwrap();
    }
    race.world.ok(&[&["run", "--name", "box", "--network", "none"], &part[..], &["plain.tar", "ls", "/x"]].concat());
    fs::rename(race.shared.join("at"), race.shared.join("was")).unwrap();
    to_link();
    let said = race.world.fails(1, &["start", "box"]);
    assert!(said.contains("mount /x: source"), "{said}");
    let file = race.world.file("new", "evil");
    race.world.run(&["cp", file.to_str().unwrap(), "box:/x/file"]);
    assert!(race.world.fails(1, &["cp", "box:/x/ptmx", "stolen"]).contains("there is no"));
    race.canary.is_untouched("a part of a volume that was a directory when it was declared");
    race.world.ok(&["rm", "box"]);
    race.over(ran);
}

/// CVE-2019-19921, CVE-2023-27561, CVE-2025-52881: the root is on a file system that others change, and its /proc becomes
/// a link while the kernel's is mounted, hidden in parts and written to.
#[test]
fn proc_that_is_swapped_meanwhile_is_the_kernels_and_hidden_or_nothing_starts() {
    let world = World::new();
    let canary = Canary::new(&world);
    // Whichever of both names the kernel's procfs has just now: it shows nothing of what is hidden, and has the setting.
    let script = "for n in 1 2 3 4; do cat /proc/timer_list /link/timer_list /proc/keys /link/keys; done 2>/dev/null; \
                  while :; do for d in /proc /link; do v=$(cat $d/sys/net/ipv4/ip_unprivileged_port_start 2>/dev/null); \
                  case $v in [0-9]*) echo $v; exit; esac; done; done";
    let bundle = Bundle::new(&world, script, |config| {
        config["linux"]["maskedPaths"] = json!(["/proc/timer_list", "/proc/keys", "/proc/interrupts"]);
        config["linux"]["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "77"});
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|one| one["type"] != "network");
        namespaces.push(json!({"type": "network"}));
    });
    let root = bundle.directory.join("rootfs");
    for name in ["evil/sys/net/ipv4", "evil/self/attr", "proc"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    let evil = root.join("evil/sys/net/ipv4/ip_unprivileged_port_start");
    fs::write(&evil, "evil").unwrap();
    let mut ran = 0;
    for target in [PathBuf::from("/evil"), canary.path.clone()] {
        symlink(&target, root.join("link")).unwrap();
        let swap = Swap::of(root.join("proc"), root.join("link"));
        for _ in 0..rounds() / 2 {
            let output = bundle.run(&["run", "--bundle", bundle.directory.to_str().unwrap(), &bundle.id]);
            let is_real = output.code == 0 && output.stdout == "77\n";
            assert!(is_real || output.code != 0 && output.stdout.is_empty(), "{output:?}");
            ran += usize::from(output.code == 0);
            canary.is_untouched("proc");
            assert_eq!(fs::read_to_string(&evil).unwrap(), "evil");
            bundle.run(&["delete", "--force", &bundle.id]);
        }
        drop(swap);
        if fs::symlink_metadata(root.join("proc")).unwrap().is_symlink() {
            fs::rename(root.join("proc"), root.join("was")).unwrap();
            fs::rename(root.join("link"), root.join("proc")).unwrap();
            fs::rename(root.join("was"), root.join("link")).unwrap();
        }
        fs::remove_file(root.join("link")).unwrap();
    }
    assert!(ran > 0, "not one round came to its end");
    bundle.leaves_nothing();
}

/// CVE-2025-52565, CVE-2025-31133: the directory of devices is a volume that another container changes: what is written to
/// as a terminal is one, and what is hidden is hidden by the null device, or nothing starts.
#[test]
fn devices_that_are_swapped_meanwhile_are_the_kernels_or_nothing_starts() {
    let race = Race::new();
    let device = |name: &str, minor: u64| {
        let mode = Mode::from_bits_truncate(0o666);
        mknod(&race.shared.join(name), SFlag::S_IFCHR, mode, makedev(1, minor)).unwrap();
    };
    device("null", 3);
    device("zero", 5);
    fs::write(race.shared.join("console"), "").unwrap();
    for name in ["link", "other"] {
        symlink(race.canary.path.join("ptmx"), race.shared.join(name)).unwrap();
    }
    let swaps = [("null", "link"), ("console", "other")];
    let swaps = swaps.map(|(one, other)| Swap::of(race.shared.join(one), race.shared.join(other)));
    // The host's terminals stand in for those of the container, which has none below a volume.
    let flags = ["-t", "-v", "shared:/dev", "-v", "/dev/pts:/dev/pts"];
    let script = "test -t 0 && test -t 1 && cat /proc/timer_list /proc/keys | /bin/busybox wc -c; echo ran";
    let mut ran = 0;
    for _ in 0..rounds() {
        let output = run(&race.world, &flags, "plain", &["sh", "-c", script]);
        assert!(output.code == 125 || output.stdout == "0\r\nran\r\n", "{output:?}");
        ran += usize::from(output.code == 0);
        race.canary.is_untouched("a device");
    }
    drop(swaps);
    race.over(ran);
}

/// The same for who joins: a container swaps the names of its terminals while others are opened in it.
#[test]
fn a_terminal_is_of_the_kernel_whatever_a_container_swaps() {
    let race = Race::new();
    let host = race.canary.path.join("ptmx").display().to_string();
    let swap = format!(
        "cd /dev; while :; do ln -s {host} x; mv -f x ptmx; ln -s {host} y; mv -f y tty; ln -s pts/ptmx x; mv -f x ptmx; done"
    );
    race.world.ok(&["run", "-d", "-t", "--name", "box", "--network", "none", "plain.tar", "sh", "-c", &swap]);
    let mut ran = 0;
    for _ in 0..rounds() {
        let output = race.world.run(&["exec", "-t", "box", "sh", "-c", "test -t 0 && test -t 1 && echo ran"]);
        assert_eq!((output.code, output.stdout.as_str()), (0, "ran\r\n"), "{output:?}");
        ran += 1;
    }
    race.canary.is_untouched("a terminal");
    race.world.ok(&["rm", "-f", "box"]);
    race.over(ran);
}

/// CVE-2018-15664, CVE-2026-41568, CVE-2026-42306: a copy from and to a container that is stopped mounts its volumes, below
/// a directory that becomes a link to the host's meanwhile.
#[test]
fn a_copy_mounts_nothing_at_a_place_that_is_swapped_meanwhile() {
    let race = Race::new();
    fs::write(race.world.directory.join("mounted"), "of the mount").unwrap();
    fs::write(race.world.directory.join("new"), "evil").unwrap();
    let file = format!("{}:/data/at/file", race.world.directory.join("mounted").display());
    let mounts = ["-v", "shared:/data", "-v", "other:/data/at/inner", "-v", &file];
    race.world
        .ok(&[&["run", "--name", "box", "--network", "none"], &mounts[..], &["plain.tar", "ls", "/data"]].concat());
    fs::remove_dir_all(race.shared.join("at")).unwrap();
    let mut ran = 0;
    for absolute in [true, false] {
        let swap = race.swap_directory(absolute);
        for _ in 0..rounds() / 2 {
            ran += usize::from(race.world.run(&["cp", "new", "box:/data/at/inner/evil"]).code == 0);
            race.world.run(&["cp", "new", "box:/data/at/ptmx"]);
            let mut stolen = race.world.command(&["cp", "box:/data/at/file", "-"]);
            let stolen = stolen.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
            let stolen = stolen.wait_with_output().unwrap().stdout;
            assert!(!String::from_utf8_lossy(&stolen).contains("alive"), "a file of the host was read");
            race.canary.is_untouched("a copy");
        }
        drop(swap);
        race.forget();
    }
    race.world.ok(&["rm", "box"]);
    race.world.ok(&["volume", "rm", "other"]);
    race.over(ran);
}
