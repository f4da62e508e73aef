//! Hosts as they are found: where their users' directories are, and what they forbid.

use std::process::Command;

use super::{User, eventually};

#[test]
fn without_a_runtime_directory_a_private_one_is_made() {
    let user = User::new(false);
    let place = format!("/tmp/stack-{}", user.uid);
    let data = user.home().join("data");
    let said = user.ok(&format!(
        "unset XDG_RUNTIME_DIR; export XDG_DATA_HOME={}; stack run --rm --network none builtin:whoami id; ls -ld {place}",
        data.display()
    ));
    assert!(said.contains("drwx------") && data.join("stack/images").is_dir(), "{said}");
    eventually("nothing runs", || user.processes().is_empty());
    std::fs::remove_dir_all(&place).unwrap();
    // Somebody else was there first.
    std::os::unix::fs::symlink("/var", &place).unwrap();
    let said = user.fails("unset XDG_RUNTIME_DIR; stack ps");
    std::fs::remove_file(&place).unwrap();
    assert!(said.contains("it is not a directory") && said.contains("XDG_RUNTIME_DIR"), "{said}");
}

#[test]
fn a_home_without_set_uid_programs_is_no_hindrance() {
    let user = User::new(true);
    user.own_directory("other");
    let place = user.world.directory.join("other");
    let options = format!("nosuid,nodev,mode=700,uid={0},gid={0}", user.uid);
    let mount = |words: &[&str]| assert!(Command::new(words[0]).args(&words[1..]).status().unwrap().success());
    mount(&["mount", "-t", "tmpfs", "-o", &options, "none", place.to_str().unwrap()]);
    let script = "stack run --rm --network none --user 1000 builtin:whoami id";
    let (ok, said) = user.sh(&format!("XDG_DATA_HOME={} {script}", place.display()));
    eventually("nothing runs", || user.processes().is_empty());
    mount(&["umount", place.to_str().unwrap()]);
    assert!(ok && said.contains("Uid:\t1000\t1000"), "{said}");
}

/// In a user namespace of the test's, which has the setting for itself.
#[test]
fn a_host_that_forbids_user_namespaces_is_told_from_others() {
    let mut user = User::new(false);
    let mut host = Command::new("unshare").args(["-U", "sleep", "infinity"]).spawn().unwrap();
    let own = std::fs::read_link("/proc/self/ns/user").unwrap();
    let theirs = format!("/proc/{}/ns/user", host.id());
    eventually("it is in its own", || std::fs::read_link(&theirs).is_ok_and(|theirs| theirs != own));
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{}/{map}", host.id()), "0 0 100000").unwrap();
    }
    let enter = format!("nsenter --user --target {}", host.id());
    let forbid = format!("{enter} sh -c 'echo 0 > /proc/sys/user/max_user_namespaces'");
    assert!(Command::new("sh").args(["-c", &forbid]).status().unwrap().success());
    user.through = enter;
    let run = user.sh("stack run --rm --network none builtin:whoami id");
    let doctor = user.sh("stack doctor");
    host.kill().unwrap();
    host.wait().unwrap();
    for (ok, said) in [&run, &doctor] {
        let cure = "help: as root: `sysctl user.max_user_namespaces=10000`";
        assert!(!ok && said.contains("user.max_user_namespaces is 0") && said.contains(cure), "{said}");
    }
    assert!(doctor.1.contains("not tried without a user namespace"), "{}", doctor.1);
    assert!(doctor.1.contains("Containers can't run here until what is MISSING is mended"), "{}", doctor.1);
}

#[test]
fn what_is_the_hosts_own_is_refused_by_its_name() {
    let user = User::new(true);
    let run = |words: &str| user.fails(&format!("stack run --rm {words} builtin:whoami id"));
    let said = run("-p 127.0.0.1:80:80");
    assert!(said.contains("net.ipv4.ip_unprivileged_port_start=80"), "{said}");
    assert!(run("--network none --pid host").contains("`pid: host` needs root"));
    user.ok("stack run --rm --network none --ipc host builtin:whoami id; stack network prune -f");
    let said = user.ok("stack doctor");
    for tried in ["overlayfs           ok     works in", "nftables            ok\n", "bridges             ok\n"] {
        assert!(said.lines().any(|line| format!("{}\n", line.trim_end()).starts_with(tried)), "{tried}: {said}");
    }
}
