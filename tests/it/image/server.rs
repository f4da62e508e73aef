//! The registries of the tests: a real one, a proxy that cuts connections, and a listener that says what it is told.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::json;
use stack::runtime::image::Digest;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A layer with these files: path, mode, content.
pub fn layer_tar(files: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, mode, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(*mode);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

/// Debian's `docker-registry`, on a port of its own; ends with the value. What it holds stays in its directory.
pub struct Registry {
    pub address: String,
    pub directory: PathBuf,
    child: Child,
}

/// The part of a registry's configuration that lets in whoever has this password.
pub fn basic_auth(directory: &Path, (user, password): (&str, &str)) -> serde_json::Value {
    let made = Command::new("htpasswd").args(["-Bbn", "-C", "4", user, password]).output().expect("htpasswd");
    fs::write(directory.join("htpasswd"), made.stdout).unwrap();
    json!({"htpasswd": {"realm": "test", "path": directory.join("htpasswd")}})
}

impl Registry {
    pub fn start(directory: &Path, account: Option<(&str, &str)>) -> Self {
        Self::with(directory, |config| {
            if let Some(account) = account {
                config["auth"] = basic_auth(directory, account);
            }
        })
    }

    /// With more in its configuration.
    pub fn with(directory: &Path, edit: impl FnOnce(&mut serde_json::Value)) -> Self {
        let directory = directory.join("registry");
        fs::create_dir_all(&directory).unwrap();
        let mut config = json!({"version": "0.1", "log": {"level": "info"}, "http": {"addr": ""},
            "storage": {"filesystem": {"rootdirectory": directory.join("data")}, "cache": {"blobdescriptor": ""}}});
        edit(&mut config);
        let fixed = config["http"]["addr"] != "";
        for _ in 0..5 {
            if !fixed {
                let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
                config["http"]["addr"] = free.to_string().into();
            }
            let address = config["http"]["addr"].as_str().unwrap().to_owned();
            let mut registry = Self { address, child: serve(&directory, &config), directory: directory.clone() };
            if registry.listens() {
                return registry;
            }
        }
        panic!("no port stays free: {}", log(&directory));
    }

    /// `false` where somebody else was given the port meanwhile.
    fn listens(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let log = log(&self.directory);
            if log.contains("listening on") {
                return true;
            }
            let ended = self.child.try_wait().unwrap();
            if ended.is_some() && log.contains("address already in use") {
                return false;
            }
            assert!(ended.is_none(), "the registry ended: {log}");
            assert!(Instant::now() < deadline, "the registry does not listen: {log}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn send(&self, method: &str, url: &str, kind: &str, body: &[u8], account: Option<(&str, &str)>) -> Option<String> {
        let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).build().into();
        let mut request = if method == "PUT" { agent.put(url) } else { agent.post(url) }.header("content-type", kind);
        if let Some((user, password)) = account {
            let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
            request = request.header("authorization", format!("Basic {encoded}"));
        }
        let response = request.send(body).unwrap_or_else(|error| panic!("{method} {url}: {error}"));
        response.headers().get("location").map(|value| value.to_str().unwrap().to_owned())
    }

    pub fn blob(&self, repository: &str, bytes: &[u8], account: Option<(&str, &str)>) -> serde_json::Value {
        let start = format!("http://{}/v2/{repository}/blobs/uploads/", self.address);
        let place = self.send("POST", &start, "application/octet-stream", &[], account).unwrap();
        let digest = Digest::of(bytes);
        self.send("PUT", &format!("{place}&digest={digest}"), "application/octet-stream", bytes, account);
        json!({"digest": digest, "size": bytes.len()})
    }

    /// Puts an image of these layers there, and gives its descriptor.
    pub fn push(&self, name: &str, tag: &str, layers: &[Vec<u8>], account: Option<(&str, &str)>) -> serde_json::Value {
        self.push_for("amd64", (name, tag), layers, account)
    }

    /// As [`Registry::push`], for this architecture.
    pub fn push_for(
        &self,
        architecture: &str,
        (name, tag): (&str, &str),
        layers: &[Vec<u8>],
        account: Option<(&str, &str)>,
    ) -> serde_json::Value {
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let mut config = configuration(&diff_ids);
        config["architecture"] = architecture.into();
        let mut config = self.blob(name, config.to_string().as_bytes(), account);
        config["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
        let layers: Vec<_> = layers.iter().map(|layer| self.layer(name, &gzip(layer), "gzip", account)).collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        self.document(name, tag, MANIFEST, &manifest, account)
    }

    /// An image of one layer, given as it is compressed, and the digest of what it is when it is not.
    pub fn push_packed(&self, name: &str, tag: &str, layer: &[u8], kind: &str, diff_id: &Digest) -> serde_json::Value {
        let mut config = self.blob(name, configuration(std::slice::from_ref(diff_id)).to_string().as_bytes(), None);
        config["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
        let layer = self.layer(name, layer, kind, None);
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]});
        self.document(name, tag, MANIFEST, &manifest, None)
    }

    fn layer(&self, name: &str, packed: &[u8], kind: &str, account: Option<(&str, &str)>) -> serde_json::Value {
        let mut layer = self.blob(name, packed, account);
        layer["mediaType"] = format!("application/vnd.oci.image.layer.v1.tar+{kind}").into();
        layer
    }

    pub fn push_index(&self, name: &str, tag: &str, images: &[(&str, &serde_json::Value)]) {
        let entry = |(platform, image): &(&str, &serde_json::Value)| {
            let (os, architecture) = platform.split_once('/').unwrap();
            let mut entry = (*image).clone();
            entry["platform"] = json!({"os": os, "architecture": architecture});
            entry
        };
        let manifests: Vec<_> = images.iter().map(entry).collect();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        self.document(name, tag, INDEX, &index, None);
    }

    /// Puts a document of any kind there.
    pub fn document(
        &self,
        name: &str,
        tag: &str,
        kind: &str,
        document: &serde_json::Value,
        account: Option<(&str, &str)>,
    ) -> serde_json::Value {
        let text = document.to_string();
        let url = format!("http://{}/v2/{name}/manifests/{tag}", self.address);
        self.send("PUT", &url, kind, text.as_bytes(), account);
        json!({"mediaType": kind, "digest": Digest::of(text.as_bytes()), "size": text.len()})
    }

    /// Changes one byte of a blob on the registry's disk.
    pub fn corrupt(&self, hex: &str) {
        let blobs = self.directory.join("data/docker/registry/v2/blobs/sha256");
        let path = blobs.join(&hex[..2]).join(hex).join("data");
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
}

fn log(directory: &Path) -> String {
    fs::read_to_string(directory.join("log")).unwrap()
}

fn serve(directory: &Path, config: &serde_json::Value) -> Child {
    let file = directory.join("config.yml");
    fs::write(&file, config.to_string()).unwrap();
    let log = fs::File::create(directory.join("log")).unwrap();
    let spawned = Command::new("docker-registry").arg("serve").arg(&file).stdout(Stdio::null()).stderr(log).spawn();
    spawned.expect("docker-registry, which tests/run.sh installs")
}

fn configuration(diff_ids: &[Digest]) -> serde_json::Value {
    json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/tool"], "Env": ["A=b"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}})
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().unwrap();
    }
}

