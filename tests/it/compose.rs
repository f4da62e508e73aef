//! Attributes of Compose as the kernel sees them: one stack a topic, applied, then looked at from outside through /proc.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

use stack::runtime::cgroup::Abilities;

use crate::support::{World, eventually, free_port, get};

/// A Compose file of these services, applied as the stack `c`.
struct Applied {
    world: World,
}

impl Applied {
    fn new(text: &str) -> Self {
        let world = World::new();
        files(&world);
        world.file("compose.yaml", text);
        let applied = Self { world };
        applied.apply();
        applied
    }

    fn apply(&self) -> String {
        let output = self.world.run(&["apply", "-p", "c", "--wait", "compose.yaml"]);
        assert_eq!(output.code, 0, "{}", output.stderr);
        output.stderr
    }

    fn pid(&self, service: &str) -> i64 {
        let pid = self.world.field(&format!("c-{service}-1"), "pid").as_i64();
        pid.filter(|pid| *pid > 0).unwrap_or_else(|| panic!("{service} does not run"))
    }

    /// A file of the container's process below /proc/PID.
    fn proc(&self, service: &str, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.pid(service))).unwrap()
    }

    /// A value of /proc/PID/status.
    fn status(&self, service: &str, key: &str) -> String {
        let text = self.proc(service, "status");
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t"));
        value.unwrap_or_else(|| panic!("{key}: {text}")).trim().replace('\t', " ")
    }

    /// What the host calls its root.
    fn first_id(&self, service: &str) -> u32 {
        self.proc(service, "uid_map").split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// As [`Applied::status`], ids as its own user namespace has them.
    fn ids(&self, service: &str, key: &str) -> String {
        let first = self.first_id(service);
        let inside = |id: &str| (id.parse::<u32>().unwrap() - first).to_string();
        self.status(service, key).split(' ').map(inside).collect::<Vec<_>>().join(" ")
    }

    /// A file as the container has it, seen from the host.
    fn inside(&self, service: &str, path: &str) -> String {
        format!("/proc/{}/root{path}", self.pid(service))
    }

    fn text(&self, service: &str, path: &str) -> String {
        fs::read_to_string(self.inside(service, path)).unwrap_or_else(|error| panic!("{service} {path}: {error}"))
    }

    /// The line of /proc/PID/mountinfo for this target: options of the mount and of the file system.
    fn mount(&self, service: &str, target: &str) -> String {
        let text = self.proc(service, "mountinfo");
        let line = text.lines().find(|line| line.split(' ').nth(4) == Some(target));
        line.unwrap_or_else(|| panic!("{target} is not mounted:\n{text}")).to_owned()
    }

    fn exec(&self, service: &str, words: &[&str]) -> String {
        self.world.ok(&[&["exec", &format!("c-{service}-1"), "/whoami"], words].concat())
    }

    fn logs(&self, service: &str) -> String {
        self.world.ok(&["logs", &format!("c-{service}-1")])
    }

    /// A limit of the container's control group, in the words of the version that the host has.
    fn limit(&self, service: &str, controller: &str, v1: &str, v2: &str) -> String {
        let groups = self.proc(service, "cgroup");
        for line in groups.lines() {
            let parts: Vec<&str> = line.splitn(3, ':').collect();
            let names = parts[1].split(',').any(|name| name == controller);
            let file = if names {
                format!("/sys/fs/cgroup/{controller}{}/{v1}", parts[2])
            } else {
                format!("/sys/fs/cgroup{}/{v2}", parts[2])
            };
            if (names || parts[1].is_empty())
                && let Ok(text) = fs::read_to_string(&file)
            {
                return text.trim().to_owned();
            }
        }
        panic!("no {v1} or {v2} in {groups}");
    }

    fn done(self) {
        self.world.ok(&["destroy", "c", "--volumes", "--yes=volumes"]);
    }
}

/// A mount of the host that others can be slaves of.
struct Shared(PathBuf);

