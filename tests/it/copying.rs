//! `cp`: into containers and out of them, running or not, by docker's rules, and never outside of them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::support::World;
use crate::sweep::traced;

/// A container with a shell that is there and waits, or has ended.
fn shell(world: &World, name: &str, words: &[&str]) {
    if !world.directory.join("shell").exists() {
        let root = world.busybox("root");
        fs::create_dir_all(root.join("srv/sub")).unwrap();
        fs::write(root.join("srv/a"), "of the image").unwrap();
        symlink("/srv/a", root.join("srv/link")).unwrap();
        symlink("/srv/sub", root.join("srv/dirlink")).unwrap();
        let archive = world.archive("shell", "root", &serde_json::json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]}));
        world.ok(&["image", "load", "-i", archive.to_str().unwrap()]);
    }
    world
        .ok(&[&["run", "-d", "--name", name, "--network", "none"], words, &["shell:latest", "sleep", "1000000"]]
            .concat());
}

fn inside(world: &World, script: &str) -> String {
    world.ok(&["exec", "box", "sh", "-c", script])
}

fn there(world: &World, path: &str) -> PathBuf {
    world.directory.join(path)
}

/// Docker's table: what is there already and the slash at the end decide.
#[test]
fn slashes_and_what_is_there_decide_as_with_docker() {
    let world = World::new();
    shell(&world, "box", &[]);
    fs::create_dir_all(there(&world, "dir/inner")).unwrap();
    fs::write(there(&world, "dir/inner/x"), "x").unwrap();
    fs::write(there(&world, "file"), "new").unwrap();
    for (source, target, path) in [
        ("file", "box:/tmp/made", "/tmp/made"),
        ("file", "box:/tmp", "/tmp/file"),
        ("file", "box:/tmp/", "/tmp/file"),
        ("file", "box:tmp/relative", "/tmp/relative"),
        ("./file", "box:/srv/a", "/srv/a"),
        ("dir", "box:/tmp", "/tmp/dir/inner/x"),
        ("dir", "box:/tmp/fresh", "/tmp/fresh/inner/x"),
        ("dir/", "box:/tmp/fresh2", "/tmp/fresh2/inner/x"),
        ("dir/.", "box:/tmp", "/tmp/inner/x"),
        ("dir/.", "box:/tmp/fresh3", "/tmp/fresh3/inner/x"),
    ] {
        world.ok(&["cp", source, target]);
        let found = inside(&world, &format!("cat {path}; rm -r {path}"));
        assert!(["new", "x"].contains(&found.as_str()), "{source} {target}: {found}");
    }
    for (source, target, part) in [
        ("file", "box:/tmp/none/", "no directory"),
        ("file", "box:/none/file", "there is no /none"),
        ("none", "box:/tmp", "there is no"),
        ("dir", "box:/etc/passwd", "is a file"),
        ("file/", "box:/tmp", "not a directory"),
        ("file", "box:/etc/passwd/", "not a directory"),
        ("box:/none", ".", "there is no /none"),
        ("box:/srv", "file", "is a file"),
        ("file", "dir", "CONTAINER:PATH"),
        ("file", "bx:/tmp", "did you mean `box`?"),
    ] {
        let said = world.fails(1, &["cp", source, target]);
        assert!(said.contains(part), "{source} {target}: {said}");
    }
    inside(&world, "busybox printf 'of the image' > /srv/a");
    // A directory is not replaced by a file of its name.
    fs::write(there(&world, "srv"), "a file").unwrap();
    assert!(world.fails(1, &["cp", "srv", "box:/"]).contains("a directory is there"));
    fs::remove_file(there(&world, "srv")).unwrap();
    assert_eq!(world.run(&["cp", "box:/srv", "."]).stderr, "copied 12B to .\n");
    assert_eq!(fs::read_to_string(there(&world, "srv/a")).unwrap(), "of the image");
    world.ok(&["cp", "-q", "box:/srv/.", "dir"]);
    assert_eq!(fs::read_to_string(there(&world, "dir/a")).unwrap(), "of the image");
    // A link is copied as one; followed, it is what it leads to inside.
    world.ok(&["cp", "box:/srv/link", "link"]);
    assert_eq!(fs::read_link(there(&world, "link")).unwrap(), PathBuf::from("/srv/a"));
    world.ok(&["cp", "-L", "box:/srv/link", "followed"]);
    assert_eq!(fs::read_to_string(there(&world, "followed")).unwrap(), "of the image");
    // Where it goes to, a link is followed.
    world.ok(&["cp", "file", "box:/srv/dirlink"]);
    assert_eq!(inside(&world, "cat /srv/sub/file"), "new");
    world.ok(&["cp", "file", "box:/srv/link"]);
    assert_eq!(inside(&world, "cat /srv/a; test -L /srv/link && echo still"), "newstill\n");
    world.ok(&["rm", "-f", "box"]);
}

