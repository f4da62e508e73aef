//! A registry that misbehaves: a real one, with a proxy in front that changes what it answers.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};

use super::server::Listener;

/// What somebody asked.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// With its query.
    pub path: String,
    /// Names in small letters.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// What they are answered.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub end: End,
}

/// How an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Whole,
    /// The connection breaks after so many bytes of the body.
    Cut(usize),
    /// Nothing more comes after so many bytes of the body, until the other side gives up.
    Stall(usize),
    /// Not even a beginning; the connection is closed.
    Dead,
    /// Not even a beginning, until the other side gives up.
    Mute,
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    pub fn is_blob(&self) -> bool {
        self.method == "GET" && self.path.contains("/blobs/sha256:")
    }

    pub fn is_manifest(&self) -> bool {
        self.method == "GET" && self.path.contains("/manifests/")
    }

    /// `None` where the other side said nothing.
    pub fn read(stream: &mut TcpStream) -> Option<Self> {
        let head = head(stream)?;
        let mut lines = head.split("\r\n");
        let mut words = lines.next()?.split(' ').map(str::to_owned);
        let (method, path) = (words.next()?, words.next()?);
        let headers = fields(lines);
        let length = header(&headers, "content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        stream.read_exact(&mut body).ok()?;
        Some(Self { method, path, headers, body })
    }
}

impl Answer {
    pub fn new(status: u16, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Self {
        let headers = headers.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Self { status, headers, body: body.into(), end: End::Whole }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.headers.retain(|(key, _)| key != name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    /// Says it; how many bytes of the body went out.
    pub fn write(mut self, request: &Request, stream: &mut TcpStream) -> usize {
        if matches!(self.end, End::Dead | End::Mute) {
            if self.end == End::Mute {
                stream.read_exact(&mut [0; 1]).ok();
            }
            stream.shutdown(Shutdown::Both).ok();
            return 0;
        }
        if self.header("content-length").is_none() {
            self.set("content-length", &self.body.len().to_string());
        }
        self.set("connection", "close");
        let mut text = format!("HTTP/1.1 {} Said\r\n", self.status);
        for (key, value) in &self.headers {
            text.push_str(&format!("{key}: {value}\r\n"));
        }
        text.push_str("\r\n");
        if request.method == "HEAD" {
            self.body.clear();
        }
        let count = match self.end {
            End::Cut(count) | End::Stall(count) => count.min(self.body.len()),
            _ => self.body.len(),
        };
        let sent = stream.write_all(text.as_bytes()).and_then(|()| stream.write_all(&self.body[..count]));
        if matches!(self.end, End::Stall(_)) {
            // Until the client closes.
            stream.read_exact(&mut [0; 1]).ok();
        }
        stream.shutdown(Shutdown::Both).ok();
        sent.map_or(0, |()| count)
    }
}

fn head(stream: &mut TcpStream) -> Option<String> {
    let (mut bytes, mut byte) = (Vec::new(), [0]);
    while !bytes.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        bytes.push(byte[0]);
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn fields<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<(String, String)> {
    let pairs = lines.filter_map(|line| line.split_once(':'));
    pairs.map(|(key, value)| (key.trim().to_ascii_lowercase(), value.trim().to_owned())).collect()
}

/// Asks a server on this host.
pub fn ask(target: &str, request: &Request) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(target)?;
    // The older protocol: the answer is not sent in pieces, and the connection closed behind it.
    let mut text = format!("{} {} HTTP/1.0\r\n", request.method, request.path);
    for (key, value) in request.headers.iter().filter(|(key, _)| key != "connection") {
        text.push_str(&format!("{key}: {value}\r\n"));
    }
    stream.write_all(format!("{text}\r\n").as_bytes())?;
    stream.write_all(&request.body)?;
    let head = head(&mut stream).ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or(0);
    let mut headers = fields(lines);
    if request.method != "HEAD" {
        headers.retain(|(key, _)| key != "content-length");
    }
    let mut body = Vec::new();
    stream.read_to_end(&mut body)?;
    Ok(Answer { status, headers, body, end: End::Whole })
}

/// A request, and how many bytes of the answer's body went out.
#[derive(Clone, Debug)]
pub struct Seen {
    pub request: Request,
    pub sent: usize,
}

/// A proxy in front of a registry; its rule may change each answer.
pub struct Proxy {
    pub address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    _listener: Listener,
}

impl Proxy {
    /// The rule is told how many requests there were before this one.
    pub fn start(target: &str, rule: impl Fn(usize, &Request, &mut Answer) + Send + Sync + 'static) -> Self {
        let target = target.to_owned();
        Self::answering("127.0.0.1:0", move |count, request| {
            let unreachable = |_| Answer::new(502, &[], "");
            let mut answer = ask(&target, request).unwrap_or_else(unreachable);
            rule(count, request, &mut answer);
            answer
        })
    }

    /// A server of its own.
    pub fn answering(address: &str, rule: impl Fn(usize, &Request) -> Answer + Send + Sync + 'static) -> Self {
        let seen = Arc::new(Mutex::new(Vec::<Seen>::new()));
        let (log, count) = (seen.clone(), Arc::new(Mutex::new(0)));
        let listener = Listener::on(address, move |mut stream| {
            let Some(request) = Request::read(&mut stream) else { return };
            let number = {
                let mut count = count.lock().unwrap();
                *count += 1;
                *count - 1
            };
            let answer = rule(number, &request);
            // Before the answer: who has it may look at once. How much was sent is known afterwards.
            let at = {
                let mut log = log.lock().unwrap();
                log.push(Seen { request: request.clone(), sent: 0 });
                log.len() - 1
            };
            let sent = answer.write(&request, &mut stream);
            log.lock().unwrap()[at].sent = sent;
        });
        Self { address: listener.address.clone(), seen, _listener: listener }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Requests whose head says so much.
    pub fn asked(&self, what: impl Fn(&Request) -> bool) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| what(&seen.request)).collect()
    }

    /// Whether anybody told it a password or a token.
    pub fn was_told(&self) -> bool {
        self.seen().iter().any(|seen| seen.request.header("authorization").is_some())
    }
}
