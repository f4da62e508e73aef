//! Lines that are given to a service: journald and log servers, which the tests themselves are.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, IoSliceMut, Read};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::logging::Talker;
use crate::support::{World, eventually, free_port};

const JOURNAL: &str = "/run/systemd/journal/socket";
/// What a supervisor may hold of its own: itself, a full queue for a service, and one for a client.
const LARGEST_KIB: u64 = 12 << 10;
/// How long a message may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the journal has got of one line.
type Entry = BTreeMap<String, Vec<u8>>;

struct Journal(UnixDatagram);

impl Journal {
    /// Where the host's own would be, for this thread and whom it starts alone.
    fn open() -> Self {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        mount(Some("run"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        Self::bind()
    }

    fn bind() -> Self {
        fs::create_dir_all("/run/systemd/journal").unwrap();
        let socket = UnixDatagram::bind(JOURNAL).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    fn read(&self) -> Entry {
        let mut bytes = vec![0; 1 << 20];
        let mut space = nix::cmsg_space!([i32; 1]);
        let mut into = [IoSliceMut::new(&mut bytes)];
        let got = recvmsg::<()>(self.0.as_raw_fd(), &mut into, Some(&mut space), MsgFlags::empty()).unwrap();
        let file = got.cmsgs().unwrap().find_map(|message| match message {
            // SAFETY: the kernel has just made it for this process.
            ControlMessageOwned::ScmRights(all) => Some(unsafe { OwnedFd::from_raw_fd(all[0]) }),
            _ => None,
        });
        let length = got.bytes;
        match file {
            Some(file) => entry(&fs::read(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap()),
            None => entry(&bytes[..length]),
        }
    }
}

/// As the native protocol has it.
fn entry(mut bytes: &[u8]) -> Entry {
    let mut fields = Entry::new();
    while let Some(end) = bytes.iter().position(|byte| *byte == b'\n' || *byte == b'=') {
        let name = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let rest = &bytes[end + 1..];
        let (value, after) = if bytes[end] == b'=' {
            let end = rest.iter().position(|byte| *byte == b'\n').unwrap();
            (&rest[..end], &rest[end + 1..])
        } else {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            (&rest[8..8 + length], &rest[8 + length + 1..])
        };
        fields.insert(name, value.to_vec());
        bytes = after;
    }
    fields
}

fn text(entry: &Entry, field: &str) -> String {
    entry.get(field).map(|value| String::from_utf8(value.clone()).unwrap()).unwrap_or_default()
}

fn with_journal(test: impl FnOnce(Journal) + Send + 'static) {
    thread::spawn(move || test(Journal::open())).join().unwrap();
}

fn loss(world: &World, name: &str) -> (u64, Option<String>) {
    let found = world.ok(&["inspect", "--format", "{{json .Stack.LogLoss}}", name]);
    let found: serde_json::Value = serde_json::from_str(found.trim()).unwrap();
    (found["Unsent"].as_u64().unwrap(), found["Reason"].as_str().map(str::to_owned))
}

fn options<'a>(driver: &'a str, all: &[&'a str]) -> Vec<&'a str> {
    let options = all.iter().flat_map(|option| ["--log-opt", option]);
    ["--log-driver", driver].into_iter().chain(options).collect()
}

#[test]
fn the_journal_gets_what_docker_gives_it() {
    with_journal(|journal| {
        let world = World::new();
        let flags = options("journald", &["tag={{.ImageName}}", "labels=com.a/b,big1,big2", "env=COLOUR"]);
        let big = ["big1", "big2"].map(|name| format!("{name}={}", "x".repeat(120_000)));
        let own = ["--name", "one", "-l", "com.a/b=c", "-e", "COLOUR=two\nlines", "--network", "none"];
        let run = |more: &[&str], words: &[&str]| {
            world.ok(&[&["run"], &flags[..], &own, more, &["builtin:whoami"], words].concat());
        };
        run(&[], &["echo", "hi"]);
        let line = journal.read();
        let id = world.ok(&["inspect", "--format", "{{.Id}}", "one"]).trim().to_owned();
        for (field, expected) in [
            ("MESSAGE", "hi"),
            ("PRIORITY", "6"),
            ("CONTAINER_ID", &id[..12]),
            ("CONTAINER_ID_FULL", &id),
            ("CONTAINER_NAME", "one"),
            ("CONTAINER_TAG", "builtin:whoami"),
            ("SYSLOG_IDENTIFIER", "builtin:whoami"),
            ("IMAGE_NAME", "builtin:whoami"),
            ("COM_A_B", "c"),
            ("COLOUR", "two\nlines"),
            ("CONTAINER_PARTIAL_MESSAGE", ""),
        ] {
            assert_eq!(text(&line, field), expected, "{field}");
        }
        // What is kept beside it is what `logs` reads.
        assert_eq!(world.ok(&["logs", "one"]), "hi\n");
        world.ok(&["rm", "one"]);
        // Larger than a datagram may be: as a file.
        run(&["-l", &big[0], "-l", &big[1]], &["echo-err", "large"]);
        let line = journal.read();
        assert_eq!((text(&line, "MESSAGE").as_str(), text(&line, "PRIORITY").as_str()), ("large", "3"));
        assert_eq!((line["BIG1"].len(), line["BIG2"].len()), (120_000, 120_000));
        world.ok(&["rm", "one"]);
        // Without a copy there is nothing to read.
        let flags = options("journald", &["cache-disabled=true"]);
        world
            .ok(&[&["run", "--name", "one", "--network", "none"], &flags[..], &["builtin:whoami", "echo", "x"]]
                .concat());
        assert_eq!(text(&journal.read(), "MESSAGE"), "x");
        assert_eq!(world.ok(&["logs", "one"]), "");
        world.ok(&["rm", "one"]);
    });
}

/// It waits for one that does not read, and loses nothing; another container does not wait.
#[test]
fn a_journal_that_does_not_read_holds_its_container_back_and_no_other() {
    with_journal(|journal| {
        let world = World::new();
        let mut talker = Talker::start(&world, "talk", &options("journald", &[]));
        let lines = 40_000;
        let talking = thread::spawn(move || {
            talker.say(&(0..lines).map(|number| format!("line {number} {}\n", "x".repeat(60))).collect::<String>());
            talker
        });
        world.ok(&["run", "--name", "other", "--network", "none", "builtin:whoami", "lines", "1000"]);
        world.ok(&["exec", "talk", "/whoami", "true"]);
        assert!(!talking.is_finished(), "nobody reads, and all was taken");
        let memory = held_kib(&world, "talk");
        assert!(memory < LARGEST_KIB, "its supervisor holds {memory} KiB");
        for number in 0..lines {
            let message = text(&journal.read(), "MESSAGE");
            assert!(message.starts_with(&format!("line {number} ")), "{number}: {message}");
        }
        talking.join().unwrap().end();
        assert_eq!(loss(&world, "talk"), (0, None));
        world.ok(&["rm", "talk", "other"]);
    });
}

fn held_kib(world: &World, name: &str) -> u64 {
    let pid = world.ok(&["inspect", "--format", "{{.Stack.Supervisor}}", name]);
    let status = fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// `mode: non-blocking`: the container never waits; what is dropped is counted, and the journal is told.
#[test]
fn what_is_not_waited_for_is_dropped_and_counted() {
    with_journal(|journal| {
        let world = World::new();
        let flags = options("journald", &["mode=non-blocking", "max-buffer-size=64k"]);
        let mut talker = Talker::start(&world, "talk", &flags);
        let lines = 20_000;
        talker.say(&(0..lines).map(|number| format!("line {number} {}\n", "x".repeat(60))).collect::<String>());
        eventually("lines are dropped", || loss(&world, "talk").1.is_some());
        let (mut got, mut missing) = (0, 0);
        while got + missing < lines {
            let message = text(&journal.read(), "MESSAGE");
            match message.strip_prefix("stack: ") {
                Some(said) => missing += said.split(' ').next().unwrap().parse::<usize>().unwrap(),
                None => got += 1,
            }
        }
        assert!(got + missing == lines && missing > 1000, "{got} {missing}");
        eventually("it is over", || loss(&world, "talk") == (missing as u64, None));
        talker.end();
        world.ok(&["rm", "talk"]);
    });
}

#[test]
fn without_a_journal_nothing_is_started_and_one_that_comes_back_is_found() {
    with_journal(|journal| {
        let world = World::new();
        let mut talker = Talker::start(&world, "talk", &options("journald", &[]));
        talker.say("one\n");
        assert_eq!(text(&journal.read(), "MESSAGE"), "one");
        drop(journal);
        talker.say("two\n");
        fs::remove_file(JOURNAL).unwrap();
        let run = [&["run", "--name", "never", "--network", "none"], &options("journald", &[])[..]].concat();
        let said = world.fails(125, &[&run[..], &["builtin:whoami", "true"]].concat());
        assert!(said.contains("no service listens at /run/systemd/journal/socket"), "{said}");
        world.run(&["rm", "-f", "never"]);
        let journal = Journal::bind();
        assert_eq!(text(&journal.read(), "MESSAGE"), "two");
        talker.end();
        assert_eq!(world.ok(&["logs", "talk"]), "one\ntwo\n");
        world.ok(&["rm", "talk"]);
    });
}

/// Each way to a server with each form of a message.
#[test]
fn log_servers_are_spoken_to_as_docker_does() {
    let world = World::new();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let (datagrams, stream) = (world.directory.join("datagrams"), world.directory.join("stream"));
    let (unixgram, unix) = (UnixDatagram::bind(&datagrams).unwrap(), UnixListener::bind(&stream).unwrap());
    udp.set_read_timeout(Some(PATIENCE)).unwrap();
    unixgram.set_read_timeout(Some(PATIENCE)).unwrap();
    let heard_udp = || {
        let mut bytes = [0; 2048];
        let count = udp.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    };
    let heard_unixgram = || {
        let mut bytes = [0; 2048];
        let count = unixgram.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    };
    let line = |stream: Box<dyn Read>| {
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line
    };
    let heard_tcp = || line(Box::new(tcp.accept().unwrap().0));
    let heard_unix = || line(Box::new(unix.accept().unwrap().0));
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    // By name, too.
    let tcp_address = format!("tcp://localhost:{}", tcp.local_addr().unwrap().port());
    type Heard<'a> = &'a dyn Fn() -> String;
    let table: [(String, &[&str], Heard<'_>, &str, String); 4] = [
        (format!("udp://{}", udp.local_addr().unwrap()), &[], &heard_udp, "<30>", "one[".to_owned()),
        (tcp_address, &["syslog-format=rfc5424"], &heard_tcp, "<30>1 2", format!(" {host} one ")),
        (
            format!("unixgram://{}", datagrams.display()),
            &["syslog-facility=local7", "syslog-format=rfc3164"],
            &heard_unixgram,
            "<190>",
            format!(" {host} one["),
        ),
        (
            format!("unix://{}", stream.display()),
            &["syslog-format=rfc5424micro", "syslog-facility=1"],
            &heard_unix,
            "<14>1 2",
            format!(" {host} one "),
        ),
    ];
    for (address, more, heard, beginning, middle) in table {
        let address = format!("syslog-address={address}");
        let flags = options("syslog", &[&[address.as_str(), "tag={{.Name}}"], more].concat());
        let run = [&["run", "--name", "one", "--network", "none"], &flags[..]].concat();
        let mut container = world.command(&[&run[..], &["builtin:whoami", "echo", "hi there"]].concat());
        let container = container.stdout(std::process::Stdio::null()).spawn().unwrap();
        let said = heard();
        assert!(said.starts_with(beginning) && said.contains(&middle), "{address}: {said}");
        assert!(said.ends_with(" hi there\n") || said.ends_with(": hi there\n"), "{address}: {said}");
        assert!(container.wait_with_output().unwrap().status.success());
        assert_eq!(world.ok(&["logs", "one"]), "hi there\n");
        world.ok(&["rm", "one"]);
    }
}

/// OpenSSL as a log server by TLS, with keys that are made for it.
struct Secured {
    server: Child,
    port: u16,
}

impl Secured {
    fn keys(world: &World) {
        let openssl = |words: &str| {
            let mut command = Command::new("openssl");
            let done = command.args(words.split(' ')).current_dir(&world.directory).stderr(Stdio::null()).status();
            assert!(done.expect("openssl, which tests/run.sh installs").success(), "{words}");
        };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=ca -days 2"));
        openssl(&format!("req -x509 {key} -keyout other.key -out other.pem -subj /CN=other -days 2"));
        for (name, subject) in [("server", "DNS:localhost"), ("client", "DNS:client")] {
            let signed = "-CA ca.pem -CAkey ca.key -addext basicConstraints=critical,CA:FALSE";
            let subject = format!("-subj /CN={name} -addext subjectAltName={subject}");
            openssl(&format!("req -x509 {key} -keyout {name}.key -out {name}.pem {subject} {signed} -days 2"));
        }
    }

    /// What it is told is in `told`.
    fn start(world: &World, more: &[&str]) -> Self {
        let port = free_port();
        let accept = format!("127.0.0.1:{port}");
        let told = fs::File::create(world.directory.join("told")).unwrap();
        let words = ["s_server", "-quiet", "-cert", "server.pem", "-key", "server.key", "-accept", &accept];
        let mut command = Command::new("openssl");
        // It ends with its input.
        command.args(words).args(more).current_dir(&world.directory).stdin(Stdio::piped()).stdout(told);
        let server = command.stderr(Stdio::null()).spawn().unwrap();
        eventually("it listens", || std::net::TcpStream::connect(&accept).is_ok());
        Self { server, port }
    }
}

impl Drop for Secured {
    fn drop(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }
}

#[test]
fn a_log_server_is_known_by_its_certificate_and_knows_its_clients() {
    let world = World::new();
    Secured::keys(&world);
    let path = |name: &str| world.directory.join(name).display().to_string();
    let told = || fs::read_to_string(world.directory.join("told")).unwrap();
    let run = |server: &Secured, host: &str, more: &[String], word: &str| {
        let address = format!("syslog-address=tcp+tls://{host}:{}", server.port);
        let all: Vec<&str> = [address.as_str()].into_iter().chain(more.iter().map(String::as_str)).collect();
        let flags = options("syslog", &all);
        let words = ["builtin:whoami", "echo", word];
        world.run(&["rm", "-f", "one"]);
        assert_eq!(world.run(&[&["run", "--name", "one", "--network", "none"], &flags[..], &words].concat()).code, 0);
        loss(&world, "one")
    };
    let (ca, other) =
        (format!("syslog-tls-ca-cert={}", path("ca.pem")), format!("syslog-tls-ca-cert={}", path("other.pem")));
    let server = Secured::start(&world, &[]);
    assert_eq!(run(&server, "localhost", std::slice::from_ref(&ca), "trusted"), (0, None));
    eventually("it is told", || told().contains("trusted\n") && told().starts_with("<30>"));
    for (host, more, reason) in [
        ("localhost", vec![other], "certificate"),
        ("127.0.0.1", vec![ca.clone()], "certificate"),
        ("localhost", vec![], "certificate"),
        ("localhost", vec!["syslog-tls-ca-cert=/none.pem".to_owned()], "/none.pem"),
    ] {
        let (lines, said) = run(&server, host, &more, "secret");
        assert!(lines == 1 && said.as_ref().is_some_and(|said| said.contains(reason)), "{more:?}: {said:?}");
    }
    assert_eq!(run(&server, "127.0.0.1", &["syslog-tls-skip-verify=true".to_owned()], "anybody"), (0, None));
    eventually("it is told", || told().contains("anybody\n"));
    assert!(!told().contains("secret"));
    drop(server);
    // One that asks who it is.
    let server = Secured::start(&world, &["-Verify", "1", "-CAfile", "ca.pem", "-verify_return_error"]);
    let own =
        [("cert", "client.pem"), ("key", "client.key")].map(|(key, name)| format!("syslog-tls-{key}={}", path(name)));
    assert_eq!(run(&server, "localhost", &[vec![ca], own.to_vec()].concat(), "known"), (0, None));
    eventually("it is told", || told().contains("known\n"));
    world.ok(&["rm", "one"]);
}

/// The container goes on; a server that comes back gets what waited, and is told what did not.
#[test]
fn a_server_that_is_gone_costs_a_bounded_buffer_and_is_found_again() {
    let world = World::new();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let option = format!("syslog-address=tcp://{address}");
    let mut talker = Talker::start(&world, "talk", &options("syslog", &[&option]));
    talker.say("one\n");
    let lines = |connection: std::net::TcpStream| {
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        BufReader::new(connection).lines().map(|line| line.unwrap().split(": ").nth(1).unwrap().to_owned())
    };
    let mut connection = lines(server.accept().unwrap().0);
    assert_eq!(connection.next().unwrap(), "one");
    // A supervisor without work keeps no connection.
    assert_eq!(connection.next(), None);
    talker.say("two\n");
    let mut connection = lines(server.accept().unwrap().0);
    assert_eq!(connection.next().unwrap(), "two");
    drop((connection, server));
    // More than waits for anybody: it is taken all the same, though its mode is to wait.
    let count = 40_000;
    talker.say(&(0..count).map(|number| format!("line {number} {}\n", "x".repeat(60))).collect::<String>());
    eventually("all was taken", || world.ok(&["logs", "--tail", "1", "talk"]).starts_with("line 39999 "));
    let (_, reason) = loss(&world, "talk");
    assert!(reason.is_some_and(|reason| reason.contains("refused")), "{:?}", loss(&world, "talk"));
    let memory = held_kib(&world, "talk");
    assert!(memory < LARGEST_KIB, "its supervisor holds {memory} KiB");
    let server = TcpListener::bind(address).unwrap();
    let connection = server.accept().unwrap().0;
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut got, mut missing) = (0, None);
    for line in BufReader::new(connection).lines() {
        let line = line.unwrap();
        if let Some((_, said)) = line.split_once(": stack: ") {
            missing = said.split(' ').next().unwrap().parse::<usize>().ok();
            break;
        }
        assert!(line.contains(&format!(": line {got} ")), "{line}");
        got += 1;
    }
    assert!(got > 5_000 && missing == Some(count - got), "{got} {missing:?}");
    eventually("it is over", || loss(&world, "talk") == ((count - got) as u64, None));
    talker.end();
    world.ok(&["rm", "talk"]);
}
