//! Who vouches for registries and users: a certificate authority made by `openssl`, and a service that gives tokens.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::proxy::{Answer, Proxy, Request};

fn openssl(directory: &Path, words: &str) {
    let made = Command::new("openssl").args(words.split(' ')).current_dir(directory).output().expect("openssl");
    assert!(made.status.success(), "openssl {words}: {}", String::from_utf8_lossy(&made.stderr));
}

const CURVE: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3";

/// An authority that no host knows. Its certificate is `ca.crt`.
pub struct Authority {
    pub directory: PathBuf,
}

impl Authority {
    pub fn new(directory: PathBuf) -> Self {
        fs::create_dir_all(&directory).unwrap();
        openssl(&directory, &format!("req -x509 {CURVE} -keyout ca.key -out ca.crt -subj /CN=authority"));
        Self { directory }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// `NAME.crt` and `NAME.key`, for hosts such as `IP:127.0.0.1` or `DNS:localhost`.
    pub fn certify(&self, name: &str, hosts: &str) {
        let more = "-addext basicConstraints=critical,CA:FALSE -CA ca.crt -CAkey ca.key";
        let hosts = format!("-addext subjectAltName={hosts}");
        openssl(
            &self.directory,
            &format!("req -x509 {CURVE} -keyout {name}.key -out {name}.crt -subj /CN={name} {hosts} {more}"),
        );
    }

    /// The part of a registry's configuration for TLS with this certificate.
    pub fn tls(&self, name: &str) -> Value {
        json!({"certificate": self.path(&format!("{name}.crt")), "key": self.path(&format!("{name}.key"))})
    }
}

/// Gives tokens to whoever knows the password of `ann`, or a refresh token; to strangers for repositories below `public/`.
pub struct TokenService {
    pub server: Proxy,
    directory: PathBuf,
    /// What each request asked for.
    pub scopes: Arc<Mutex<Vec<String>>>,
}

pub const PASSWORD: (&str, &str) = ("ann", "s3cret");
pub const REFRESH: &str = "refresh-me";

impl TokenService {
    /// Called by this host name. The first requests, this many, are answered 503.
    pub fn start(directory: PathBuf, failures: usize) -> Self {
        fs::create_dir_all(&directory).unwrap();
        openssl(&directory, "req -x509 -newkey rsa:2048 -nodes -days 3 -keyout key -out crt -subj /CN=tokens");
        openssl(&directory, "x509 -in crt -outform DER -out der");
        let (place, scopes) = (directory.clone(), Arc::new(Mutex::new(Vec::new())));
        let log = scopes.clone();
        let server = Proxy::answering("127.0.0.1:0", move |count, request| {
            if count < failures {
                return Answer::new(503, &[("retry-after", "0")], "");
            }
            let asked = parameters(request);
            log.lock().unwrap().extend(asked.get("scope").cloned());
            match access(request, &asked) {
                Some(access) => Answer::new(200, &[], json!({"token": signed(&place, count, &access)}).to_string()),
                None => Answer::new(401, &[], json!({"errors": [{"message": "who?"}]}).to_string()),
            }
        });
        Self { server, directory, scopes }
    }

    /// The part of a registry's configuration that sends everybody here, by this name of this host.
    pub fn auth(&self, host: &str) -> Value {
        let port = self.server.address.rsplit(':').next().unwrap();
        json!({"token": {"realm": format!("http://{host}:{port}/token"), "service": "test", "issuer": "test",
            "rootcertbundle": self.directory.join("crt")}})
    }
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).unwrap()
}

/// Of the query, or of a form; scopes joined by spaces.
fn parameters(request: &Request) -> BTreeMap<String, String> {
    let body = String::from_utf8_lossy(&request.body).into_owned();
    let text = if request.method == "POST" { body } else { request.path.split('?').nth(1).unwrap_or("").to_owned() };
    let mut found = BTreeMap::<String, String>::new();
    for (key, value) in text.split('&').filter_map(|pair| pair.split_once('=')) {
        let value = unescape(value);
        found.entry(unescape(key)).and_modify(|old| *old = format!("{old} {value}")).or_insert(value);
    }
    found
}

/// What the asker may do of what they want; `None` for a stranger with a wrong password.
fn access(request: &Request, asked: &BTreeMap<String, String>) -> Option<Vec<Value>> {
    let basic = format!("Basic {}", STANDARD.encode(format!("{}:{}", PASSWORD.0, PASSWORD.1)));
    let known = match request.header("authorization") {
        Some(told) if told == basic => true,
        Some(_) => return None,
        None => asked.get("refresh_token").is_some_and(|token| token == REFRESH),
    };
    let scopes = asked.get("scope").map(String::as_str).unwrap_or_default().split(' ').filter(|one| !one.is_empty());
    let granted = scopes.filter_map(|scope| {
        let mut parts = scope.splitn(3, ':');
        let (kind, name, actions) = (parts.next()?, parts.next()?, parts.next()?);
        let may = |action: &&str| known || (name.starts_with("public/") && *action == "pull");
        let actions: Vec<&str> = actions.split(',').filter(may).collect();
        Some(json!({"type": kind, "name": name, "actions": actions}))
    });
    Some(granted.collect())
}

/// As JSON Web Tokens are signed (RFC 7519), by the key whose certificate the registry trusts.
fn signed(directory: &Path, number: usize, access: &[Value]) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let certificate = STANDARD.encode(fs::read(directory.join("der")).unwrap());
    let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [certificate]});
    let claims = json!({"iss": "test", "sub": "somebody", "aud": "test", "exp": now + 300, "nbf": now - 300, "iat": now,
        "jti": number.to_string(), "access": access});
    let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
    fs::write(directory.join(format!("{number}.txt")), &text).unwrap();
    openssl(directory, &format!("dgst -sha256 -sign key -out {number}.sig {number}.txt"));
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(fs::read(directory.join(format!("{number}.sig"))).unwrap()))
}
