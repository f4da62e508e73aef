//! A pull from a real registry that ends at any system call, by a signal or a disk that fails, and a power cut at any
//! moment of it: the store has the old image or the new one, whole; nothing half made stays; the next pull has the new.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::registries::User;
use super::server::{Registry, layer_tar};
use super::storing::noise;
use crate::support::{Output, World, eventually, finish};
use crate::sweep::{most, some, traced};

/// What changes files and their names, where a process can be killed before it.
const CHANGES: &str = "mkdir,mkdirat,mknodat,rename,renameat,renameat2,unlink,unlinkat,rmdir,linkat,symlinkat,openat2,\
                       fchmod,fchmodat,fchown,fchownat,utimensat,setxattr,fsync,fdatasync,syncfs,ftruncate,flock,sendto";
const WRITES: &str = "write,pwrite64,writev,pwritev,copy_file_range";
/// What a disk that is full or broken refuses.
const DISK: &str = "mkdir,mkdirat,mknodat,rename,renameat,renameat2,linkat,symlinkat,fsync,fdatasync,syncfs,ftruncate,\
                    write,pwrite64,copy_file_range";

/// The `generation`-th image: one layer that all have, and one of its own with everything that a layer can have.
fn layers(generation: u64) -> Vec<Vec<u8>> {
    let common = layer_tar(&[("bin/tool", 0o4755, b"tool"), ("etc/noise", 0o644, &noise(300_000, 1))]);
    let word = generation.to_string();
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |kind: tar::EntryType, path: &str, link: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        match link {
            "" => tar.append_data(&mut header, path, content).unwrap(),
            _ => tar.append_link(&mut header, path, link).unwrap(),
        }
    };
    add(tar::EntryType::Directory, "a/b/c/", "", b"");
    add(tar::EntryType::Regular, "a/generation", "", word.as_bytes());
    add(tar::EntryType::Regular, "a/noise", "", &noise(400_000, generation + 2));
    add(tar::EntryType::Link, "a/again", "a/noise", b"");
    add(tar::EntryType::Symlink, "a/link", "generation", b"");
    add(tar::EntryType::Regular, "etc/.wh.gone", "", b"");
    add(tar::EntryType::Regular, "a/b/.wh..wh..opq", "", b"");
    vec![common, tar.into_inner().unwrap()]
}

/// Every file below the store but those that only say when something was used, or are locks.
fn content(world: &World) -> BTreeSet<PathBuf> {
    fn below(directory: &Path, all: &mut BTreeSet<PathBuf>) {
        for entry in fs::read_dir(directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                below(&path, all);
            } else {
                all.insert(path);
            }
        }
    }
    let images = world.roots.root.join("images");
    let mut all = BTreeSet::new();
    below(&images, &mut all);
    let apart = ["uses", "lock", "downloads/locks"].map(|name| images.join(name));
    all.into_iter().filter(|path| !apart.iter().any(|one| path.starts_with(one))).collect()
}

struct Pulls {
    world: World,
    // Ends before its directory is looked at.
    registry: Registry,
    served: World,
    image: String,
    digests: [String; 2],
    /// What the store holds with the old and with the new image alone.
    contents: [BTreeSet<PathBuf>; 2],
}

impl Pulls {
    /// The old image is in the store, the new one in the registry.
    fn new() -> Self {
        let (world, served) = (World::new(), World::new());
        let registry = Registry::start(&served.directory, None);
        let image = format!("{}/app:1", registry.address);
        let mut pulls =
            Self { world, served, registry, image, digests: Default::default(), contents: Default::default() };
        for at in [1, 0] {
            pulls.registry.push("app", "1", &layers(at), None);
            fs::remove_dir_all(&pulls.world.roots.root).ok();
            pulls.user().ok(&["pull", &pulls.image]);
            pulls.digests[at as usize] = pulls.digest();
            pulls.contents[at as usize] = content(&pulls.world);
        }
        assert_ne!(pulls.digests[0], pulls.digests[1]);
        pulls.registry.push("app", "1", &layers(1), None);
        copy(&pulls.world.roots.root, &pulls.kept());
        pulls
    }