impl Shared {
    fn new(world: &World, name: &str) -> Self {
        let path = world.directory.join(name);
        fs::create_dir_all(&path).unwrap();
        for words in [["-t", "tmpfs", "none"].as_slice(), &["--make-shared"]] {
            assert!(Command::new("mount").args(words).arg(&path).status().unwrap().success());
        }
        Self(path)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        assert!(Command::new("umount").arg(&self.0).status().unwrap().success());
    }
}

fn files(world: &World) {
    world.file("app.env", "FROM_FILE=file\nBOTH=file\nQUOTED=\"a $FROM_FILE\"\n");
    world.file("raw.env", "RAW='as it is' # $X\n");
    world.file("settings.txt", "the settings\n");
    world.file("token.txt", "the token\n");
    world.file("data/inner/deep.txt", "deep\n");
}

#[test]
fn how_the_process_runs() {
    let applied = Applied::new(
        r#"
x-image: &image {image: "builtin:whoami"}
services:
  plain: {<<: *image}
  words: {<<: *image, entrypoint: ["/whoami", echo], command: "one 'two three' $$HOME"}
  cleared: {<<: *image, entrypoint: [], command: [/whoami, echo, cleared]}
  string: {<<: *image, entrypoint: /whoami echo "a b", command: ~}
  kept: {<<: *image, command: [echo, kept]}
  who: {<<: *image, user: "1000:100", group_add: ["7", users], working_dir: /tmp, hostname: here, domainname: example.org}
  caps: {<<: *image, cap_add: [NET_ADMIN, CAP_SYS_TIME], cap_drop: [CHOWN]}
  none: {<<: *image, cap_drop: ALL, security_opt: ["no-new-privileges:true"]}
  all: {<<: *image, privileged: true}
  small: {<<: *image, init: true, tty: true, stdin_open: true, container_name: c-fixed}
  variables:
    <<: *image
    env_file: [app.env, {path: absent.env, required: false}, {path: raw.env, format: raw}]
    environment: {BOTH: own, NUMBER: 1.50, EMPTY: "", UNSET: }
    labels: {a.b: "1", c: }
  limits:
    <<: *image
    ulimits: {nofile: {soft: 100, hard: 200}, core: 0}
    sysctls: {net.core.somaxconn: 777}
    oom_score_adj: 300
    stop_grace_period: 1m30s
    stop_signal: SIGINT
"#,
    );
    let cmdline = |service: &str| applied.proc(service, "cmdline").replace('\0', " ");
    assert_eq!(cmdline("plain").trim(), "/whoami");
    assert_eq!(applied.logs("words"), "one two three $HOME\n");
    assert_eq!(applied.logs("cleared"), "cleared\n");
    assert_eq!(applied.logs("string"), "a b\n");
    assert_eq!(applied.logs("kept"), "kept\n");

    assert_eq!(applied.ids("who", "Uid"), "1000 1000 1000 1000");
    assert_eq!(applied.ids("who", "Gid"), "100 100 100 100");
    assert_eq!(applied.ids("who", "Groups"), "7 100");
    assert_eq!(applied.exec("who", &["pwd"]), "/tmp\n");
    assert_eq!(applied.exec("who", &["hostname"]), "here\n");
    assert_eq!(applied.exec("who", &["cat", "/proc/sys/kernel/domainname"]), "example.org\n");

    let bits = |service: &str| u64::from_str_radix(&applied.status(service, "CapBnd"), 16).unwrap();
    let (chown, net_admin, sys_time) = (1 << 0, 1 << 12, 1 << 25);
    assert_eq!(bits("caps") & (chown | net_admin | sys_time), net_admin | sys_time);
    assert_eq!((bits("none"), applied.status("none", "NoNewPrivs").as_str()), (0, "1"));
    assert!(bits("all").count_ones() > 35 && applied.status("all", "Seccomp") == "0");
    // Every device of the host, as it is there.
    let node = |path: &str| fs::metadata(path).map(|data| (data.rdev(), data.mode(), data.uid(), data.gid())).unwrap();
    assert_eq!(node(&applied.inside("all", "/dev/net/tun")), node("/dev/net/tun"));
    assert!(!PathBuf::from(applied.inside("plain", "/dev/net/tun")).exists());
    assert!(!applied.mount("all", "/sys").split(' ').nth(5).unwrap().split(',').any(|word| word == "ro"));
    assert_eq!(applied.status("plain", "Seccomp"), "2");

    let fixed = applied.world.field("c-fixed", "pid").as_i64().unwrap();
    let parent_of = |pid: i64| fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let child: i64 = parent_of(fixed).split(' ').next().unwrap().parse().unwrap();
    let program = fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap();
    assert!(program.starts_with("/whoami"), "process 1 is not in front of the program: {program}");
    let terminal = fs::read_link(format!("/proc/{child}/fd/0")).unwrap();
    assert!(terminal.starts_with("/dev/"), "{terminal:?}");

    let variables = applied.proc("variables", "environ").replace('\0', "\n");
    for line in ["FROM_FILE=file", "BOTH=own", "QUOTED=a file", "RAW='as it is' # $X", "NUMBER=1.5", "EMPTY="] {
        assert!(variables.lines().any(|own| own == line), "{line} is not in\n{variables}");
    }
    assert!(!variables.contains("UNSET"));
    let known = applied.world.ok(&["inspect", "c-variables-1"]);
    assert!(known.contains("\"a.b\": \"1\"") && known.contains("\"c\": \"\""), "{known}");

    let limits = applied.proc("limits", "limits");
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().collect::<Vec<_>>()[3..5], ["100", "200"]);
    assert_eq!(applied.exec("limits", &["cat", "/proc/sys/net/core/somaxconn"]), "777\n");
    assert_eq!(applied.proc("limits", "oom_score_adj"), "300\n");
    let known = applied.world.ok(&["inspect", "c-limits-1"]);
    assert!(known.contains("90000") && known.contains("SIGINT"), "{known}");
    applied.done();
}