/// Copies are the caller's here and root's there; with -a they stay whose they are, with modes and times.
#[test]
fn owners_and_modes_are_as_with_docker() {
    let world = World::new();
    for userns in ["host", "private"] {
        shell(&world, "box", &["--userns", userns]);
        let script = there(&world, "script");
        fs::write(&script, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o751)).unwrap();
        std::os::unix::fs::chown(&script, Some(1000), Some(1000)).unwrap();
        world.ok(&["cp", "script", "box:/tmp/plain"]);
        world.ok(&["cp", "-a", "script", "box:/tmp/kept"]);
        world.ok(&["cp", "script", "box:/srv/a"]);
        let seen = inside(&world, "for f in /tmp/plain /tmp/kept /srv/a; do busybox stat -c '%u:%g %a' $f; done");
        assert_eq!(seen, "0:0 751\n1000:1000 751\n0:0 751\n", "{userns}");
        inside(&world, "busybox chown 1000:7 /tmp/plain");
        world.ok(&["cp", "box:/tmp/plain", "out"]);
        world.ok(&["cp", "-a", "box:/tmp/plain", "kept"]);
        let owner = |path: &str| fs::metadata(there(&world, path)).map(|data| (data.uid(), data.gid())).unwrap();
        assert_eq!((owner("out"), owner("kept")), ((0, 0), (1000, 7)), "{userns}");
        // Stopped, the same files have the same owners.
        world.ok(&["stop", "-t", "0", "box"]);
        world.ok(&["cp", "-a", "script", "box:/tmp/stopped"]);
        world.ok(&["cp", "-a", "box:/tmp/plain", "stopped"]);
        assert_eq!(owner("stopped"), (1000, 7), "{userns}");
        world.ok(&["start", "box"]);
        assert_eq!(inside(&world, "busybox stat -c '%u:%g %a' /tmp/stopped"), "1000:1000 751\n", "{userns}");
        world.ok(&["rm", "-f", "box"]);
    }
}

/// Volumes and bound files are a part of what a container has, also while it is stopped; read-only is read-only.
#[test]
fn volumes_are_reached_whether_or_not_it_runs() {
    let world = World::new();
    fs::write(there(&world, "bound"), "bound").unwrap();
    fs::write(there(&world, "file"), "new").unwrap();
    let bound = format!("{}:/srv/bound", there(&world, "bound").display());
    shell(&world, "box", &["-v", "data:/data", "-v", "data:/fixed:ro", "-v", &bound]);
    fs::create_dir(there(&world, "out")).unwrap();
    for name in ["while", "stopped"] {
        world.ok(&["cp", "file", &format!("box:/data/{name}")]);
        world.ok(&["cp", &format!("box:/data/{name}"), "out"]);
        assert_eq!(fs::read_to_string(there(&world, "out").join(name)).unwrap(), "new");
        world.ok(&["cp", "file", "box:/srv/bound"]);
        assert_eq!(fs::read_to_string(there(&world, "bound")).unwrap(), "new");
        fs::write(there(&world, "bound"), "bound").unwrap();
        assert!(world.fails(1, &["cp", "file", "box:/fixed/x"]).contains("Read-only"), "{name}");
        world.ok(&["stop", "-t", "0", "box"]);
    }
    world.ok(&["start", "box"]);
    assert_eq!(inside(&world, "ls /data"), "stopped\nwhile\n");
    world.ok(&["rm", "-f", "box"]);
    world.ok(&["run", "--name", "ro", "--read-only", "--network", "none", "shell:latest", "id"]);
    assert!(world.fails(1, &["cp", "file", "ro:/tmp/x"]).contains("Read-only"));
    world.ok(&["rm", "ro"]);
    world.ok(&["volume", "rm", "data"]);
}

#[test]
fn a_tar_goes_both_ways_and_between_containers() {
    let world = World::new();
    shell(&world, "box", &[]);
    shell(&world, "other", &[]);
    fs::create_dir_all(there(&world, "dir")).unwrap();
    fs::write(there(&world, "dir/x"), "x").unwrap();
    let mut tar =
        Command::new("tar").arg("-C").arg(&world.directory).args(["-c", "dir"]).stdout(Stdio::piped()).spawn().unwrap();
    let into = world.command(&["cp", "-", "box:/tmp"]).stdin(tar.stdout.take().unwrap()).status().unwrap();
    assert!(into.success() && tar.wait().unwrap().success());
    assert_eq!(inside(&world, "cat /tmp/dir/x"), "x");
    let mut out = world.command(&["cp", "box:/tmp/dir", "-"]).stdout(Stdio::piped()).spawn().unwrap();
    let listed = Command::new("tar").arg("t").stdin(out.stdout.take().unwrap()).output().unwrap();
    assert_eq!(String::from_utf8(listed.stdout).unwrap(), "dir\ndir/x\n");
    assert!(out.wait().unwrap().success());
    assert!(world.fails(1, &["cp", "-", "box:/none"]).contains("there is no /none"));
    let broken = world.run_with(&["cp", "-", "box:/tmp"], &"no tar at all ".repeat(100));
    assert!(broken.code == 1 && broken.stderr.contains("archive"), "{broken:?}");
    world.ok(&["cp", "box:/tmp/dir", "other:/srv"]);
    assert_eq!(world.ok(&["exec", "other", "cat", "/srv/dir/x"]), "x");
    world.ok(&["stop", "-t", "0", "other"]);
    world.ok(&["cp", "other:/srv/dir/x", "other:/tmp/again"]);
    world.ok(&["cp", "other:/tmp/again", "box:/tmp/back"]);
    assert_eq!(inside(&world, "cat /tmp/back"), "x");
    world.ok(&["rm", "-f", "box", "other"]);
}

