//! Volumes that are file systems of their own, mounted by the kernel's drivers: `type`, `o` and `device`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{World, eventually};
use crate::vm::assert_in_the_machine;

/// A file with an empty ext4 in it.
fn image(world: &World, name: &str) -> PathBuf {
    make(world, name, 16, &[])
}

fn make(world: &World, name: &str, megabytes: u64, options: &[&str]) -> PathBuf {
    let path = world.file(name, "");
    File::options().write(true).open(&path).unwrap().set_len(megabytes << 20).unwrap();
    run(Command::new("/sbin/mkfs.ext4").arg("-q").args(options).arg(&path));
    path
}

fn run(command: &mut Command) {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {done:?}");
}

/// The loop devices that have the file.
fn devices_of(file: &Path) -> Vec<PathBuf> {
    let has = |device: &PathBuf| {
        let backing = fs::read_to_string(device.join("loop/backing_file")).unwrap_or_default();
        Path::new(backing.trim_end()) == file
    };
    fs::read_dir("/sys/block").unwrap().map(|entry| entry.unwrap().path()).filter(has).collect()
}

#[test]
fn an_image_in_a_file_is_a_volume_for_as_long_as_the_volume_is_there() {
    let world = World::new();
    let file = fs::canonicalize(image(&world, "disk.ext4")).unwrap();
    world.file("beside/word", "beside");
    let text = "name: fs\ncontainers:\n  a: {image: \"builtin:whoami\", command: [sleep, forever], network_mode: none, \
                volumes: [\"disk:/d\", \"same:/same:ro\", \"beside:/beside\"], stop_grace_period: 0s}\nvolumes:\n  disk: &disk\n    driver_opts: \
                {type: ext4, o: \"noatime,nosuid,errors=remount-ro\", device: ./disk.ext4}\n  same: *disk\n  \
                beside: {driver_opts: {o: \"bind,ro\", device: beside}}\n";
    let stack = world.file("stack.yaml", text);
    let stack = stack.to_str().unwrap();
    world.ok(&["apply", stack]);
    world.ok(&["exec", "fs-a-1", "/whoami", "write", "/d/word", "hello"]);
    assert_eq!(world.ok(&["exec", "fs-a-1", "/whoami", "cat", "/beside/word"]), "beside");
    // Twice mounted it is the same file system, not two that write over each other.
    assert_eq!(world.ok(&["exec", "fs-a-1", "/whoami", "cat", "/same/word"]), "hello\n");
    let [device] = &devices_of(&file)[..] else { panic!("one device has it: {:?}", devices_of(&file)) };
    assert_eq!(fs::read_to_string(device.join("loop/autoclear")).unwrap(), "1\n");
    let data = world.roots.root.join("volumes/fs_disk/_data");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().find(|line| line.split(' ').nth(4) == data.to_str()).unwrap();
    let words: Vec<&str> = mount.split([' ', ',']).collect();
    assert!(["nosuid", "noatime", "ext4", "errors=remount-ro"].iter().all(|word| words.contains(word)), "{mount}");
    assert!(world.ok(&["plan", stack]).is_empty());
    world.ok(&["destroy", stack, "--volumes", "--yes=volumes"]);
    eventually("nothing holds the file", || devices_of(&file).is_empty());
    // What was in it is in the file.
    world.ok(&["apply", stack]);
    assert_eq!(world.ok(&["exec", "fs-a-1", "/whoami", "cat", "/d/word"]), "hello\n");
    world.ok(&["destroy", stack, "--volumes", "--yes=volumes"]);
    eventually("nothing holds the file", || devices_of(&file).is_empty());
}

/// What is refused is told as the option that it is refused for, in the kernel's words where it has any.
#[test]
fn a_mount_that_the_kernel_refuses_is_explained() {
    let world = World::new();
    let file = image(&world, "disk.ext4");
    let disk = format!("device={}", file.display());
    let missing = world.directory.join("none");
    let (none, nowhere) =
        (format!("device={}", missing.display()), format!("driver_opts.device: {}", missing.display()));
    let unknown = |kind: &str| format!("this kernel has no file system \"{kind}\"");
    // Without the client in the kernel that is what is said, and else that nobody answers.
    let remote = |kind: &str| match fs::read_to_string("/proc/filesystems").unwrap().contains(kind) {
        true => "the server 127.0.0.1 does not answer".to_owned(),
        false => unknown(kind),
    };
    let table: &[(&[&str], &[&str])] = &[
        (&["type=ext4", &disk, "o=colour=red"], &["driver_opts.o: `colour`", "ext4: Unknown parameter 'colour'"]),
        (&["type=ext4", &disk, "o=commit=soon"], &["driver_opts.o: `commit`", "help: correct the option"]),
        (&["type=xfs", &disk], &["there is no xfs on", "help: correct driver_opts.type"]),
        (&["type=ext4", &none], &[&nowhere, "help: make it"]),
        (&["o=bind", &none], &[&nowhere, "help: make it"]),
        (&["type=nosuch", &disk], &[&unknown("nosuch"), "help: correct driver_opts.type"]),
        (&["type=tmpfs", "o=size=much"], &["driver_opts.o: `size`", "Bad value for 'size'"]),
        (&["type=nfs", "device=127.0.0.1:/x", "o=soft,timeo=1,retrans=1"], &[&remote("nfs")]),
        (&["type=cifs", "device=//127.0.0.1/x", "o=addr=127.0.0.1"], &[&remote("cifs")]),
    ];
    for (options, words) in table {
        let create: Vec<&str> = options.iter().flat_map(|option| ["-o", *option]).collect();
        world.ok(&[&["volume", "create"], &create[..], &["v"]].concat());
        let said = world.run(&["run", "--rm", "--network", "none", "-v", "v:/d", "builtin:whoami", "true"]);
        assert!(said.code != 0 && said.stderr.contains("volume v: "), "{options:?}: {said:?}");
        assert!(words.iter().all(|word| said.stderr.contains(word)), "{options:?}: {words:?}: {}", said.stderr);
        world.ok(&["volume", "rm", "--now", "v"]);
        assert!(devices_of(&file).is_empty(), "{options:?}");
    }
}