#[test]
fn what_is_mounted() {
    let world = World::new();
    files(&world);
    let shared = Shared::new(&world, "shared");
    world.file(
        "compose.yaml",
        r#"
services:
  binds:
    image: builtin:whoami
    volumes:
      - ./data:/ro:ro
      - ./data:/rw:rw,z
      - ./made:/made
      - ./settings.txt:/one-file
      - ./shared:/slave:ro,rslave
      - ./shared:/private
      - {type: bind, source: ./shared, target: /long, read_only: true, bind: {create_host_path: false, propagation: rslave}}
  named:
    image: builtin:whoami
    volumes:
      - data:/data
      - filled:/home
      - empty:/home2:nocopy
      - /anonymous
      - {type: volume, source: data, target: /again, read_only: true, volume: {nocopy: true}}
    command: [serve]
  temporary:
    image: builtin:whoami
    tmpfs: ["/run:size=2m,mode=0700,exec,uid=1000", /scratch]
    volumes: [{type: tmpfs, target: /long, tmpfs: {size: 1m, mode: 0711}}]
    shm_size: 3m
    read_only: true
  borrower: {image: "builtin:whoami", volumes_from: ["named:ro"]}
  devices:
    image: builtin:whoami
    devices: ["/dev/net/tun:/dev/tunnel:r", /dev/full, {source: /dev/null, target: /dev/hole, permissions: rw}]
volumes:
  data:
  filled: {labels: {what: ever}, name: c_own_name}
  empty:
    driver_opts: {type: tmpfs, device: tmpfs, o: "size=5m"}
"#,
    );
    let applied = Applied { world };
    applied.apply();
    let options = |service: &str, target: &str| applied.mount(service, target).split(' ').nth(5).unwrap().to_owned();
    assert!(options("binds", "/ro").starts_with("ro") && options("binds", "/rw").starts_with("rw"));
    assert_eq!(applied.text("binds", "/rw/inner/deep.txt"), "deep\n");
    assert!(applied.world.directory.join("made").is_dir());
    assert_eq!(applied.text("binds", "/one-file"), "the settings\n");
    assert!(applied.mount("binds", "/slave").contains(" master:"), "{}", applied.mount("binds", "/slave"));
    assert!(applied.mount("binds", "/long").contains(" master:") && options("binds", "/long").starts_with("ro"));
    assert!(!applied.mount("binds", "/private").contains(" master:"));

    fs::write(applied.inside("named", "/data/x"), "x").unwrap();
    assert_eq!(applied.text("named", "/again/x"), "x");
    assert!(options("named", "/again").starts_with("ro") && !applied.mount("named", "/anonymous").is_empty());
    assert!(applied.mount("named", "/home2").contains("size=5120k"), "{}", applied.mount("named", "/home2"));
    assert!(applied.world.ok(&["volume", "ls"]).contains("c_own_name"));
    assert_eq!(applied.text("borrower", "/data/x"), "x");
    assert!(options("borrower", "/data").starts_with("ro"));

    let run = applied.mount("temporary", "/run");
    assert!(run.contains("size=2048k") && run.contains("mode=700"), "{run}");
    let owner = applied.first_id("temporary") + 1000;
    assert!(run.contains(&format!("uid={owner},")) || run.contains(&format!("uid={owner}\n")), "{run}");
    assert!(
        !run.contains("noexec") && run.contains("nosuid") && applied.mount("temporary", "/scratch").contains("noexec")
    );
    assert!(applied.mount("temporary", "/long").contains("size=1024k,mode=711"));
    assert!(applied.mount("temporary", "/dev/shm").contains("size=3072k"));
    assert!(options("temporary", "/").starts_with("ro"));

    let device = |path: &str| fs::metadata(applied.inside("devices", path)).unwrap().rdev();
    assert_eq!(device("/dev/tunnel"), fs::metadata("/dev/net/tun").unwrap().rdev());
    assert_eq!(device("/dev/full"), fs::metadata("/dev/full").unwrap().rdev());
    assert_eq!(applied.exec("devices", &["cat", "/dev/hole"]), "");
    let refused = applied.world.run(&["exec", "c-devices-1", "/whoami", "write", "/dev/tunnel", "x"]);
    assert!(refused.stderr.contains("Operation not permitted"), "what may be read only was opened: {refused:?}");
    drop(shared);
    applied.done();
}

