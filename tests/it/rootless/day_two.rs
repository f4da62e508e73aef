//! What else is done with containers, images and volumes, by a user without control groups, as on most hosts.

use std::process::Stdio;

use super::{User, eventually, free_port, get};
use crate::image::server::Registry;
use crate::support::terminal::Terminal;

/// A context of a build, whose image is `tools`: a shell, and files of an ordinary user's.
fn build(user: &User) {
    user.world.busybox("context/root");
    user.world.file(
        "context/Dockerfile",
        "FROM scratch\nCOPY root /\nRUN echo made > /made; chown 1000:1000 /made; id > /who\nUSER 1000\n\
         RUN id\nCMD [\"sleep\", \"1000\"]\n",
    );
    user.ok("stack build -q -t tools context; stack network prune --force");
}

#[test]
fn images_are_built_pushed_pulled_saved_and_committed() {
    let user = User::new(true);
    build(&user);
    let registry = Registry::start(&user.world.directory, None);
    let name = format!("{}/tools:1", registry.address);
    let run = "stack run --rm --network none";
    user.ok(&format!("stack tag tools {name}; stack push {name}; stack rmi {name} tools"));
    user.fails(&format!("{run} --pull never {name} true"));
    user.ok(&format!("stack pull {name}"));
    assert!(user.ok(&format!("{run} {name} ls -ln /made")).contains(" 1000     1000 "));
    user.ok(&format!("stack save -o home/image.tar {name}; stack rmi {name}; stack load -i home/image.tar"));
    assert!(user.ok(&format!("{run} {name} cat /who")).starts_with("uid=0"));
    // A suspended container can't be had; what is there is taken.
    user.ok(&format!("stack run -d --name one --user 0 --network none {name} sh -c 'echo new > /tmp/new; sleep 1000'"));
    eventually("it has written", || user.ok("stack diff one").contains("A /tmp/new"));
    user.ok("stack commit one changed");
    assert_eq!(user.ok(&format!("{run} changed cat /tmp/new")), "new\n");
    assert!(user.ok("stack export one | tar t").contains("tmp/new\n"));
    user.ok("stack rm -f one; stack system prune --all --force");
    assert_eq!(user.ok("stack images -q"), "");
}

#[test]
fn containers_are_looked_at_changed_and_refused_what_cannot_be() {
    let user = User::new(true);
    build(&user);
    user.ok("stack run -d --name one --network none tools sh -c 'echo said; sleep 1000 & sleep 2000'");
    user.ok("echo in > home/in; stack cp home/in one:/tmp/in; stack exec one cat /tmp/in; stack cp one:/made home/out");
    assert_eq!(user.ok("cat home/out; stack logs one"), "made\nsaid\n");
    let top = user.ok("stack top one");
    assert!(top.contains("sleep 1000") && top.contains("sleep 2000") && top.lines().count() == 3, "{top}");
    let stats = user.ok("stack stats --no-stream --format json one");
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    assert!(stats[0]["pids"] == 2 && stats[0]["memory_bytes"].as_u64().unwrap() > 0, "{stats}");

    for refused in ["stack pause one", "stack update --memory 64m one", "stack run --cpus 1 --network none tools true"]
    {
        let said = user.fails(refused);
        assert!(
            said.contains("an ordinary user has no control groups here") && said.contains("Delegate=yes"),
            "{said}"
        );
    }
    // What was refused is nowhere written down.
    user.ok("stack update --restart on-failure one; stack rename one two; stack restart -t 0 two");
    let (waiting, said) = (user.command("stack wait two").stdout(Stdio::piped()).spawn().unwrap(), user.ok("stack ps"));
    assert!(said.contains("two"), "{said}");
    user.ok("stack kill two");
    assert_eq!(String::from_utf8_lossy(&waiting.wait_with_output().unwrap().stdout), "137\n");
    let events = user.ok("stack events --since 1h --until 0s");
    for word in ["create", "start", "rename", "kill", "die"] {
        assert!(events.contains(&format!(" container {word} ")), "{word}: {events}");
    }
    // One without a supervisor is found, and what it writes meanwhile is not lost.
    user.ok("stack run -d --name three --network none tools sh -c 'while :; do echo line; sleep 0.1; done'");
    user.kill(&user.pids(" shim "));
    let before = user.ok("stack logs three").lines().count();
    eventually("it goes on", || user.ok("stack logs three").lines().count() > before + 3);
    user.ok("stack rm -f two three; stack ps -a -q | xargs -r stack rm");
}

#[test]
fn a_terminal_is_the_containers() {
    let user = User::new(true);
    build(&user);
    let mut terminal = Terminal::start(user.command("exec stack run -it --rm --network none --user 0 tools sh"));
    terminal.types("tty; stty size\n");
    terminal.reads("/dev/pts/0");
    terminal.reads("30 100");
    terminal.types("exit 3\n");
    assert_eq!(terminal.end().0, 3);
}

fn stack(port: u16) -> String {
    format!(
        r#"
name: app
secrets: {{word: {{file: ./home/word}}}}
containers:
  web:
    image: builtin:whoami
    ports: ["127.0.0.1:{port}:80"]
    volumes: ["data:/data"]
    environment: {{COUNTER_FILE: /data/hits}}
    secrets: [word]
    stop_grace_period: 0s
    healthcheck: {{test: ["CMD", "/whoami", "health"], interval: 1s}}
  after: {{image: "builtin:whoami", stop_grace_period: 0s, depends_on: {{web: {{condition: service_healthy}}}}}}
volumes: {{data: {{}}}}
"#
    )
}

#[test]
fn a_stack_is_watched_and_its_data_kept() {
    let user = User::new(true);
    let port = free_port();
    user.ok("umask 077; echo first > home/word");
    user.world.file("stack.yaml", &stack(port));
    let mut watcher = user.command("exec stack watch stack.yaml");
    let mut watcher = watcher.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let secret = || user.sh("stack exec app-web-1 /whoami cat /run/secrets/word").1;
    eventually("it runs", || user.ok("stack ps").contains("app-after-1") && secret() == "first\n");
    assert!(user.ok("stack ps").contains("(healthy)"));
    user.ok("echo second > home/word");
    eventually("it has the new one", || secret() == "second\n");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(watcher.id() as i32), nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(watcher.wait().unwrap().success());

    assert!(get(port, "/").unwrap().contains("hits: 1"));
    user.ok("stack volume snapshot app_data before --live --yes");
    assert!(get(port, "/").unwrap().contains("hits: 2"));
    user.ok("stack stop app-web-1; stack volume restore app_data before --yes; stack start app-web-1");
    eventually("it serves", || get(port, "/").is_ok_and(|page| page.contains("hits: 2")));
    user.ok("stack destroy app --volumes --yes=volumes");
    assert!(user.ok("stack volume undelete app_data; stack volume ls").contains("app_data"));
    user.ok("stack volume rm app_data; stack volume prune --trash --force");
    assert_eq!(user.ok("stack volume ls -q; ls home/.local/share/stack/volumes"), "");
}
