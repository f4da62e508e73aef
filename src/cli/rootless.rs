//! Where an ordinary user's engine is, and how its commands come to be root of the user's own namespace.

use std::convert::Infallible;
use std::ffi::OsString;
use std::path::PathBuf;

use super::failure::Failure;
use super::view;
use crate::runtime::rootless;
use crate::runtime::roots::Roots;

/// Places that nobody has named.
pub struct Usual {
    pub root: PathBuf,
    pub run: PathBuf,
}

/// Those of root, or of the user (XDG Base Directory Specification).
pub fn usual_places() -> Usual {
    let user = nix::unistd::geteuid();
    if user.is_root() {
        return Usual { root: "/var/lib/stack".into(), run: "/run/stack".into() };
    }
    let named = |variable: &str| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = named("HOME").unwrap_or_else(|| PathBuf::from("/"));
    let data = named("XDG_DATA_HOME").unwrap_or_else(|| home.join(".local/share"));
    let run = named("XDG_RUNTIME_DIR").map(|directory| directory.join("stack"));
    Usual { root: data.join("stack"), run: run.unwrap_or_else(|| PathBuf::from(format!("/tmp/stack-{user}"))) }
}

/// The words that were typed, and the roots where this is a command that has joined the user's namespace: `inside
/// --root DIR --run-root DIR DESCRIPTOR` before them, which only this program itself types.
pub fn inside(words: Vec<OsString>) -> (Option<Roots>, Vec<OsString>) {
    if words.get(1).is_none_or(|word| word != rootless::WORD) || words.len() < 7 {
        return (None, words);
    }
    let roots = Roots::new(&words[3], &words[5]);
    if let Some(door) = words[6].to_str().and_then(|word| word.parse().ok()) {
        // Without it the holder may end while this command works; what needs it then says so.
        rootless::keep_door_open(door).ok();
    }
    let rest = words.into_iter().enumerate().filter(|(index, _)| !(1..7).contains(index));
    (Some(roots), rest.map(|(_, word)| word).collect())
}

/// Starts the command again as root of the user's own namespace; returns only why not.
pub fn enter(roots: &Roots, words: &[OsString], word: &str, quiet: bool) -> Result<Infallible, Failure> {
    let warn = |words: &str| {
        if !quiet {
            view::note(&format!("warning: {words}"));
        }
    };
    let code = if matches!(word, "run" | "exec") { 125 } else { 1 };
    rootless::enter(roots, words, warn).map_err(|error| Failure::new(error).with_code(code))
}