#[test]
fn configs_and_secrets() {
    let text = r#"
services:
  web:
    image: builtin:whoami
    configs:
      - settings
      - {source: inline, target: /etc/inline.conf, uid: "5", gid: "6", mode: 0440}
      - {source: variable, target: /etc/variable}
    secrets:
      - token
      - {source: token, target: other, uid: "1000", gid: "100", mode: 0400}
      - {source: spoken, target: /etc/spoken}
configs:
  settings: {file: ./settings.txt}
  inline: {content: "name=${NAME:-none} $$literal"}
  variable: {environment: WORD}
secrets:
  token: {file: ./token.txt}
  spoken: {environment: SPOKEN}
"#;
    let world = World::new();
    files(&world);
    world.file("compose.yaml", text);
    world.file(".env", "WORD=from the environment\nSPOKEN=kept in memory alone\n");
    let applied = Applied { world };
    applied.apply();
    assert_eq!(applied.text("web", "/settings"), "the settings\n");
    assert_eq!(applied.text("web", "/etc/inline.conf"), "name=none $literal");
    assert_eq!(applied.text("web", "/etc/variable"), "from the environment");
    assert_eq!(applied.text("web", "/run/secrets/token"), "the token\n");
    assert_eq!(applied.text("web", "/run/secrets/other"), "the token\n");
    assert_eq!(applied.text("web", "/etc/spoken"), "kept in memory alone");
    let owner = |path: &str| {
        let data = fs::metadata(applied.inside("web", path)).unwrap();
        let first = applied.first_id("web");
        (data.uid() - first, data.gid() - first, data.mode() & 0o7777)
    };
    assert_eq!(owner("/settings"), (0, 0, 0o444));
    assert_eq!(owner("/etc/inline.conf"), (5, 6, 0o440));
    assert_eq!(owner("/run/secrets/other"), (1000, 100, 0o400));
    // Changed content is a change, and reaches the container.
    applied.world.file("settings.txt", "other settings\n");
    applied.apply();
    assert_eq!(applied.text("web", "/settings"), "other settings\n");
    // What a secret holds is in no file that survives a reboot.
    let mut search = Command::new("grep");
    let kept = search.args(["-rl", "kept in memory alone"]).arg(&applied.world.roots.root).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&kept.stdout), "");
    applied.done();
}

