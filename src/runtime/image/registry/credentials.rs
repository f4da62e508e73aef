//! Passwords where docker keeps them: `auths` of `config.json`. Read anew at each use, so that a new login counts at once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::Credentials;

#[derive(Default, Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Clone, Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
}

/// What docker's file of this user says: in `$DOCKER_CONFIG`, or else `~/.docker`.
pub fn of_user(registry: &str) -> Option<Credentials> {
    let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let folder = folder.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker")))?;
    from_file(&folder.join("config.json"), registry)
}

/// What the file says about this registry; nothing where there is no file, or it can't be read.
pub fn from_file(path: &Path, registry: &str) -> Option<Credentials> {
    let text = std::fs::read(path).ok()?;
    let file: File = match serde_json::from_slice(&text) {
        Ok(file) => file,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "not read: going on without a password");
            return None;
        }
    };
    find(&file, registry)
}

fn find(file: &File, registry: &str) -> Option<Credentials> {
    let hub = ["docker.io", "index.docker.io", "registry-1.docker.io"];
    let same = |key: &str| key == registry || (registry == "docker.io" && hub.contains(&key));
    let entry = file.auths.iter().find(|(key, _)| same(host(key)))?.1;
    if !entry.identity_token.is_empty() {
        return Some(Credentials::IdentityToken(entry.identity_token.clone()));
    }
    if !entry.auth.is_empty() {
        let text = String::from_utf8(STANDARD.decode(entry.auth.trim()).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        return Some(Credentials::Password { user: user.into(), password: password.trim_end_matches('\0').into() });
    }
    let (user, password) = (entry.username.clone(), entry.password.clone());
    (!user.is_empty()).then_some(Credentials::Password { user, password })
}

/// Old entries are URLs: `https://index.docker.io/v1/`.
fn host(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or(key.strip_prefix("http://")).unwrap_or(key);
    rest.split('/').next().unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_by_host() {
        let file: File = serde_json::from_value(serde_json::json!({"auths": {
            "https://index.docker.io/v1/": {"auth": STANDARD.encode("me:secret:x")},
            "r.example:5000": {"username": "u", "password": "p"},
            "t.example": {"auth": "", "identitytoken": "tok"},
            "empty.example": {},
        }}))
        .unwrap();
        let password =
            |user: &str, password: &str| Some(Credentials::Password { user: user.into(), password: password.into() });
        assert!(find(&file, "docker.io") == password("me", "secret:x"));
        assert!(find(&file, "r.example:5000") == password("u", "p"));
        assert!(find(&file, "t.example") == Some(Credentials::IdentityToken("tok".into())));
        for none in ["r.example", "r.example:5001", "empty.example", "x.docker.io"] {
            assert!(find(&file, none).is_none(), "{none}");
        }
    }
}