/// Whatever links a container makes, also while a copy goes on: nothing of the host is read or written.
#[test]
fn links_never_lead_out() {
    let world = World::new();
    let secret = there(&world, "secret");
    fs::create_dir_all(&secret).unwrap();
    fs::write(secret.join("x"), "of the host").unwrap();
    fs::write(there(&world, "file"), "new").unwrap();
    shell(&world, "box", &["-v", "data:/data"]);
    let host = secret.display();
    inside(
        &world,
        &format!("ln -s {host} /tmp/out; ln -s ../../../../../../..{host} /tmp/up; ln -s /proc/1/root /tmp/root"),
    );
    for path in ["/tmp/out/x", "/tmp/up/x"] {
        assert!(world.fails(1, &["cp", &format!("box:{path}"), "stolen"]).contains("there is no"), "{path}");
    }
    for target in ["box:/tmp/out/x", "box:/tmp/up/x", "box:/tmp/out/"] {
        world.fails(1, &["cp", "file", target]);
    }
    world.run(&["cp", "file", "box:/tmp/out"]);
    world.run(&["cp", "file", "box:/tmp/root/tmp/y"]);
    // A directory that becomes a link again and again.
    let flip = format!("while :; do mkdir /data/d; rm -r /data/d; ln -s {host} /data/d; rm /data/d; done");
    world.ok(&["exec", "-d", "box", "sh", "-c", &flip]);
    for _ in 0..crate::threats::rounds() {
        world.run(&["cp", "file", "box:/data/d/x"]);
        world.run(&["cp", "box:/data/d/x", "raced"]);
    }
    assert_eq!(fs::read_to_string(secret.join("x")).unwrap(), "of the host");
    assert_eq!(fs::read_dir(&secret).unwrap().count(), 1);
    let raced = fs::read_to_string(there(&world, "raced")).unwrap_or_default();
    assert_ne!(raced, "of the host");
    world.ok(&["rm", "-f", "box"]);
    world.ok(&["volume", "rm", "data"]);
}

/// Archives are unpacked by the engine itself, never by a program, and least of all by one of the image's.
#[test]
fn no_program_unpacks_an_archive() {
    let world = World::new();
    let root = world.busybox("root");
    let trojan = format!("#!/bin/sh\necho evil >{}\n", there(&world, "evil").display());
    for name in ["gzip", "gunzip", "unpigz", "pigz", "zstd", "unzstd", "xz", "unxz", "tar"] {
        fs::write(root.join("bin").join(name), &trojan).unwrap();
        fs::set_permissions(root.join("bin").join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let archive = world.archive("shell", "root", &serde_json::json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]}));
    let plain = fs::read(&archive).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &plain).unwrap();
    let packed = [("gz", gzip.finish().unwrap()), ("zst", zstd::encode_all(plain.as_slice(), 1).unwrap())];
    let xz = b"\xfd7zXZ\0\0\x04\xe6\xd6\xb4F and more".to_vec();
    let program = format!("execve(\"{}\"", world.roots.program.display());
    let check = |words: &[&str], code: i32| {
        let output = traced(&world, &world.command(words), "", "execve,execveat");
        assert_eq!(output.code, code, "{words:?}: {output:?}");
        let log = fs::read_to_string(there(&world, "trace")).unwrap();
        let others: Vec<&str> =
            log.lines().filter(|line| line.contains("execve") && !line.contains(&program)).collect();
        assert!(log.contains(&program) && others.is_empty(), "{words:?}: {others:?}");
        assert!(!there(&world, "evil").exists(), "{words:?}");
    };
    for (end, bytes) in packed.iter().cloned().chain([("xz", xz)]) {
        let path = there(&world, &format!("shell.{end}"));
        fs::write(&path, bytes).unwrap();
        check(&["load", "-i", path.to_str().unwrap()], i32::from(end == "xz"));
        check(&["import", path.to_str().unwrap(), "plain"], i32::from(end == "xz"));
    }
    world.ok(&["run", "-d", "--name", "box", "--network", "none", "shell:latest", "sleep", "1000000"]);
    for end in ["gz", "zst", "xz"] {
        check(&["cp", there(&world, &format!("shell.{end}")).to_str().unwrap(), "box:/tmp/packed"], 0);
    }
    check(&["cp", "box:/bin", "out"], 0);
    world.ok(&["rm", "-f", "box"]);
}
