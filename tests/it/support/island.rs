//! A host of its own for tests of networks: a network namespace that the test's thread, and all programs that it starts,
//! are in, with two neighbours. Nothing of the machine's own network is touched.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::ops::Deref;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use super::World;

/// The island's address on the link that `outside` is on.
pub const HERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const HERE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
pub const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 9);
/// The island's address on the link that `beyond` is on.
pub const THERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub const BEYOND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);

pub struct Island {
    pub world: World,
    /// On `up0`; takes the island for its router, and is its name server.
    pub outside: Neighbour,
    /// On `up1`.
    pub beyond: Neighbour,
}

/// A network namespace.
pub struct Place {
    namespace: PathBuf,
}

/// Another host.
pub struct Neighbour {
    /// Does nothing but hold the namespace.
    holder: Child,
    place: Place,
}

/// Runs the test on an island, with nothing else on it.
pub fn on_an_island(test: impl FnOnce(&Island) + Send + 'static) {
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let world = World::new();
        let resolv_conf = world.file("resolv.conf", &format!("search corp.example\nnameserver {OUTSIDE}\n"));
        mount(Some(&resolv_conf), "/etc/resolv.conf", None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        sh("ip link set lo up; echo 0 > /proc/sys/net/ipv4/ip_forward");
        let outside = Neighbour::new("up0", HERE, OUTSIDE);
        let beyond = Neighbour::new("up1", THERE, BEYOND);
        sh(&format!("ip addr add {HERE6}/64 dev up0 nodad; ip route add default via {OUTSIDE}"));
        outside.sh(&format!("ip addr add {OUTSIDE6}/64 dev eth0 nodad; ip route add default via {HERE6}"));
        test(&Island { world, outside, beyond });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

impl Island {
    /// Applies the text as a file of this name in the world, and gives its path.
    #[track_caller]
    pub fn apply(&self, name: &str, text: &str) -> String {
        let file = self.world.file(name, text).to_str().unwrap().to_owned();
        self.world.ok(&["apply", &file]);
        file
    }

    /// The network of a container that runs.
    pub fn container(&self, name: &str) -> Place {
        let pid = self.world.field(name, "pid");
        Place { namespace: PathBuf::from(format!("/proc/{pid}/ns/net")) }
    }

    /// The address of a container's first interface.
    pub fn address(&self, name: &str) -> Ipv4Addr {
        let text = self.container(name).sh("ip -4 -o addr show dev eth0");
        let address = text.split_whitespace().nth(3).and_then(|word| word.split('/').next());
        address.unwrap().parse().unwrap()
    }
}

impl Island {
    /// The address of IPv6 that a container's interface has.
    pub fn address6(&self, name: &str, interface: &str) -> Ipv6Addr {
        let text = self.container(name).sh(&format!("ip -6 -o addr show dev {interface} scope global"));
        let address = text.split_whitespace().nth(3).and_then(|word| word.split('/').next());
        address.unwrap_or_else(|| panic!("{name} has none: {text}")).parse().unwrap()
    }
}

/// Runs the script where the thread is, and gives what it prints.
#[track_caller]
pub fn sh(script: &str) -> String {
    // Not any `sh`: that of busybox has an `ip` of its own, which knows little.
    let output = Command::new("dash").args(["-euc", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Place {
    /// Runs this with a thread that is there.
    pub fn inside<T: Send + 'static>(&self, action: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = File::open(&self.namespace).unwrap();
        let thread = thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            action()
        });
        thread.join().unwrap()
    }

    /// As [`sh`], there.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let script = script.to_owned();
        self.inside(move || sh(&script))
    }

    /// As [`ask`], from there.
    pub fn ask(&self, address: impl Into<IpAddr>, port: u16) -> io::Result<String> {
        let address = address.into();
        self.inside(move || ask(address, port))
    }

    /// As [`ask_datagram`], from there.
    pub fn ask_datagram(&self, address: impl Into<IpAddr>, port: u16, text: &'static str) -> io::Result<String> {
        let address = address.into();
        self.inside(move || ask_datagram(address, port, text))
    }

    /// Serves the client's own address there, over TCP, as long as the test lasts.
    pub fn serve(&self, port: u16) {
        let listener = self.inside(move || TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap());
        thread::spawn(move || {
            while let Ok((mut stream, client)) = listener.accept() {
                let text = format!("HTTP/1.0 200 OK\r\n\r\nclient: {}\n", client.ip().to_canonical());
                stream.read(&mut [0; 1024]).and_then(|_| stream.write_all(text.as_bytes())).ok();
            }
        });
    }
}

impl Neighbour {
    fn new(link: &str, here: Ipv4Addr, there: Ipv4Addr) -> Self {
        let mut command = Command::new("unshare");
        let mut holder =
            command.args(["-n", "sh", "-c", "echo up; exec sleep infinity"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut word = [0; 3];
        holder.stdout.take().unwrap().read_exact(&mut word).unwrap();
        let pid = holder.id();
        let neighbour = Self { holder, place: Place { namespace: PathBuf::from(format!("/proc/{pid}/ns/net")) } };
        sh(&format!("ip link add {link} type veth peer name eth0 netns {pid}"));
        sh(&format!("ip addr add {here}/24 dev {link}; ip link set {link} up"));
        neighbour.sh("ip link set lo up; ip link set eth0 up");
        neighbour.sh(&format!("ip addr add {there}/24 dev eth0; ip route add default via {here}"));
        neighbour
    }
}

impl Deref for Neighbour {
    type Target = Place;
    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.holder.kill().unwrap();
        self.holder.wait().unwrap();
    }
}

/// Shorter than the kernel's first repetition of a lost packet, so that what needs one counts as not reached; much longer
/// than an answer takes.
const LIMIT: Duration = Duration::from_millis(900);

/// What an HTTP server answers, or why it was not reached.
pub fn ask(address: impl Into<IpAddr>, port: u16) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((address.into(), port)), LIMIT)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// What comes back for a datagram.
pub fn ask_datagram(address: impl Into<IpAddr>, port: u16, text: &str) -> io::Result<String> {
    let address = address.into();
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((address, port))?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.send(text.as_bytes())?;
    let mut bytes = vec![0; 65536];
    let length = socket.recv(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

/// The line of a page that begins so, without its beginning.
pub fn line(page: &str, beginning: &str) -> Option<String> {
    page.lines().find_map(|line| line.strip_prefix(beginning)).map(|rest| rest.trim().to_owned())
}

/// Whom a page says that it was asked by.
pub fn client(page: io::Result<String>) -> String {
    page.map(|page| line(&page, "client:").expect("a page that names its client"))
        .unwrap_or_else(|error| error.to_string())
}
