//! The flags about files: `--volume`, `--mount`, `--tmpfs`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{FlagError, bytes, wrong};
use crate::cli::args::Run;
use crate::reconcile::resource::{Mount, MountSource};
use crate::spec::units;

/// All mounts that the flags ask for.
pub fn mounts(run: &Run, here: &Path) -> Result<Vec<Mount>, FlagError> {
    let mut mounts = run.files.volume.iter().map(|text| mount(text, here)).collect::<Result<Vec<_>, _>>()?;
    for text in &run.files.mount {
        mounts.push(long_mount(text, here)?);
    }
    for text in &run.files.tmpfs {
        mounts.push(tmpfs(text)?);
    }
    let mut targets: Vec<&str> = mounts.iter().map(|mount| mount.target.trim_end_matches('/')).collect();
    targets.sort_unstable();
    if targets.contains(&"") {
        return Err(wrong("--volume", "/", "nothing can be mounted over the root of a container"));
    }
    match targets.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(wrong("--volume", pair[0], "something is mounted there already by another flag")),
        None => Ok(mounts),
    }
}

/// `SOURCE:TARGET[:OPTIONS]` or `TARGET`. A source with a slash is a path, another word names a volume.
fn mount(text: &str, here: &Path) -> Result<Mount, FlagError> {
    let error = || wrong("--volume", text, "expected SOURCE:TARGET[:ro], the target an absolute path");
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (None, target, ""),
        [source, target] => (Some(source), target, ""),
        [source, target, options] => (Some(source), target, options),
        _ => return Err(error()),
    };
    if !is_target(target) {
        return Err(error());
    }
    let options: Vec<&str> = options.split(',').filter(|option| !option.is_empty()).collect();
    let known = ["ro", "rw", "z", "Z", "nocopy", "rprivate", "private", "rshared", "shared", "rslave", "slave"];
    if options.iter().any(|option| !known.contains(option)) {
        return Err(error());
    }
    // A slip more often than not; and what is not there would be made.
    if source.is_some_and(|path| path.contains('/') && !path.starts_with(['/', '.'])) {
        return Err(wrong(
            "--volume",
            text,
            "a path of this host begins with `/`, `./` or `../`; a volume's name has no `/`",
        ));
    }
    let propagation = options.iter().find(|option| option.ends_with("shared") || option.ends_with("slave"));
    let source = match source {
        Some(path) if path.contains('/') || path.starts_with('.') => MountSource::Bind {
            source: clean(&here.join(path)),
            create: true,
            propagation: propagation.map(|option| (*option).to_owned()),
        },
        name => {
            MountSource::Volume { volume: name.map(str::to_owned), nocopy: options.contains(&"nocopy"), subpath: None }
        }
    };
    Ok(Mount { target: target.to_owned(), read_only: options.contains(&"ro"), on_change: Default::default(), source })
}

/// `type=…,source=…,target=…`: docker's `--mount`. Its bind mounts must be there.
fn long_mount(text: &str, here: &Path) -> Result<Mount, FlagError> {
    let error = |expected| wrong("--mount", text, expected);
    let mut options = BTreeMap::new();
    for part in text.split(',') {
        let (key, value) = part.split_once('=').unwrap_or((part, "true"));
        let key = match key {
            "src" => "source",
            "dst" | "destination" => "target",
            "ro" => "readonly",
            key => key,
        };
        options.insert(key, value);
    }
    let mut take = |key: &str| options.remove(key).map(str::to_owned);
    let kind = take("type").unwrap_or_else(|| "volume".to_owned());
    let target = take("target").filter(|target| is_target(target));
    let target = target.ok_or_else(|| error("expected target=PATH, an absolute path"))?;
    let read_only = take("readonly").is_some_and(|value| value == "true" || value == "1");
    let source = take("source");
    let source = match (kind.as_str(), source) {
        ("bind", Some(source)) => MountSource::Bind {
            source: clean(&here.join(source)),
            create: false,
            propagation: take("bind-propagation"),
        },
        ("bind", None) => return Err(error("a bind mount needs source=PATH")),
        ("volume", source) => MountSource::Volume {
            volume: source.filter(|name| !name.is_empty()),
            nocopy: take("volume-nocopy").is_some_and(|value| value == "true" || value == "1"),
            subpath: take("volume-subpath"),
        },
        ("tmpfs", None) => {
            let size = take("tmpfs-size").map(|size| bytes("--mount", &size)).transpose()?;
            let mode = take("tmpfs-mode").map(|mode| u32::from_str_radix(&mode, 8));
            MountSource::Tmpfs {
                size,
                mode: mode.transpose().map_err(|_| error("expected tmpfs-mode in octal"))?,
                options: Vec::new(),
            }
        }
        ("tmpfs", Some(_)) => return Err(error("a directory in memory has no source")),
        ("image", Some(image)) => MountSource::Image { image, digest: String::new(), subpath: take("image-subpath") },
        ("image", None) => return Err(error("an image mount needs source=IMAGE")),
        _ => return Err(error("expected type=bind, type=volume, type=tmpfs or type=image")),
    };
    let read_only = read_only || matches!(source, MountSource::Image { .. });
    match options.is_empty() {
        true => Ok(Mount { target, read_only, on_change: Default::default(), source }),
        false => Err(error("expected type, source, target, readonly and options of the type only")),
    }
}