/// Accepts until dropped; each connection in a thread of its own.
pub struct Listener {
    pub address: String,
    stop: Arc<AtomicBool>,
}

impl Listener {
    pub fn start(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::on("127.0.0.1:0", serve)
    }

    pub fn on(address: &str, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, serve) = (stop.clone(), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let serve = serve.clone();
                std::thread::spawn(move || serve(stream.unwrap()));
            }
        });
        Self { address, stop }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(&self.address));
    }
}

/// A proxy that cuts each connection after so many bytes of answers.
pub struct Cutter {
    pub address: String,
    connections: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    _listener: Listener,
}

impl Cutter {
    pub fn start(target: &str, bytes: u64) -> Self {
        let target = target.to_owned();
        let (connections, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(usize::MAX)));
        let (count, bound) = (connections.clone(), most.clone());
        let listener = Listener::start(move |client| {
            if count.fetch_add(1, Ordering::SeqCst) >= bound.load(Ordering::SeqCst) {
                return;
            }
            let server = TcpStream::connect(&target).unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || drop(std::io::copy(&mut from, &mut to)));
            drop(std::io::copy(&mut (&server).take(bytes), &mut &client));
            for stream in [client, server] {
                drop(stream.shutdown(Shutdown::Both));
            }
        });
        Self { address: listener.address.clone(), connections, most, _listener: listener }
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// No connection after this many is served.
    pub fn die_after(&self, connections: usize) {
        self.most.store(connections, Ordering::SeqCst);
    }
}

/// Answers each request by a rule, and remembers it.
pub struct Target {
    pub address: String,
    requests: Arc<Mutex<Vec<String>>>,
    _listener: Listener,
}

impl Target {
    pub fn start(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        let listener = Listener::start(move |mut stream| {
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
                request.push(byte[0]);
            }
            let request = String::from_utf8_lossy(&request).into_owned();
            let answer = answer(&request);
            // Before the answer: who has it may look at once.
            seen.lock().unwrap().push(request);
            drop(stream.write_all(answer.as_bytes()));
        });
        Self { address: listener.address.clone(), requests, _listener: listener }
    }

    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}
