//! Passwords where docker and podman keep them. Read anew at each use, so that a new login counts at once.
//!
//! In this order: docker's `config.json` (`credHelpers` of the registry, `credsStore`, `auths`), podman's `auth.json`.
//! A credential helper is the one program that this one starts besides itself: docker's protocol,
//! `docker-credential-NAME get|store|erase`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Credentials;
use crate::runtime::state::{Durability, replace};

/// The name that docker keeps its own registry under.
const HUB: &str = "https://index.docker.io/v1/";
const HELPER_PATIENCE: Duration = Duration::from_secs(60);
const LONGEST_ANSWER: u64 = 1 << 20;

/// Why a password could not be kept, or was not to be had.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("{path}: {reason}")]
    File { path: PathBuf, reason: String },
    #[error(
        "credential helper docker-credential-{name}: {reason}\n  help: credsStore and credHelpers of docker's config.json name it"
    )]
    Helper { name: String, reason: String },
    #[error("there is no home directory to keep a password in\n  help: set DOCKER_CONFIG")]
    Homeless,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct File {
    auths: BTreeMap<String, Entry>,
    #[serde(rename = "credsStore")]
    store: String,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    #[serde(rename = "identitytoken")]
    identity_token: String,
}

/// What this user's files say about a place, `HOST` or `HOST/REPOSITORY`.
pub fn of_user(place: &str) -> Option<Credentials> {
    files_of_user().iter().find_map(|file| from_file(file, place))
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn docker_file() -> Option<PathBuf> {
    let folder = variable("DOCKER_CONFIG").or_else(|| Some(variable("HOME")?.join(".docker")));
    Some(folder?.join("config.json"))
}

fn files_of_user() -> Vec<PathBuf> {
    let config = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
    let run = format!("/run/containers/{}", nix::unistd::geteuid());
    let podman = [
        variable("REGISTRY_AUTH_FILE"),
        variable("XDG_RUNTIME_DIR").map(|folder| folder.join("containers/auth.json")),
        Some(Path::new(&run).join("auth.json")),
        config.map(|folder| folder.join("containers/auth.json")),
    ];
    docker_file().into_iter().chain(podman.into_iter().flatten()).collect()
}

/// What the file says about this place; nothing where there is no file, or it can't be read.
pub fn from_file(path: &Path, place: &str) -> Option<Credentials> {
    let text = fs::read(path).ok()?;
    let file: File = match serde_json::from_slice(&text) {
        Ok(file) => file,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "not read: going on without a password");
            return None;
        }
    };
    if let Some(helper) = helper_of(&file, place) {
        match ask(helper, server_of(registry_of(place))) {
            Ok(Some(found)) => return Some(found),
            Ok(None) => {}
            Err(error) => tracing::warn!("{error}"),
        }
    }
    find(&file, place)
}

fn registry_of(place: &str) -> &str {
    place.split('/').next().unwrap_or(place)
}

fn is_hub(host: &str) -> bool {
    ["docker.io", "index.docker.io", "registry-1.docker.io"].contains(&host)
}

/// What a registry is called in docker's files and by its helpers.
fn server_of(registry: &str) -> &str {
    if is_hub(registry) { HUB } else { registry }
}

fn helper_of<'a>(file: &'a File, place: &str) -> Option<&'a str> {
    let registry = registry_of(place);
    let own = file.helpers.iter().find(|(key, _)| host(key) == registry || (is_hub(registry) && is_hub(host(key))));
    let name = own.map_or(file.store.as_str(), |(_, name)| name.as_str());
    (!name.is_empty()).then_some(name)
}

/// The entry of the longest prefix of the place, as podman has it; docker's entries are hosts.
fn find(file: &File, place: &str) -> Option<Credentials> {
    let mut prefix = place;
    loop {
        let same = |key: &str| key == prefix || (is_hub(prefix) && is_hub(key));
        let entry = file.auths.iter().find(|(key, _)| same(place_of(key)));
        if let Some(found) = entry.and_then(|(_, entry)| entry.credentials()) {
            return Some(found);
        }
        prefix = prefix.rsplit_once('/')?.0;
    }
}

impl Entry {
    fn credentials(&self) -> Option<Credentials> {
        if !self.identity_token.is_empty() {
            return Some(Credentials::IdentityToken(self.identity_token.clone()));
        }
        if !self.auth.is_empty() {
            let text = String::from_utf8(STANDARD.decode(self.auth.trim()).ok()?).ok()?;
            let (user, password) = text.split_once(':')?;
            return Some(Credentials::Password { user: user.into(), password: password.trim_end_matches('\0').into() });
        }
        let (user, password) = (self.username.clone(), self.password.clone());
        (!user.is_empty()).then_some(Credentials::Password { user, password })
    }
}

