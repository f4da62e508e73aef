//! The program of the built-in image: a small HTTP server that says who it is, and the handful of tools that a person
//! or a test needs to look around in a container. Static; uses the standard library alone.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::process::{Command, exit};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Five seconds for anything on the network.
const PATIENCE: Duration = Duration::from_secs(5);
static HITS: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    fn signal(number: i32, handler: usize) -> usize;
    fn _exit(code: i32) -> !;
    fn isatty(fd: i32) -> i32;
    fn ioctl(fd: i32, request: u64, ...) -> i32;
}

/// The first process of a pid namespace gets no default action: without this, SIGTERM would do nothing.
extern "C" fn terminate(number: i32) {
    // SAFETY: _exit(2) may be called from a signal handler.
    unsafe { _exit(if number == 15 { 0 } else { 128 + number }) }
}

fn main() {
    for number in [2, 15] {
        // SAFETY: the handler only calls _exit(2).
        unsafe { signal(number, terminate as *const () as usize) };
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if let Err(error) = run(&words) {
        eprintln!("whoami: {error}");
        exit(1);
    }
}

fn run(words: &[&str]) -> io::Result<()> {
    match words {
        [] | ["serve"] => serve(),
        ["client", address] => client(address),
        ["health"] => health(),
        ["resolve", name] => resolve(name).map(|all| all.iter().for_each(|address| println!("{address}"))),
        ["tcp-echo", port] => tcp_echo(port),
        ["udp-echo", port] => udp_echo(port),
        ["udp-client", address, text] => udp_client(address, text),
        ["true"] => Ok(()),
        ["false"] => exit(1),
        ["exit", code] => exit(code.parse().map_err(io::Error::other)?),
        ["sleep", seconds] => sleep(seconds),
        ["echo", rest @ ..] => out(&format!("{}\n", rest.join(" "))),
        ["echo-err", rest @ ..] => {
            eprintln!("{}", rest.join(" "));
            Ok(())
        }
        ["env"] => std::env::vars().try_for_each(|(key, value)| out(&format!("{key}={value}\n"))),
        ["id"] => id(),
        ["cat"] => io::copy(&mut io::stdin(), &mut io::stdout()).map(drop),
        ["cat", file] => io::copy(&mut fs::File::open(file)?, &mut io::stdout()).map(drop),
        ["write", file, text] => fs::write(file, format!("{text}\n")),
        ["ls", directory] => list(directory),
        ["pwd"] => out(&format!("{}\n", std::env::current_dir()?.display())),
        ["hostname"] => out(&format!("{}\n", hostname())),
        ["tty"] => terminal(),
        ["lines", count] => (1..=count.parse().map_err(io::Error::other)?).try_for_each(|n: u64| out(&format!("line {n}\n"))),
        ["hold", megabytes] => hold(megabytes),
        ["fork", count] => fork(count),
        ["trap", rest @ ..] => trap(rest),
        ["orphan"] => orphan(),
        _ => Err(io::Error::other(format!("unknown words {words:?}"))),
    }
}

fn out(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

fn port() -> u16 {
    std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(80)
}

fn hostname() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

fn serve() -> io::Result<()> {
    let listener = listen(port())?;
    out(&format!("{} listens on port {}\n", hostname(), port()))?;
    for stream in listener.incoming() {
        let stream = match stream {
            Ok(stream) => stream,
            // One connection's trouble, or too many at once: the others are served.
            Err(error) => {
                eprintln!("connection: {error}");
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
        };
        std::thread::spawn(move || {
            // A client that goes away is its own affair.
            if let Err(error) = answer(stream) {
                eprintln!("request: {error}");
            }
        });
    }
    Ok(())
}

/// Of both families, where the kernel has both.
fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)))
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let peer = stream.peer_addr()?.ip().to_canonical();
    let mut reader = BufReader::new(stream.try_clone()?).take(16 << 10);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or("/").to_owned();
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
    }
    let (status, body) = match path.as_str() {
        "/health" => ("200 OK", "healthy\n".to_owned()),
        "/" => ("200 OK", page(peer, hit()?)?),
        _ => ("404 Not Found", "not found\n".to_owned()),
    };
    println!("{peer} {path} {status}");
    write!(stream, "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

/// Counts in `COUNTER_FILE`, where one is named, so that the count outlives the container.
fn hit() -> io::Result<u64> {
    let Ok(file) = std::env::var("COUNTER_FILE") else { return Ok(HITS.fetch_add(1, Ordering::Relaxed) + 1) };
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().map_err(|_| io::Error::other("another request failed"))?;
    let count = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0) + 1;
    let temporary = format!("{file}.new");
    fs::write(&temporary, format!("{count}\n"))?;
    fs::rename(&temporary, &file)?;
    Ok(count)
}