#[test]
fn names_addresses_and_ports() {
    let (port, other) = (free_port(), free_port());
    let applied = Applied::new(&format!(
        r#"
services:
  web:
    image: builtin:whoami
    ports: ["{port}:80", {{target: 80, published: "{other}", host_ip: 127.0.0.1, protocol: tcp, mode: host}}]
    expose: ["80"]
    extra_hosts: ["a.example:10.9.8.7", "host.docker.internal=host-gateway"]
    dns: 127.0.0.53
    dns_search: [one.example, two.example]
    dns_opt: ["ndots:3"]
    networks:
      back: {{ipv4_address: 10.213.7.9, aliases: [site, www], priority: 1}}
      front: {{priority: 100}}
      extra: {{interface_name: lan0, mac_address: "02:42:ac:11:00:99"}}
  peer: {{image: "builtin:whoami", networks: [back], links: ["web:linked"]}}
  stranger: {{image: "builtin:whoami"}}
  lonely: {{image: "builtin:whoami", network_mode: none}}
  host: {{image: "builtin:whoami", network_mode: host, environment: {{PORT: "0"}}}}
  beside: {{image: "builtin:whoami", network_mode: "service:peer", environment: {{PORT: "81"}}}}
networks:
  back: {{ipam: {{config: [{{subnet: 10.213.7.0/24, gateway: 10.213.7.1}}]}}, internal: true, labels: {{a: b}}}}
  front: {{name: c_named}}
  extra:
"#
    ));
    assert!(get(port, "/").unwrap().contains("hits:") && get(other, "/").unwrap().contains("hits:"));
    for name in ["web", "site", "www", "linked"] {
        assert_eq!(applied.exec("peer", &["resolve", name]), "10.213.7.9\n", "{name}");
    }
    assert_eq!(applied.world.run(&["exec", "c-stranger-1", "/whoami", "resolve", "web"]).code, 1);
    let hosts = applied.text("web", "/etc/hosts");
    assert!(hosts.contains("10.9.8.7\ta.example") && hosts.contains("\thost.docker.internal"), "{hosts}");
    let resolv = applied.text("web", "/etc/resolv.conf");
    assert!(resolv.contains("search one.example two.example") && resolv.contains("options ndots:3"), "{resolv}");

    let addresses = applied.exec("web", &["ls", "/sys/class/net"]);
    assert!(addresses.lines().any(|name| name == "lan0"), "{addresses}");
    assert_eq!(applied.exec("web", &["cat", "/sys/class/net/lan0/address"]).trim(), "02:42:ac:11:00:99");
    // Of the highest priority: connected first.
    let first = applied.world.ok(&["inspect", "c-web-1"]);
    let first: serde_json::Value = serde_json::from_str(&first).unwrap();
    assert!(first.to_string().contains("c_named"), "{first}");
    let routes = applied.exec("web", &["cat", "/proc/net/route"]);
    let back = routes.lines().find(|line| line.contains("0007D50A")).unwrap();
    assert!(back.starts_with("eth1") || back.starts_with("eth2"), "{routes}");

    let namespace = |service: &str| fs::read_link(format!("/proc/{}/ns/net", applied.pid(service))).unwrap();
    assert_eq!(namespace("host"), fs::read_link("/proc/self/ns/net").unwrap());
    assert_eq!(namespace("beside"), namespace("peer"));
    assert_eq!(applied.exec("lonely", &["ls", "/sys/class/net"]), "lo\n");
    assert!(applied.world.ok(&["network", "ls"]).contains("c_named"));
    applied.done();
}