    fn user(&self) -> User<'_> {
        User { world: &self.world }
    }

    fn kept(&self) -> PathBuf {
        self.served.directory.join("kept")
    }

    fn digest(&self) -> String {
        self.user().ok(&["images", "--format", "{{.Digest}}", &self.image]).trim().to_owned()
    }

    /// The old image alone is there again.
    fn back(&self) {
        fs::remove_dir_all(&self.world.roots.root).unwrap();
        copy(&self.kept(), &self.world.roots.root);
    }

    fn command(&self) -> Command {
        self.user().command(&["pull", &self.image])
    }

    /// After one that ended as it did.
    fn check(&self, what: &str, prunes: bool) {
        let user = self.user();
        let digest = self.digest();
        let is = self.digests.iter().position(|one| *one == digest);
        let is = is.unwrap_or_else(|| panic!("{what}: neither the old nor the new: {digest:?}"));
        assert!(!user.ok(&["image", "verify"]).contains("DAMAGED"), "{what}");
        if prunes {
            user.ok(&["image", "prune", "--force"]);
            assert_eq!(content(&self.world), self.contents[is], "{what}: what nobody needs is gone");
        }
        user.ok(&["pull", &self.image]);
        assert_eq!(self.digest(), self.digests[1], "{what}");
        user.ok(&["image", "verify"]);
        user.ok(&["image", "prune", "--force"]);
        assert_eq!(content(&self.world), self.contents[1], "{what}: something half made stays");
    }

    /// Whether it was the very message that could not be written.
    fn could_not_say(&self) -> bool {
        let log = fs::read_to_string(self.world.directory.join("trace")).unwrap();
        log.lines().any(|line| line.contains("write(2, \"error") && line.contains("INJECTED"))
    }

    /// With each of some of these calls as the last good one; returns how many pulls that ended.
    fn sweep(&self, rule: &str, calls: &str, count: usize) -> usize {
        self.back();
        let most = most(&self.world, &self.command(), calls);
        let mut ended = 0;
        for (number, turn) in some(most, count).enumerate() {
            self.back();
            let output = traced(&self.world, &self.command(), &format!("{rule}:when={turn}"), calls);
            let what = format!("{rule} at {turn} of {most}: {output:?}");
            if output.code != 0 {
                ended += 1;
                let said = output.stderr.contains("error") || self.could_not_say();
                let said = rule.starts_with("signal") || output.code == 1 && said;
                assert!(said, "{what}");
            } else {
                assert_eq!(self.digest(), self.digests[1], "it said so: {what}");
            }
            self.check(&what, number % 2 == 0);
        }
        ended
    }
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

#[test]
fn a_pull_killed_before_any_change_leaves_the_old_image_or_the_new() {
    let pulls = Pulls::new();
    let killed = pulls.sweep("signal=KILL", CHANGES, 20) + pulls.sweep("signal=KILL", WRITES, 12);
    assert!(killed > 8, "strace killed {killed} only");
}

#[test]
fn a_pull_onto_a_disk_that_fails_at_any_call_costs_an_error_and_nothing_else() {
    let pulls = Pulls::new();
    for error in ["error=ENOSPC", "error=EIO"] {
        let failed = pulls.sweep(error, DISK, 15);
        assert!(failed > 3, "{error}: {failed} only");
    }
}

/// A file system of its own, which can be cut off its disk as by a power cut.
struct Disk {
    file: PathBuf,
    at: PathBuf,
}

impl Disk {
    fn new(directory: &Path) -> Self {
        let (file, at) = (directory.join("disk"), directory.join("at"));
        fs::create_dir(&at).unwrap();
        File::create(&file).unwrap().set_len(96 << 20).unwrap();
        run(Command::new("/sbin/mkfs.ext4").args(["-q", "-E", "lazy_itable_init=0"]).arg(&file));
        let disk = Self { file, at };
        disk.mount();
        disk
    }