fn page(peer: IpAddr, hits: u64) -> io::Result<String> {
    let mut text = format!("name: {}\nhits: {hits}\nclient: {}\n", hostname(), peer);
    for address in addresses() {
        text.push_str(&format!("address: {address}\n"));
    }
    let variables: BTreeMap<String, String> = std::env::vars().collect();
    for (key, value) in variables {
        text.push_str(&format!("env: {key}={value}\n"));
    }
    Ok(text)
}

/// This container's addresses but for those that count on one link alone, as /proc/net/fib_trie and /proc/net/if_inet6
/// list them.
fn addresses() -> Vec<String> {
    let text = fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let local = lines.windows(2).filter(|pair| pair[1].contains("/32 host LOCAL"));
    let mut found: Vec<String> = local.filter_map(|pair| Some(pair[0].split_whitespace().last()?.to_owned())).collect();
    found.retain(|address| !address.starts_with("127."));
    for line in fs::read_to_string("/proc/net/if_inet6").unwrap_or_default().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let (Some(&"00"), Ok(number)) = (words.get(3), u128::from_str_radix(words[0], 16)) {
            found.push(Ipv6Addr::from(number).to_string());
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// `host:port`, `host:port/path`, `http://…`: prints the body of the answer.
fn client(address: &str) -> io::Result<()> {
    let rest = address.strip_prefix("http://").unwrap_or(address);
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut stream = connect(authority)?;
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("no HTTP answer"))?;
    out(body)?;
    if head.split(' ').nth(1) == Some("200") { Ok(()) } else { Err(io::Error::other(head.lines().next().unwrap_or("").to_owned())) }
}

fn connect(authority: &str) -> io::Result<TcpStream> {
    let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
    let port: u16 = port.parse().map_err(io::Error::other)?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host}: no address"));
    for address in resolve(host)? {
        match TcpStream::connect_timeout(&SocketAddr::new(address, port), PATIENCE) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn health() -> io::Result<()> {
    client(&format!("127.0.0.1:{}/health", port()))
}

/// Asks /etc/hosts, then the servers of /etc/resolv.conf: a static program has no name service of the C library.
fn resolve(name: &str) -> io::Result<Vec<IpAddr>> {
    let name = name.trim_matches(['[', ']']);
    if let Ok(address) = name.parse() {
        return Ok(vec![address]);
    }
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let words = |line: &str| line.split('#').next().unwrap_or("").split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    for words in hosts.lines().map(words) {
        if words.iter().skip(1).any(|word| word.eq_ignore_ascii_case(name)) {
            return Ok(words[0].parse().into_iter().collect());
        }
    }
    let configuration = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no name server in /etc/resolv.conf");
    for server in configuration.lines().filter_map(|line| line.strip_prefix("nameserver ")) {
        match ask(server.trim(), name, A).and_then(|found| if found.is_empty() { ask(server.trim(), name, AAAA) } else { Ok(found) }) {
            Ok(found) => return Ok(found),
            Err(error) => last = error,
        }
    }
    Err(io::Error::new(last.kind(), format!("{name}: {last}")))
}

/// Types of questions (RFC 1035, RFC 3596).
const A: u8 = 1;
const AAAA: u8 = 28;

/// One question.
fn ask(server: &str, name: &str, kind: u8) -> io::Result<Vec<IpAddr>> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.trim_end_matches('.').split('.') {
        question.push(label.len() as u8);
        question.extend(label.bytes());
    }
    question.extend([0, 0, kind, 0, 1]);
    socket.send_to(&question, (server, 53))?;
    let mut answer = [0; 4096];
    let length = socket.recv(&mut answer)?;
    match answer[3] & 15 {
        0 => Ok(records(&answer[..length], question.len())),
        3 => Err(io::Error::new(io::ErrorKind::NotFound, "no such name")),
        code => Err(io::Error::other(format!("the name server answers with code {code}"))),
    }
}

fn records(answer: &[u8], mut at: usize) -> Vec<IpAddr> {
    let word = |at: usize| answer.get(at..at + 2).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    let mut found = Vec::new();
    for _ in 0..word(6) {
        while answer.get(at).is_some_and(|length| *length > 0 && *length < 0xc0) {
            at += 1 + usize::from(answer[at]);
        }
        at += if answer.get(at).is_some_and(|length| *length >= 0xc0) { 2 } else { 1 };
        let (kind, length) = (word(at), usize::from(word(at + 8)));
        if let (1, Some(&[a, b, c, d])) = (kind, answer.get(at + 10..at + 10 + length)) {
            found.push(IpAddr::from([a, b, c, d]));
        }
        if let (28, Some(bytes)) = (kind, answer.get(at + 10..at + 10 + length)) {
            found.extend(<[u8; 16]>::try_from(bytes).map(IpAddr::from));
        }
        at += 10 + length;
    }
    found
}

fn tcp_echo(port: &str) -> io::Result<()> {
    let listener = TcpListener::bind(format!("0.0.0.0:{port}"))?;
    for stream in listener.incoming() {
        let mut stream = stream?;
        let mut copy = stream.try_clone()?;
        std::thread::spawn(move || io::copy(&mut copy, &mut stream).map(drop).unwrap_or(()));
    }
    Ok(())
}

fn udp_echo(port: &str) -> io::Result<()> {
    let socket = UdpSocket::bind(format!("[::]:{port}")).or_else(|_| UdpSocket::bind(format!("0.0.0.0:{port}")))?;
    let mut buffer = [0; 65_536];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer)?;
        socket.send_to(&buffer[..length], peer)?;
    }
}