#[test]
fn limits_replicas_health_and_logs() {
    let applied = Applied::new(
        r#"
services:
  flat: {image: "builtin:whoami", mem_limit: 64m, cpus: 0.5, pids_limit: 50, cpu_shares: 512, cpuset: "0"}
  quota: {image: "builtin:whoami", cpu_quota: 20000, cpu_period: 50000}
  nested:
    image: builtin:whoami
    deploy:
      replicas: 2
      resources: {limits: {cpus: "0.25", memory: 48M, pids: 40}, reservations: {memory: 16M}}
      restart_policy: {condition: on-failure, delay: 100ms, max_attempts: 2, window: 5s}
  scaled: {image: "builtin:whoami", scale: 3}
  nobody: {image: "builtin:whoami", scale: 0}
  words: {image: "builtin:whoami", healthcheck: {test: [CMD, /whoami, health], interval: 1h, start_period: 1m, start_interval: 100ms, retries: 2, timeout: 5s}}
  off: {image: "builtin:whoami", healthcheck: {disable: true}}
  off2: {image: "builtin:whoami", healthcheck: {test: [NONE]}}
  quiet: {image: "builtin:whoami", logging: {driver: none}}
  rotated: {image: "builtin:whoami", command: [lines, "3000"], logging: {driver: json-file, options: {max-size: 10k, max-file: "2"}}}
  other: {image: "builtin:whoami", logging: {driver: gelf, options: {gelf-address: "udp://x:1"}}}
"#,
    );
    let memory = |service: &str| applied.limit(service, "memory", "memory.limit_in_bytes", "memory.max");
    assert_eq!(memory("flat"), (64 << 20).to_string());
    assert_eq!(memory("nested"), (48 << 20).to_string());
    let soft = applied.limit("nested", "memory", "memory.soft_limit_in_bytes", "memory.low");
    assert_eq!(soft, (16 << 20).to_string());
    let pids = |service: &str| applied.limit(service, "pids", "pids.max", "pids.max");
    assert_eq!((pids("flat"), pids("nested")), ("50".into(), "40".into()));
    let quota = |service: &str| applied.limit(service, "cpu", "cpu.cfs_quota_us", "cpu.max");
    assert!(quota("flat").starts_with("50000") && quota("nested").starts_with("25000"));
    assert!(quota("quota").starts_with("20000"));
    assert!(applied.limit("quota", "cpu", "cpu.cfs_period_us", "cpu.max").ends_with("50000"));
    assert_eq!(applied.limit("flat", "cpuset", "cpuset.cpus", "cpuset.cpus"), "0");

    let names = applied.world.names();
    let count = |service: &str| names.iter().filter(|name| name.starts_with(&format!("c-{service}-"))).count();
    assert_eq!(["nested", "scaled", "nobody"].map(count), [2, 3, 0]);
    assert_eq!(applied.world.field("c-words-1", "health"), "healthy");
    for service in ["c-off-1", "c-off2-1"] {
        assert_eq!(applied.world.field(service, "health"), "none");
    }
    assert_eq!(applied.logs("quiet"), "");
    eventually("all is said", || applied.logs("rotated").contains("line 3000"));
    let kept = applied.logs("rotated").lines().count();
    assert!(kept < 1000, "{kept} lines are kept of 3000");
    let plan = applied.world.ok(&["plan", "-p", "c", "compose.yaml"]);
    assert!(plan.contains("services.other.logging.driver: there is no driver `gelf`"), "{plan}");
    assert!(applied.logs("other").contains("listens"));
    applied.done();
}