    fn mount(&self) {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.file).arg(&self.at));
    }

    /// What another thread of the tests has just started holds open files of all until it is another program.
    fn unmount(&self) {
        let unmounts = || Command::new("umount").arg(&self.at).stderr(Stdio::null()).status().unwrap().success();
        eventually("nobody is on the disk any more", unmounts);
    }

    /// From now on nothing reaches the disk, not even what its journal has not written yet.
    fn cut(&self) {
        /// `EXT4_IOC_SHUTDOWN`, as xfs's `XFS_IOC_GOINGDOWN`; `include/uapi/linux/ext4.h`.
        const SHUTDOWN: libc::c_ulong = 0x8004_587d;
        const WITHOUT_LOG: u32 = 2;
        let directory = File::open(&self.at).unwrap();
        // SAFETY: the call reads one number from this address.
        let code = unsafe { libc::ioctl(directory.as_raw_fd(), SHUTDOWN, &WITHOUT_LOG) };
        assert_eq!(code, 0, "{}", std::io::Error::last_os_error());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.unmount();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// When the power is cut.
#[derive(Clone, Copy)]
enum Cut {
    After(Duration),
    /// As soon as the pull has said that it is done.
    AtItsEnd,
}

fn pull_and_cut(user: &User<'_>, image: &str, disk: &Disk, cut: Cut) -> Output {
    let words = ["pull", image];
    let child = user.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let Cut::After(moment) = cut else {
        let output = finish(child, &words);
        disk.cut();
        return output;
    };
    // The moment is what the test is about: there is no event to wait for.
    std::thread::sleep(moment);
    disk.cut();
    finish(child, &words)
}

#[test]
fn a_power_cut_at_any_moment_of_a_pull_leaves_the_old_image_or_the_new() {
    // Where no container of another test has the disk among its mounts.
    let rounds = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        cut_the_power_during_pulls();
    });
    rounds.join().unwrap();
}

fn cut_the_power_during_pulls() {
    /// Whose moments cover a pull.
    const WITHIN: u32 = 24;
    const AFTER: u32 = 4;
    let outer = World::new();
    let registry = Registry::start(&outer.directory, None);
    let image = format!("{}/app:1", registry.address);
    let disk = Disk::new(&outer.directory);
    let mut world = World::at(outer.directory.join("w"));
    fs::create_dir(&world.directory).unwrap();
    world.roots.root = disk.at.join("r");
    let user = User { world: &world };
    let digest = || user.ok(&["images", "--format", "{{.Digest}}", &image]).trim().to_owned();
    let push = |generation: u32| {
        let pushed = registry.push("app", "1", &layers(u64::from(generation)), None);
        pushed["digest"].as_str().unwrap().to_owned()
    };
    push(0);
    user.ok(&["pull", &image]);
    push(1);
    let begun = Instant::now();
    user.ok(&["pull", &image]);
    let took = begun.elapsed();
    let mut broken = 0;
    for round in 0..WITHIN + AFTER {
        let (old, new) = (digest(), push(round + 2));
        let cut = if round < WITHIN { Cut::After(took * (2 * round + 1) / (2 * WITHIN)) } else { Cut::AtItsEnd };
        let output = pull_and_cut(&user, &image, &disk, cut);
        disk.unmount();
        disk.mount();
        let (what, found) = (format!("round {round}: {output:?}"), digest());
        broken += usize::from(output.code != 0);
        match output.code {
            0 => assert_eq!(found, new, "it said so: {what}"),
            _ => assert!(round < WITHIN && (found == old || found == new), "{found}: {what}"),
        }
        assert!(!user.ok(&["image", "verify"]).contains("DAMAGED"), "{what}");
        user.ok(&["pull", &image]);
        assert_eq!(digest(), new, "{what}");
        assert!(!user.ok(&["image", "verify"]).contains("DAMAGED"), "{what}");
        user.ok(&["image", "prune", "--force"]);
        let images = world.roots.root.join("images");
        for folder in ["tmp", "leases"] {
            assert_eq!(fs::read_dir(images.join(folder)).unwrap().count(), 0, "{folder}: {what}");
        }
        assert_eq!(fs::read_dir(images.join("layers")).unwrap().count(), 2, "{what}");
    }
    assert!(broken > 5, "cut before the end {broken} times only");
    drop(registry);
}