/// Old entries are URLs, of which the version is no repository: `https://index.docker.io/v1/`.
fn place_of(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or(key.strip_prefix("http://")).unwrap_or(key).trim_end_matches('/');
    rest.strip_suffix("/v1").or(rest.strip_suffix("/v2")).unwrap_or(rest)
}

/// The registry of an entry.
fn host(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or(key.strip_prefix("http://")).unwrap_or(key);
    rest.split('/').next().unwrap_or(rest)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

fn ask(helper: &str, server: &str) -> Result<Option<Credentials>, CredentialsError> {
    let (succeeded, text) = run_helper(helper, "get", server)?;
    understand(helper, succeeded, &text)
}

/// What a helper has answered.
fn understand(helper: &str, succeeded: bool, text: &str) -> Result<Option<Credentials>, CredentialsError> {
    let failed = |reason: String| CredentialsError::Helper { name: helper.to_owned(), reason };
    if !succeeded {
        return if text.contains("not found") { Ok(None) } else { Err(failed(clean(text))) };
    }
    let answer: Answer = serde_json::from_str(text).map_err(|_| failed("its answer is not understood".into()))?;
    Ok(match answer.username.as_str() {
        _ if answer.secret.is_empty() => None,
        "<token>" => Some(Credentials::IdentityToken(answer.secret)),
        user => Some(Credentials::Password { user: user.to_owned(), password: answer.secret }),
    })
}

fn clean(text: &str) -> String {
    text.trim().chars().filter(|c| !c.is_control()).take(200).collect()
}

/// Whether it succeeded, and what it wrote.
fn run_helper(name: &str, verb: &str, input: &str) -> Result<(bool, String), CredentialsError> {
    let failed = |reason: String| CredentialsError::Helper { name: clean(name), reason };
    // The name becomes that of a program: a path could be anything.
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
        return Err(failed("that is not a name".into()));
    }
    let mut command = Command::new(format!("docker-credential-{name}"));
    command.arg(verb).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let result = converse(&mut child, input);
    if result.is_err() {
        // It may have ended by itself.
        drop(child.kill());
    }
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    Ok((status.success(), result.map_err(failed)?))
}

fn converse(child: &mut Child, input: &str) -> Result<String, String> {
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("it has no pipes".into());
    };
    // One that does not read what it is told may still answer.
    drop(stdin.write_all(input.as_bytes()));
    drop(stdin);
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        let read = stdout.take(LONGEST_ANSWER).read_to_string(&mut text).map(|_| text);
        // Nobody waits any more where it took too long.
        sender.send(read).ok();
    });
    match receiver.recv_timeout(HELPER_PATIENCE) {
        Ok(read) => read.map_err(|error: io::Error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", HELPER_PATIENCE.as_secs())),
    }
}

/// Keeps what a login was done with, where docker would; returns where.
pub fn store(registry: &str, credentials: &Credentials) -> Result<String, CredentialsError> {
    let path = docker_file().ok_or(CredentialsError::Homeless)?;
    let server = server_of(registry);
    let (user, secret) = match credentials {
        Credentials::Password { user, password } => (user.as_str(), password.as_str()),
        Credentials::IdentityToken(token) => ("<token>", token.as_str()),
    };
    if let Some(name) = configured_helper(&path, registry)? {
        let input = json!({"ServerURL": server, "Username": user, "Secret": secret}).to_string();
        let (succeeded, text) = run_helper(&name, "store", &input)?;
        let failed = || CredentialsError::Helper { name: name.clone(), reason: clean(&text) };
        return if succeeded { Ok(format!("docker-credential-{name}")) } else { Err(failed()) };
    }
    let entry = match credentials {
        Credentials::Password { .. } => json!({"auth": STANDARD.encode(format!("{user}:{secret}"))}),
        Credentials::IdentityToken(token) => json!({"identitytoken": token}),
    };
    change(&path, |auths| {
        auths.insert(server.to_owned(), entry);
    })?;
    Ok(path.display().to_string())
}

/// Forgets a login. Whether there was one.
pub fn erase(registry: &str) -> Result<bool, CredentialsError> {
    let path = docker_file().ok_or(CredentialsError::Homeless)?;
    let mut erased = false;
    if let Some(name) = configured_helper(&path, registry)? {
        erased = ask(&name, server_of(registry))?.is_some();
        if erased {
            let (succeeded, text) = run_helper(&name, "erase", server_of(registry))?;
            if !succeeded {
                return Err(CredentialsError::Helper { name, reason: clean(&text) });
            }
        }
    }
    if path.exists() {
        change(&path, |auths| {
            let before = auths.len();
            auths.retain(|key, _| host(key) != registry && !(is_hub(registry) && is_hub(host(key))));
            erased |= auths.len() < before;
        })?;
    }
    Ok(erased)
}