/// Version 1 of control groups alone has these; elsewhere they are named.
#[test]
fn limits_that_the_kernel_may_not_have() {
    let host = Abilities::of_host();
    let applied = Applied::new(
        r#"
services:
  swap: {image: "builtin:whoami", mem_limit: 64m, memswap_limit: 96m}
  calm: {image: "builtin:whoami", mem_limit: 64m, mem_swappiness: 10}
  waits: {image: "builtin:whoami", mem_limit: 64m, oom_kill_disable: true}
  plain: {image: "builtin:whoami"}
"#,
    );
    let plan = applied.world.ok(&["plan", "-p", "c", "compose.yaml"]);
    let named = |key: &str| plan.contains(&format!("not honoured: services.{key}: "));
    let memory = |service: &str, file: &str| applied.limit(service, "memory", file, "memory.swap.max");
    assert_eq!(named("swap.memswap_limit"), !host.swap);
    if host.swap {
        let both = memory("swap", "memory.memsw.limit_in_bytes");
        assert!(both == (96 << 20).to_string() || both == (32 << 20).to_string(), "{both}");
    }
    assert_eq!(named("calm.mem_swappiness"), !host.swappiness);
    if host.swappiness {
        assert_eq!(memory("calm", "memory.swappiness"), "10");
    }
    assert_eq!(named("waits.oom_kill_disable"), !host.oom_kill_disable);
    if host.oom_kill_disable {
        assert!(memory("waits", "memory.oom_control").contains("oom_kill_disable 1"));
        assert!(memory("plain", "memory.oom_control").contains("oom_kill_disable 0"));
    }
    assert!(!plan.contains("plain"), "{plan}");
    applied.done();
}

/// A limit that is taken away is lifted from what runs.
#[test]
fn a_limit_goes_as_it_came() {
    let text = "services: {web: {image: \"builtin:whoami\"LIMITS}}";
    let limits = ", mem_limit: 64m, mem_reservation: 32m, cpus: 0.5, cpu_shares: 512, cpuset: \"0\", pids_limit: 50";
    let applied = Applied::new(&text.replace("LIMITS", ""));
    let all = || {
        let limit = |controller: &str, v1: &str, v2: &str| applied.limit("web", controller, v1, v2);
        [
            limit("memory", "memory.limit_in_bytes", "memory.max"),
            limit("memory", "memory.soft_limit_in_bytes", "memory.low"),
            limit("memory", "memory.memsw.limit_in_bytes", "memory.swap.max"),
            limit("cpu", "cpu.cfs_quota_us", "cpu.max"),
            limit("cpu", "cpu.shares", "cpu.weight"),
            limit("cpuset", "cpuset.cpus", "cpuset.cpus.effective"),
            limit("pids", "pids.max", "pids.max"),
        ]
    };
    let (free, pid) = (all(), applied.pid("web"));
    applied.world.file("compose.yaml", &text.replace("LIMITS", limits));
    applied.apply();
    let held = all();
    assert!(held.iter().zip(&free).filter(|(held, free)| held != free).count() >= 5, "{held:?}");
    applied.world.file("compose.yaml", &text.replace("LIMITS", ""));
    applied.apply();
    assert_eq!((all(), applied.pid("web")), (free, pid));
    applied.done();
}