/// The engine's own directory on a disk of its own, for as long as this is there.
struct Disk<'a>(&'a World);

impl<'a> Disk<'a> {
    fn mount(world: &'a World, file: &Path, options: &str) -> Self {
        fs::create_dir_all(&world.roots.root).unwrap();
        run(Command::new("mount").args(["-o", options]).arg(file).arg(&world.roots.root));
        Self(world)
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let root = &self.0.roots.root;
        let unmounts = || Command::new("umount").arg(root).stderr(Stdio::null()).status().unwrap().success();
        eventually("nobody is on the disk any more", unmounts);
    }
}

/// Of quotas as ext4 keeps them not every kernel knows.
#[test]
#[ignore = "needs the machine"]
fn a_volume_holds_no_more_than_its_size() {
    assert_in_the_machine();
    run(Command::new("modprobe").arg("loop"));
    let world = World::new();
    let file = make(&world, "quotas.ext4", 96, &["-O", "quota,project"]);
    {
        let _disk = Disk::mount(&world, &file, "loop");
        size_is_refused(&world, "it is mounted without");
    }
    let _disk = Disk::mount(&world, &file, "loop,prjquota");
    world.busybox("shell");
    let text = "name: q\nimages: {shell: {rootfs: ./shell}}\ncontainers:\n  a: {image: shell, command: [sleep, \"10000\"], \
                network_mode: none, volumes: [\"small:/small\", \"other:/other\"], stop_grace_period: 0s}\nvolumes:\n  \
                small: {driver_opts: {size: 4m}}\n  other: {driver_opts: {size: 8m}}\n";
    let stack = world.file("stack.yaml", text);
    let stack = stack.to_str().unwrap();
    world.ok(&["apply", stack]);
    let data = |name: &str| world.roots.root.join("volumes").join(name).join("_data");
    let fill = |place: &str| {
        let done = world.run(&[
            "exec",
            "q-a-1",
            "/bin/busybox",
            "dd",
            "if=/dev/zero",
            &format!("of=/{place}/big"),
            "bs=1M",
            "count=16",
        ]);
        assert!(done.code != 0 && done.stderr.contains("quota exceeded"), "{done:?}");
        fs::metadata(data(&format!("q_{place}")).join("big")).unwrap().len()
    };
    let (small, other) = (fill("small"), fill("other"));
    assert!((3 << 20..=4 << 20).contains(&small) && (7 << 20..=8 << 20).contains(&other), "{small} {other}");
    // What is taken away makes room again, and what comes back from a snapshot is held as well.
    world.ok(&["exec", "q-a-1", "rm", "/small/big"]);
    world.ok(&["volume", "snapshot", "--live", "--yes", "q_small", "empty"]);
    assert_eq!(fill("small"), small);
    world.ok(&["stop", "q-a-1"]);
    world.ok(&["volume", "restore", "--yes", "q_small", "empty"]);
    world.ok(&["start", "q-a-1"]);
    assert_eq!(fill("small"), small);
    assert!(world.ok(&["plan", stack]).is_empty());
    world.ok(&["destroy", stack, "--volumes", "--yes=volumes", "--now"]);
}

#[test]
fn a_size_that_nobody_holds_a_volume_to_is_refused() {
    let world = World::new();
    let file = make(&world, "plain.ext4", 16, &["-O", "^quota,^project"]);
    let _disk = Disk::mount(&world, &file, "loop");
    size_is_refused(&world, "does not limit projects");
    let said = world.fails(1, &["volume", "create", "-o", "size=1m", "-o", "type=tmpfs", "v"]);
    assert!(said.contains("help: for a volume in memory"), "{said}");
}

fn size_is_refused(world: &World, words: &str) {
    let said = world.fails(1, &["volume", "create", "-o", "size=1m", "v"]);
    assert!(said.contains("volume v: driver_opts.size: the disk of") && said.contains(words), "{said}");
    assert!(said.contains("help: mount it with the option `prjquota`"), "{said}");
    assert_eq!(world.ok(&["volume", "ls", "-q"]), "");
    assert!(!world.roots.root.join("volumes/v").exists());
}