/// The path without `.` and with `..` taken back, by its text alone.
fn clean(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut clean, component| {
        match component {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => {
                clean.pop();
            }
            other => clean.push(other),
        }
        clean
    })
}

/// `TARGET[:size=…,mode=…,…]`; what is not said keeps its safe default.
fn tmpfs(text: &str) -> Result<Mount, FlagError> {
    let error = || wrong("--tmpfs", text, "expected TARGET[:size=64m,mode=1777,ro], the target an absolute path");
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let (mut size, mut mode, mut read_only, mut own) = (None, None, false, Vec::new());
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=').unwrap_or((option, "")) {
            ("size", value) => size = Some(units::bytes(value).ok_or_else(error)?),
            ("mode", value) => mode = Some(u32::from_str_radix(value, 8).map_err(|_| error())?),
            ("ro", "") => read_only = true,
            ("rw", "") => {}
            _ => own.push(option.to_owned()),
        }
    }
    if !is_target(target) {
        return Err(error());
    }
    let source = MountSource::Tmpfs { size, mode, options: own };
    Ok(Mount { target: target.to_owned(), read_only, on_change: Default::default(), source })
}

/// The root of a container is no place for a mount.
fn is_target(text: &str) -> bool {
    text.starts_with('/') && Path::new(text).file_name().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_with_a_slash_is_a_path() {
        let here = Path::new("/home/me");
        let source = |text: &str| mount(text, here).map(|mount| (mount.source, mount.read_only));
        let bind = |path: &str| MountSource::Bind { source: path.into(), create: true, propagation: None };
        let volume = |name: &str| MountSource::Volume { volume: Some(name.into()), nocopy: false, subpath: None };
        assert_eq!(source("./a/../b:/x:ro"), Ok((bind("/home/me/b"), true)));
        assert_eq!(source("data:/x"), Ok((volume("data"), false)));
        for text in ["data:x", "data:/x:fast", "", "a:b:c:d"] {
            assert!(source(text).is_err(), "{text}");
        }
    }

    #[test]
    fn mounts_have_dockers_long_form() {
        let mount =
            |text: &str| long_mount(text, Path::new("/h")).map(|mount| (mount.target, mount.read_only, mount.source));
        let bind = |path: &str| MountSource::Bind { source: path.into(), create: false, propagation: None };
        let volume =
            |name: Option<&str>| MountSource::Volume { volume: name.map(str::to_owned), nocopy: false, subpath: None };
        let image = MountSource::Image { image: "a:1".into(), digest: String::new(), subpath: Some("x".to_owned()) };
        for (text, expected) in [
            ("type=bind,src=/a,dst=/b", ("/b", false, bind("/a"))),
            ("type=bind,source=a,target=/b,readonly", ("/b", true, bind("/h/a"))),
            ("type=bind,source=/a,destination=/b,ro=true", ("/b", true, bind("/a"))),
            ("source=data,target=/b", ("/b", false, volume(Some("data")))),
            ("type=volume,target=/b,readonly=false", ("/b", false, volume(None))),
            (
                "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770",
                ("/t", false, MountSource::Tmpfs { size: Some(1 << 20), mode: Some(0o1770), options: vec![] }),
            ),
            ("type=image,source=a:1,target=/i,image-subpath=x", ("/i", true, image)),
        ] {
            let (target, read_only, source) = expected;
            assert_eq!(mount(text), Ok((target.to_owned(), read_only, source)), "{text}");
        }
        for text in [
            "type=bind,dst=/b",
            "type=nfs,dst=/b",
            "type=image,dst=/b",
            "type=bind,src=/a",
            "src=a,dst=b",
            "type=tmpfs,src=/a,dst=/b",
            "src=a,dst=/b,colour=red",
        ] {
            assert!(mount(text).is_err(), "{text}");
        }
    }

    #[test]
    fn directories_in_memory_take_size_and_mode() {
        let source = |text: &str| tmpfs(text).map(|mount| (mount.read_only, mount.source));
        assert_eq!(source("/t"), Ok((false, MountSource::Tmpfs { size: None, mode: None, options: vec![] })));
        let full = MountSource::Tmpfs { size: Some(64 << 20), mode: Some(0o1777), options: vec!["noexec".into()] };
        assert_eq!(source("/t:size=64m,mode=1777,ro,noexec"), Ok((true, full)));
        for text in ["t", "/t:size=much", "/t:mode=9"] {
            assert!(source(text).is_err(), "{text}");
        }
    }
}