#[test]
fn groups_rules_and_annotations() {
    let above = format!("stack-above-{}", std::process::id());
    let applied = Applied::new(
        &r#"
services:
  plain: {image: "builtin:whoami", userns_mode: host}
  web:
    image: builtin:whoami
    cgroup_parent: /ABOVE/inner
    device_cgroup_rules: ["c 10:200 r"]
    annotations: {org.example.what: ever}
"#
        .replace("ABOVE", &above),
    );
    let groups = applied.proc("web", "cgroup");
    let inside = |line: &&str| line.contains(&format!(":/{above}/inner/stack-"));
    assert!(groups.lines().any(|line| inside(&line)), "{groups}");
    assert!(!applied.proc("plain", "cgroup").contains(&above));
    let known = applied.world.ok(&["inspect", "c-web-1"]);
    assert!(known.contains("\"org.example.what\": \"ever\"") && known.contains("c 10:200 r"), "{known}");
    // Of /dev/net/tun; reading it is possible, and says that it is bound to nothing.
    for (service, refused) in [("web", false), ("plain", true)] {
        let node = PathBuf::from(applied.inside(service, "/dev/own"));
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
        let device = nix::sys::stat::makedev(10, 200);
        nix::sys::stat::mknod(&node, nix::sys::stat::SFlag::S_IFCHR, mode, device).unwrap();
        let said = applied.world.run(&["exec", &format!("c-{service}-1"), "/whoami", "cat", "/dev/own"]);
        assert_eq!(said.stderr.contains("Operation not permitted"), refused, "{service}: {said:?}");
    }
    let wrong = "services: {web: {image: x, device_cgroup_rules: [\"c 1\"], cgroup_parent: ../up}}";
    applied.world.file("wrong.yaml", wrong);
    let said = applied.world.fails(1, &["validate", "wrong.yaml"]);
    assert!(said.contains("a rule such as `c 1:3 mr`") && said.contains("without `..`"), "{said}");
    applied.done();
    for folder in fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path()) {
        for folder in [folder.join(&above), PathBuf::from("/sys/fs/cgroup").join(&above)] {
            // The groups above are whoever named them's; each is in some hierarchies only.
            fs::remove_dir(folder.join("inner")).and_then(|()| fs::remove_dir(folder)).ok();
        }
    }
}

#[test]
fn a_restart_policy_has_its_attempts_and_pause() {
    let world = World::new();
    let policy = "restart_policy: {condition: on-failure, delay: 1ms, max_attempts: 9}";
    let text =
        format!("services: {{failing: {{image: \"builtin:whoami\", command: [exit, \"3\"], deploy: {{{policy}}}}}}}");
    world.file("compose.yaml", &text);
    let begun = std::time::Instant::now();
    world.ok(&["apply", "-p", "c", "compose.yaml"]);
    eventually("it is given up", || {
        world.field("c-failing-1", "state") == "exited" && world.field("c-failing-1", "restarts") == 9
    });
    // The back-off alone would have paused for 51 seconds.
    assert!(begun.elapsed().as_secs() < 50);
    world.ok(&["destroy", "c"]);
}

#[test]
fn order_profiles_and_targets() {
    let world = World::new();
    let text = r#"
services:
  first: {image: "builtin:whoami", command: [exit, "0"]}
  base: {image: "builtin:whoami", healthcheck: {test: [CMD, /whoami, health], interval: 100ms}}
  web:
    image: builtin:whoami
    depends_on:
      first: {condition: service_completed_successfully}
      base: {condition: service_healthy, restart: true}
      absent: {condition: service_started, required: false}
      debug: {condition: service_started, required: false}
  debug: {image: "builtin:whoami", profiles: [debug, all]}
"#;
    world.file("compose.yaml", text);
    let fault = world.fails(1, &["apply", "-p", "c", "compose.yaml"]);
    assert!(fault.contains("`absent` is not declared"), "{fault}");
    world.file("compose.yaml", &text.replace("      absent: {condition: service_started, required: false}\n", ""));
    world.ok(&["apply", "-p", "c", "compose.yaml"]);
    let names = || world.names();
    assert_eq!(names(), ["c-base-1", "c-first-1", "c-web-1"]);
    let pid = world.field("c-web-1", "pid");
    let mut command = world.command(&["apply", "-p", "c", "compose.yaml"]);
    assert!(command.env("COMPOSE_PROFILES", "debug").status().unwrap().success());
    assert_eq!(names(), ["c-base-1", "c-debug-1", "c-first-1", "c-web-1"]);
    assert_eq!(world.field("c-web-1", "pid"), pid);
    // Its dependency is made anew, so it is restarted.
    world.file("compose.override.yaml", "services: {base: {environment: {A: b}}}\n");
    world.ok(&["apply", "-p", "c", "--profile", "all"]);
    assert_ne!(world.field("c-web-1", "pid"), pid);
    assert!(world.ok(&["exec", "c-base-1", "/whoami", "env"]).contains("A=b"));
    world.ok(&["destroy", "c"]);
}