fn configured_helper(path: &Path, registry: &str) -> Result<Option<String>, CredentialsError> {
    let failed = |reason: String| CredentialsError::File { path: path.to_owned(), reason };
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error.to_string())),
    };
    let file: File = serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
    Ok(helper_of(&file, registry).map(str::to_owned))
}

/// Changes `auths` of the file, and nothing else in it. For its owner's eyes only.
fn change(path: &Path, edit: impl FnOnce(&mut serde_json::Map<String, Value>)) -> Result<(), CredentialsError> {
    let failed = |reason: String| CredentialsError::File { path: path.to_owned(), reason };
    // A link is kept: the file that it leads to is what is replaced.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut file: Value = match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => json!({}),
        Err(error) => return Err(failed(error.to_string())),
    };
    let top = file.as_object_mut().ok_or_else(|| failed("it is not a JSON object".into()))?;
    let auths = top.entry("auths").or_insert_with(|| json!({}));
    edit(auths.as_object_mut().ok_or_else(|| failed("auths is not a JSON object".into()))?);
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|error| failed(error.to_string()))?;
    let text = format!("{file:#}\n");
    replace(&path, text.as_bytes(), Durability::Durable).map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(value: Value) -> File {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn entries_are_found_by_host_and_by_the_longest_prefix() {
        let file = file(json!({"auths": {
            "https://index.docker.io/v1/": {"auth": STANDARD.encode("me:secret:x")},
            "r.example:5000": {"username": "u", "password": "p"},
            "t.example": {"auth": "", "identitytoken": "tok"},
            "q.example/team": {"username": "team", "password": "p"},
            "q.example/team/app": {"username": "app", "password": "p"},
            "empty.example": {},
        }}));
        let password =
            |user: &str, password: &str| Some(Credentials::Password { user: user.into(), password: password.into() });
        assert!(find(&file, "docker.io/library/x") == password("me", "secret:x"));
        assert!(find(&file, "r.example:5000/a/b") == password("u", "p"));
        assert!(find(&file, "t.example/x") == Some(Credentials::IdentityToken("tok".into())));
        assert!(find(&file, "q.example/team/other") == password("team", "p"));
        assert!(find(&file, "q.example/team/app") == password("app", "p"));
        for none in ["r.example", "r.example:5001", "empty.example", "x.docker.io", "q.example/other", "q.example"] {
            assert!(find(&file, none).is_none(), "{none}");
        }
    }

    #[test]
    fn a_registrys_own_helper_comes_before_the_general_one() {
        let file = file(json!({"credsStore": "all", "credHelpers": {"r.example": "one", "docker.io": "hub"}}));
        for (place, expected) in [("r.example/x", "one"), ("s.example/x", "all"), ("docker.io/library/x", "hub")] {
            assert_eq!(helper_of(&file, place), Some(expected));
        }
        assert_eq!(helper_of(&File::default(), "r.example"), None);
    }

    #[test]
    fn a_helpers_name_is_no_path() {
        for name in ["../../bin/sh", "a/b", "a b", "a;b"] {
            assert!(run_helper(name, "get", "x").unwrap_err().to_string().contains("not a name"), "{name}");
        }
    }

    proptest! {
        /// A helper is a program of the host's, and may be anything all the same; what it says is never shown as it is.
        #[test]
        fn any_answer_of_a_helper_is_read_or_refused(user in ".*", secret in ".*", noise in ".*", at in 0_usize..80) {
            let good = json!({"ServerURL": "r.example", "Username": user, "Secret": secret}).to_string();
            match understand("test", true, &good) {
                Ok(None) => prop_assert!(secret.is_empty()),
                Ok(Some(Credentials::IdentityToken(found))) => prop_assert!(user == "<token>" && found == secret),
                Ok(Some(Credentials::Password { user: found, password })) => {
                    prop_assert!(found == user && password == secret);
                }
                Err(error) => prop_assert!(false, "{}", error),
            }
            let cut: String = good.chars().take(at.min(good.chars().count() - 1)).collect();
            for (succeeded, text) in [(true, cut.as_str()), (true, &noise), (false, &noise), (false, &good)] {
                if let Err(error) = understand("test", succeeded, text) {
                    let said = error.to_string().replace('\n', "");
                    prop_assert!(!said.chars().any(char::is_control) && said.len() < 1500, "{said:?}");
                }
            }
        }

        #[test]
        fn any_file_of_passwords_is_read_or_refused(key in ".*", auth in ".*", place in "[a-z.:/0-9]{1,30}") {
            for auth in [auth.clone(), STANDARD.encode(&auth)] {
                let text = json!({"auths": {key.clone(): {"auth": auth}}, "credHelpers": {key.clone(): "one"}}).to_string();
                if let Ok(file) = serde_json::from_str::<File>(&text) {
                    drop((find(&file, &place), helper_of(&file, &place).map(str::len)));
                }
            }
        }
    }
}