fn udp_client(address: &str, text: &str) -> io::Result<()> {
    let (host, port) = address.rsplit_once(':').ok_or_else(|| io::Error::other("HOST:PORT expected"))?;
    let host = resolve(host)?.into_iter().next().ok_or_else(|| io::Error::other("no address"))?;
    let target = (host, port.parse::<u16>().map_err(io::Error::other)?).to_socket_addrs()?.next();
    let socket = UdpSocket::bind(if host.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(text.as_bytes(), target.ok_or_else(|| io::Error::other("no address"))?)?;
    let mut buffer = [0; 65_536];
    let length = socket.recv(&mut buffer)?;
    out(&format!("{}\n", String::from_utf8_lossy(&buffer[..length])))
}

fn sleep(seconds: &str) -> io::Result<()> {
    match seconds.parse::<f64>() {
        Ok(seconds) => std::thread::sleep(Duration::from_secs_f64(seconds)),
        Err(_) => loop {
            std::thread::park();
        },
    }
    Ok(())
}

fn id() -> io::Result<()> {
    let wanted = ["Uid:", "Gid:", "Groups:", "CapEff:", "CapBnd:", "NoNewPrivs:", "Seccomp:"];
    let status = fs::read_to_string("/proc/self/status")?;
    status.lines().filter(|line| wanted.iter().any(|key| line.starts_with(key))).try_for_each(|line| out(&format!("{line}\n")))
}

fn list(directory: &str) -> io::Result<()> {
    let entries = fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = entries.collect::<io::Result<Vec<String>>>()?;
    names.sort_unstable();
    names.iter().try_for_each(|name| out(&format!("{name}\n")))
}

/// `ROWS COLUMNS` of the terminal on standard input.
fn terminal() -> io::Result<()> {
    // SAFETY: takes an integer.
    if unsafe { isatty(0) } == 0 {
        return Err(io::Error::other("not a terminal"));
    }
    let mut size = [0_u16; 4];
    // SAFETY: TIOCGWINSZ writes four 16-bit words.
    unsafe { ioctl(0, 0x5413, size.as_mut_ptr()) };
    out(&format!("{} {}\n", size[0], size[1]))
}

/// Takes memory and touches each page of it.
fn hold(megabytes: &str) -> io::Result<()> {
    let count: usize = megabytes.parse().map_err(io::Error::other)?;
    let held: Vec<Vec<u8>> = (0..count).map(|_| vec![1; 1 << 20]).collect();
    out(&format!("holding {} MiB\n", held.len()))?;
    sleep("forever")
}

/// Starts so many processes at once, and says how many were allowed.
fn fork(count: &str) -> io::Result<()> {
    let count: usize = count.parse().map_err(io::Error::other)?;
    let own = std::env::current_exe()?;
    let mut children: Vec<_> = (0..count).map_while(|_| Command::new(&own).args(["sleep", "forever"]).spawn().ok()).collect();
    out(&format!("{}\n", children.len()))?;
    for child in &mut children {
        child.kill()?;
        child.wait()?;
    }
    Ok(())
}

/// Ignores SIGTERM, then does what the words say: for tests of being killed.
fn trap(words: &[&str]) -> io::Result<()> {
    // SAFETY: 1 is SIG_IGN.
    unsafe { signal(15, 1) };
    out("ignoring SIGTERM\n")?;
    run(if words.is_empty() { &["sleep", "forever"] } else { words })
}

/// Leaves a child behind that ends later without anybody waiting for it.
fn orphan() -> io::Result<()> {
    let own = std::env::current_exe()?;
    Command::new(&own).args(["sleep", "0.1"]).spawn()?;
    Ok(())
}
