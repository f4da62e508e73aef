//! `cp`: files between this host and containers, by docker's rules.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::args::Cp;
use super::failure::Failure;
use super::names::Here;
use super::{names, view};
use crate::engine::native::containers;
use crate::runtime::container::Tree;
use crate::runtime::roots::Roots;

/// What an argument means.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// A tar, from standard input or to standard output.
    Stream,
    Host(PathBuf),
    Container(String, PathBuf),
}

/// Docker's rule: a path that begins with `/` or `.` is the host's, else what stands before the first colon is a
/// container. Slashes at the end stay: they mean something.
fn place(text: &OsString, here: &Path) -> Place {
    let bytes = text.as_bytes();
    let is_of_host = bytes.starts_with(b"/") || bytes.starts_with(b".");
    match bytes.iter().position(|byte| *byte == b':') {
        _ if bytes == b"-" => Place::Stream,
        Some(colon) if !is_of_host && colon > 0 && !bytes[..colon].contains(&b'/') => {
            let name = String::from_utf8_lossy(&bytes[..colon]).into_owned();
            Place::Container(name, Path::new("/").join(OsString::from_vec(bytes[colon + 1..].to_vec())))
        }
        _ => Place::Host(here.join(text)),
    }
}

pub fn cp(roots: &Roots, here: &Here, arguments: &Cp) -> Result<ExitCode, Failure> {
    let folder = std::env::current_dir()?;
    let (from, to) = (place(&arguments.source, &folder), place(&arguments.target, &folder));
    let open = |place: &Place| match place {
        Place::Container(name, _) => {
            let name = names::one_or_service(roots, here, name)?.config.name;
            Ok(containers::files_of(roots, &name)?)
        }
        Place::Host(_) | Place::Stream => Ok::<_, Failure>(Tree::of_host()?),
    };
    match (&from, &to) {
        (Place::Container(one, source), Place::Container(other, target)) if one == other => {
            let tree = open(&from)?;
            copied(&tree, source, &tree, target, arguments, None)
        }
        (Place::Container(_, source), Place::Container(_, target)) => {
            copied(&open(&from)?, source, &open(&to)?, target, arguments, None)
        }
        (Place::Container(_, source), Place::Host(target)) => {
            let caller = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
            copied(&open(&from)?, source, &open(&to)?, target, arguments, Some(caller))
        }
        (Place::Host(source), Place::Container(_, target)) => {
            copied(&open(&from)?, source, &open(&to)?, target, arguments, Some((0, 0)))
        }
        (Place::Container(_, source), Place::Stream) => {
            if std::io::stdout().is_terminal() {
                return Err(Failure::new("an archive is not written to a terminal\n  help: a pipe, or a folder"));
            }
            let tree = open(&from)?;
            let source = tree.source(source, arguments.follow_link)?;
            tree.write(&source, None, std::io::BufWriter::with_capacity(1 << 20, std::io::stdout().lock()))?;
            Ok(ExitCode::SUCCESS)
        }
        (Place::Stream, Place::Container(_, target)) => {
            open(&to)?.read(target, std::io::stdin().lock())?;
            Ok(ExitCode::SUCCESS)
        }
        _ => Err(Failure::new("none of both is a container's\n  help: write it as CONTAINER:PATH")),
    }
}

/// Whose the copies are is `owner`'s, unless all is to stay as it is.
fn copied(
    from: &Tree,
    source: &Path,
    to: &Tree,
    target: &Path,
    arguments: &Cp,
    owner: Option<(u32, u32)>,
) -> Result<ExitCode, Failure> {
    let source = from.source(source, arguments.follow_link)?;
    let bytes = to.copy(target, from, &source, owner.filter(|_| !arguments.archive))?;
    if !arguments.quiet {
        view::note(&format!("copied {} to {}", view::size(bytes), arguments.target.display()));
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_told_apart_as_dockers() {
        let host = |path: &str| Place::Host(path.into());
        let container = |name: &str, path: &str| Place::Container(name.to_owned(), path.into());
        for (text, expected) in [
            ("-", Place::Stream),
            ("box:/etc/hosts", container("box", "/etc/hosts")),
            ("box:etc", container("box", "/etc")),
            ("box:", container("box", "/")),
            ("box:/a/.", container("box", "/a/.")),
            ("/box:a", host("/box:a")),
            ("./box:a", host("/here/./box:a")),
            ("dir/a:b", host("/here/dir/a:b")),
            ("file", host("/here/file")),
            ("dir/", host("/here/dir/")),
        ] {
            let found = place(&text.into(), Path::new("/here"));
            assert_eq!(found, expected);
            let shown = |place: &Place| match place {
                Place::Host(path) | Place::Container(_, path) => path.as_os_str().to_owned(),
                Place::Stream => OsString::new(),
            };
            assert_eq!(shown(&found), shown(&expected), "slashes of {text}");
        }
    }
}
