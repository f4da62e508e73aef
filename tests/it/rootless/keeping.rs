//! The process that keeps a user's namespaces: when it ends, and what becomes of containers when it is killed.

use super::{User, eventually, free_port, get};

const HOLDER: &str = " holder --root ";

fn stack(port: u16) -> String {
    format!(
        r#"
name: kept
containers:
  web: {{image: "builtin:whoami", ports: ["127.0.0.1:{port}:80"], stop_grace_period: 0s, restart: always}}
  alone: {{image: "builtin:whoami", network_mode: none, stop_grace_period: 0s}}
"#
    )
}

fn apply(user: &User) -> (u16, String) {
    let port = free_port();
    let file = user.world.file("stack.yaml", &stack(port)).display().to_string();
    user.ok(&format!("stack apply {file}"));
    eventually("it serves", || get(port, "/").is_ok());
    (port, file)
}

/// Those of the containers, which nothing but the end of the container ends.
fn programs(user: &User) -> Vec<u32> {
    let all = user.processes().into_iter().filter(|(_, line)| line.trim() == "/whoami");
    all.map(|(pid, _)| pid).collect()
}

#[test]
fn another_takes_the_place_of_one_that_was_killed() {
    let user = User::new(true);
    let (port, file) = apply(&user);
    let (before, programs_before) = (user.pids(HOLDER), programs(&user));
    let uplink = user.pids("pasta");
    assert_eq!((before.len(), programs_before.len()), (1, 2));
    user.kill(&before);
    assert!(get(port, "/").is_ok(), "what serves ports lives on");
    // Both have what only the namespaces that there were have.
    assert!(user.ok("stack exec kept-alone-1 /whoami id").contains("Uid:\t0"));
    assert!(user.ok("stack exec kept-web-1 /whoami client http://web/").contains("name: kept-web-1"));
    assert!(user.ok(&format!("stack status {file}")).contains("nothing to do"));
    let after = user.pids(HOLDER);
    assert!(after.len() == 1 && after != before);
    assert_eq!((programs(&user), user.pids("pasta")), (programs_before, uplink), "nothing was started again");
    // Sockets of the host are had from the new one.
    let more = free_port();
    let run = format!("stack run -d --name more -p 127.0.0.1:{more}:80 builtin:whoami");
    user.ok(&run);
    eventually("it serves", || get(more, "/").is_ok());
    // Nor is it lost where only a supervisor, and no command and no network, has the way back.
    user.ok("stack rm -f more kept-web-1");
    eventually("nothing is served", || user.pids(" netd ").is_empty());
    user.kill(&user.pids(HOLDER));
    assert!(user.ok("stack exec kept-alone-1 /whoami id").contains("Uid:\t0"));
    user.ok("stack destroy kept; stack network prune -f");
}

#[test]
fn what_nobody_can_reach_any_more_is_ended_and_said() {
    let user = User::new(false);
    let (port, file) = apply(&user);
    user.kill(&[HOLDER, " netd ", " shim "].map(|words| user.pids(words)).concat());
    assert_eq!(programs(&user).len(), 2);
    let said = user.ok("stack ps -a");
    assert!(said.contains("2 processes of containers that nobody supervised any more were ended"), "{said}");
    assert!(said.contains("Exited (255)") && programs(&user).is_empty(), "{said}");
    user.ok(&format!("stack apply {file}"));
    eventually("it serves", || get(port, "/").is_ok());

    // As a reboot leaves it, where what is volatile lies on a disk.
    user.kill_all();
    let said = user.ok("stack ps -a");
    assert!(said.contains("Exited (255)") && !said.contains("were ended"), "{said}");
    user.ok(&format!("stack apply {file}"));
    eventually("it serves", || get(port, "/").is_ok());
    user.ok("stack destroy kept");
}

#[test]
fn it_ends_with_what_needs_it() {
    let user = User::lacking(false, &["pasta", "slirp4netns"]);
    user.ok("stack run -d --name one --network none builtin:whoami");
    assert_eq!(user.pids(HOLDER).len(), 1);
    user.ok("stack rm -f one");
    eventually("it has ended", || user.processes().is_empty());
    // Who comes at the moment of its end finds the next one.
    for _ in 0..10 {
        user.ok("stack ps & one=$!; stack ps; stack images; wait $one");
    }
}

/// As after a reboot: nothing is left but what is on the disk.
#[test]
fn what_ran_is_brought_back_after_a_reboot() {
    let user = User::new(true);
    let (port, file) = apply(&user);
    let all: Vec<u32> = user.processes().into_iter().map(|(pid, _)| pid).collect();
    user.kill(&all);
    eventually("nothing runs", || user.processes().is_empty());
    user.ok("rm -r $XDG_RUNTIME_DIR/stack");
    let unit = user.ok("stack system unit");
    assert!(unit.contains("WantedBy=default.target") && !unit.contains("network-online"), "{unit}");
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    user.ok(start);
    eventually("it serves again", || get(port, "/").is_ok());
    assert_eq!(programs(&user).len(), 1, "what is not to come back does not");
    assert!(user.ok(&format!("stack status {file} || true")).contains("kept: 1 to start"));
    user.ok(unit.lines().find_map(|line| line.strip_prefix("ExecStop=")).unwrap());
    assert!(programs(&user).is_empty());
    user.ok(start);
    eventually("it serves once more", || get(port, "/").is_ok());
    user.ok("stack destroy kept; stack network prune -f");
}

#[test]
fn two_users_do_not_meet() {
    let users = [User::new(true), User::new(false)];
    let ports = [free_port(), free_port()];
    for (user, port) in users.iter().zip(ports) {
        user.ok(&format!("stack run -d --name web -p 127.0.0.1:{port}:80 builtin:whoami"));
    }
    for (user, port) in users.iter().zip(ports) {
        assert!(user.ok("stack ps").contains(&port.to_string()));
        eventually("it serves", || get(port, "/").is_ok_and(|page| page.contains("name: web")));
    }
    let [ann, bob] = &users;
    let said = bob.fails(&format!("STACK_RUN_ROOT={} stack ps", ann.roots().run.display()));
    assert!(said.contains("Permission denied"), "{said}");
    ann.ok("stack rm -f web; stack network prune -f");
    assert!(get(ports[0], "/").is_err() && get(ports[1], "/").is_ok());
    bob.ok("stack rm -f web; stack network prune -f");
}
