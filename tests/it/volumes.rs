//! Volumes, bind mounts and what becomes of them, through the command line.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use crate::support::World;

fn volume(world: &World, name: &str) -> PathBuf {
    world.roots.root.join("volumes").join(name).join("_data")
}

fn attribute(path: &Path) -> Option<Vec<u8>> {
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let mut value = vec![0; 64];
    // SAFETY: both names are NUL-terminated and the buffer's length is passed.
    let length =
        unsafe { libc::lgetxattr(path.as_ptr(), c"user.note".as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    usize::try_from(length).ok().map(|length| value[..length].to_vec())
}

#[test]
fn a_new_volume_has_what_the_image_has_there_and_keeps_what_it_is_given() {
    let world = World::new();
    let root = world.busybox("root");
    let data = root.join("data");
    fs::create_dir_all(data.join("deep")).unwrap();
    fs::write(data.join("deep/file"), "from the image").unwrap();
    fs::hard_link(data.join("deep/file"), data.join("again")).unwrap();
    symlink("/etc/passwd", data.join("link")).unwrap();
    chown(data.join("deep/file"), Some(70), Some(71)).unwrap();
    fs::set_permissions(data.join("deep/file"), fs::Permissions::from_mode(0o4750)).unwrap();
    chown(&data, Some(33), Some(34)).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o1733)).unwrap();
    let name = std::ffi::CString::new(data.join("deep/file").to_str().unwrap()).unwrap();
    // SAFETY: both names are NUL-terminated and the value's length is passed.
    assert_eq!(unsafe { libc::setxattr(name.as_ptr(), c"user.note".as_ptr(), b"kept".as_ptr().cast(), 4, 0) }, 0);
    let file = world.file(
        "stack.yaml",
        r#"
name: v
images: {shell: {rootfs: ./root}}
containers:
  first: {image: shell, command: [sleep, "10000"], network_mode: none, volumes: ["filled:/data"], stop_grace_period: 0s}
  plain: {image: shell, command: [sleep, "10000"], network_mode: none, volumes: ["bare:/data:nocopy"], stop_grace_period: 0s}
volumes: {filled: {}, bare: {}}
"#,
    );
    let file = file.to_str().unwrap();
    world.ok(&["apply", file]);
    let filled = volume(&world, "v_filled");
    let stat = |name: &str| fs::symlink_metadata(filled.join(name)).unwrap();
    let (top, copy) = (stat(""), stat("deep/file"));
    assert_eq!((top.uid(), top.gid(), top.mode() & 0o7777), (33, 34, 0o1733));
    assert_eq!((copy.uid(), copy.gid(), copy.mode() & 0o7777, copy.nlink()), (70, 71, 0o4750, 2));
    assert_eq!(stat("again").ino(), copy.ino());
    assert_eq!(fs::read_link(filled.join("link")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(attribute(&filled.join("deep/file")).as_deref(), Some(&b"kept"[..]));
    assert_eq!(fs::read_dir(volume(&world, "v_bare")).unwrap().count(), 0);
    // Once only: what was taken away stays away.
    fs::remove_file(filled.join("again")).unwrap();
    world.ok(&["destroy", "v"]);
    world.ok(&["apply", file]);
    assert!(!filled.join("again").exists() && filled.join("deep/file").exists());
    world.ok(&["destroy", "v", "--volumes", "--yes=volumes"]);
    assert_eq!(world.ok(&["volume", "ls", "-q"]), "");
}

#[test]
fn a_volume_without_a_name_goes_with_its_stack_and_no_sooner() {
    let world = World::new();
    let text = |variable: u8| {
        format!(
            "name: v\ncontainers:\n  a: {{image: \"builtin:whoami\", command: [sleep, forever], network_mode: none, \
             environment: {{X: \"{variable}\"}}, volumes: [/kept, {{type: bind, source: ./made, target: /m, \
             bind: {{create_host_path: true}}}}], stop_grace_period: 1s}}\n"
        )
    };
    let file = world.file("stack.yaml", &text(1));
    let file = file.to_str().unwrap();
    let first = world.run(&["apply", file]);
    let made = world.directory.join("made");
    let warning = format!("warning: container a: {} is not there: an empty directory is made", made.display());
    assert!(first.code == 0 && first.stderr.contains(&warning) && made.is_dir(), "{first:?}");
    let again = world.run(&["apply", file]);
    assert!(again.stderr.contains("nothing to do") && !again.stderr.contains("warning"), "{again:?}");
    world.ok(&["exec", "v-a-1", "/whoami", "write", "/kept/word", "hello"]);
    world.file("stack.yaml", &text(2));
    world.ok(&["apply", file]);
    assert_eq!(world.ok(&["exec", "v-a-1", "/whoami", "cat", "/kept/word"]), "hello\n");
    assert_eq!(world.ok(&["volume", "ls", "-q"]).lines().count(), 1);
    let said = world.fails(1, &["destroy", "v", "--volumes"]);
    assert!(said.contains("data would be lost"), "{said}");
    assert_eq!(world.field("v-a-1", "state"), "running");
    world.ok(&["destroy", "v"]);
    assert_eq!(world.ok(&["volume", "ls", "-q"]).lines().count(), 1);
    world.ok(&["destroy", "v", "--volumes", "--yes=volumes"]);
    assert_eq!(world.ok(&["volume", "ls", "-q"]), "");
}

/// In our own files a path that is not there is a slip unless they say otherwise; in Compose's it is made.
#[test]
fn a_bind_mount_of_nothing_is_an_error_in_our_files_and_made_in_those_of_compose() {
    let world = World::new();
    let text = |name: &str, section: &str, mount: &str| {
        format!(
            "name: {name}\n{section}:\n  a: {{image: \"builtin:whoami\", network_mode: none, volumes: [\n    {mount}]}}\n"
        )
    };
    let short = "\"./none:/x\"";
    let long = |bind: &str| format!("{{type: bind, source: ./none, target: /x{bind}}}");
    let (yes, no) = (long(", bind: {create_host_path: true}"), long(", bind: {create_host_path: false}"));
    let none = world.directory.join("none");
    let refused: [(&str, &str, &str); 4] = [
        ("stack.yaml", "containers", short),
        ("stack.yaml", "containers", &long("")),
        ("stack.yaml", "containers", &no),
        ("compose.yaml", "services", &no),
    ];
    for (name, section, mount) in refused {
        let file = world.file(name, &text("refused", section, mount));
        for command in ["plan", "apply"] {
            let said = world.fails(1, &[command, file.to_str().unwrap()]);
            let what = format!("bind mount {}: no such file or directory", none.display());
            assert!(said.contains(&what) && said.contains(&format!("{name}:4:5")), "{mount}: {said}");
            assert!(said.contains("`bind: {create_host_path: true}`"), "{mount}: {said}");
        }
        assert!(!none.exists() && world.names().is_empty(), "{mount}");
    }
    let taken: [(&str, &str, &str); 4] = [
        ("stack.yaml", "containers", &yes),
        ("compose.yaml", "services", short),
        ("compose.yaml", "services", &long("")),
        ("compose.yaml", "services", &yes),
    ];
    for (name, section, mount) in taken {
        let file = world.file(name, &text("taken", section, mount));
        let done = world.run(&["apply", file.to_str().unwrap()]);
        let warning = format!("{} is not there: an empty directory is made", none.display());
        assert!(done.code == 0 && done.stderr.contains(&warning) && none.is_dir(), "{mount}: {done:?}");
        fs::remove_dir(&none).unwrap();
        world.ok(&["destroy", file.to_str().unwrap()]);
    }
}

#[test]
fn a_removed_volume_is_in_the_trash_and_comes_back() {
    let world = World::new();
    world.ok(&["volume", "create", "data"]);
    fs::write(volume(&world, "data").join("word"), "kept").unwrap();
    world.ok(&["volume", "rm", "data"]);
    assert_eq!(world.ok(&["volume", "ls", "-q"]), "");
    assert!(world.ok(&["volume", "ls", "--trash"]).contains("data@"));
    world.ok(&["volume", "undelete", "data"]);
    assert_eq!(fs::read_to_string(volume(&world, "data").join("word")).unwrap(), "kept");
    world.ok(&["volume", "rm", "data"]);
    world.ok(&["volume", "prune", "--trash", "--force"]);
    let said = world.fails(1, &["volume", "undelete", "data"]);
    assert!(said.contains("no volume \"data\" is in the trash"), "{said}");
    world.ok(&["volume", "create", "data"]);
    world.ok(&["volume", "rm", "--now", "data"]);
    assert_eq!(world.ok(&["volume", "ls", "--trash", "-q"]), "");
    // What nobody named is not kept.
    world.ok(&["run", "--rm", "--network", "none", "-v", "/data", "builtin:whoami", "write", "/data/word", "x"]);
    assert_eq!(world.ok(&["volume", "ls", "--trash", "-q"]) + &world.ok(&["volume", "ls", "-q"]), "");
}

#[test]
fn a_volume_in_use_is_not_copied_unasked_and_travels_as_an_archive() {
    let world = World::new();
    let run =
        ["run", "-d", "--name", "c", "--network", "none", "-v", "data:/data", "builtin:whoami", "sleep", "forever"];
    world.ok(&run);
    let word = volume(&world, "data").join("word");
    fs::write(&word, "first").unwrap();
    let said = world.fails(1, &["volume", "snapshot", "data", "one", "--yes"]);
    assert!(said.contains("in use: c") && said.contains("--pause"), "{said}");
    assert_eq!(world.ok(&["volume", "snapshot", "data", "one", "--pause", "--yes"]), "one\n");
    assert_eq!(world.field("c", "state"), "running");
    fs::write(&word, "second").unwrap();
    let said = world.fails(1, &["volume", "restore", "data", "one", "--yes"]);
    assert!(said.contains("stop these containers first"), "{said}");
    assert_eq!(world.ok(&["exec", "c", "/whoami", "cat", "/data/word"]), "second");
    world.ok(&["rm", "-f", "c"]);
    world.ok(&["volume", "restore", "data", "one", "--yes"]);
    assert_eq!(fs::read_to_string(&word).unwrap(), "first");
    let archive = world.directory.join("data.tar");
    let archive = archive.to_str().unwrap();
    chown(&word, Some(70), Some(71)).unwrap();
    world.ok(&["volume", "export", "data", "-o", archive]);
    assert_eq!(fs::metadata(archive).unwrap().mode() & 0o777, 0o600);
    world.ok(&["volume", "import", "other", "-i", archive]);
    let other = volume(&world, "other").join("word");
    assert_eq!(fs::read_to_string(&other).unwrap(), "first");
    assert_eq!((fs::metadata(&other).unwrap().uid(), fs::metadata(&other).unwrap().gid()), (70, 71));
    world.file("broken.tar", "no archive");
    let broken = world.directory.join("broken.tar");
    world.fails(1, &["volume", "import", "third", "-i", broken.to_str().unwrap()]);
    assert_eq!(world.ok(&["volume", "ls", "-q"]), "data\nother\n");
}

/// A snapshot is there as a whole or not at all, and a volume that is restored has the one or the other content.
#[test]
fn a_snapshot_or_a_restore_that_is_killed_at_any_moment_is_whole_or_none() {
    const MOMENTS: u32 = 8;
    const FILES: usize = 200;
    let world = World::new();
    world.ok(&["volume", "create", "data"]);
    let data = volume(&world, "data");
    let fill = |word: &str| (0..FILES).for_each(|file| fs::write(data.join(file.to_string()), word).unwrap());
    let words = |directory: &Path| -> Vec<String> {
        let all = fs::read_dir(directory).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
        let mut all: Vec<String> = all.collect();
        assert_eq!(all.len(), FILES);
        all.dedup();
        all
    };
    fill("old");
    let begun = Instant::now();
    world.ok(&["volume", "snapshot", "data", "good", "--yes"]);
    let took = begun.elapsed();
    let killed = |words: &[&str], moment: u32| {
        let mut child = world.command(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(took * moment / MOMENTS);
        child.kill().unwrap();
        child.wait().unwrap();
    };
    for moment in 0..MOMENTS {
        killed(&["volume", "snapshot", "data", "next", "--yes"], moment);
        if world.ok(&["volume", "ls-snapshots", "data"]).contains("next") {
            world.ok(&["volume", "rm-snapshot", "data", "next"]);
        }
        world.ok(&["volume", "snapshot", "data", "next", "--yes"]);
        assert_eq!(words(&data.parent().unwrap().join("snapshots/next/_data")), ["old"]);
        world.ok(&["volume", "rm-snapshot", "data", "next"]);
        fill("new");
        killed(&["volume", "restore", "data", "good", "--yes"], moment);
        assert!([["old"], ["new"]].iter().any(|one| words(&data) == one));
        world.ok(&["volume", "restore", "data", "good", "--yes"]);
        assert_eq!(words(&data), ["old"]);
    }
    let left: Vec<_> = fs::read_dir(data.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}
