//! Whose ids a container lives on: its own, in a user namespace, wherever that takes nothing away from it. Root inside is
//! nobody outside then.
//!
//! Decided when a container is made, and kept with it; told in the plan and by `inspect`. What stays on the host's ids
//! does so for a reason that is said. See docs/ids.md.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::containers::Error;
use super::translate::private_users;
use crate::reconcile::resource::{self, ContainerConfig, Mount, MountSource, NamespaceMode, NetworkMode};
use crate::runtime::container;
use crate::runtime::image::{Contents, Image, Store};
use crate::runtime::init;
use crate::runtime::roots::Roots;
use crate::runtime::userns::{self, IdRange, trial};
use crate::runtime::volume::{self, Backing};

/// Capabilities that are worth as much in a user namespace as outside: those that every container has, and those over its
/// own network, processes and messages.
const SAME_INSIDE: [&str; 16] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "IPC_OWNER",
    "KILL",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
    "SYS_PTRACE",
];

/// Whose ids a container has.
#[derive(Clone, Debug, PartialEq)]
pub enum Users {
    Own(IdRange),
    Host { why: String },
}

impl Default for Users {
    fn default() -> Self {
        Self::Host { why: String::new() }
    }
}

impl Users {
    /// As they are already.
    pub fn of(config: &container::Config) -> Self {
        config.request.users.map_or_else(|| Self::Host { why: config.host_ids.clone() }, Self::Own)
    }

    pub fn ids(&self) -> Option<IdRange> {
        match self {
            Self::Own(ids) => Some(*ids),
            Self::Host { .. } => None,
        }
    }

    pub fn why(&self) -> &str {
        match self {
            Self::Own(_) => "",
            Self::Host { why } => why,
        }
    }
}

/// Those of a container that is to be made now.
pub fn allocate(roots: &Roots, wanted: &ContainerConfig, image: &Image, contents: Contents) -> Result<Users, Error> {
    let half_made = match container::get(roots, &wanted.name) {
        Ok(found) if found.phase == container::Phase::Created => return Ok(Users::of(&found.config)),
        Ok(found) => found.config.request.users,
        Err(container::Error::NotFound(_)) => None,
        Err(error) => return Err(error.into()),
    };
    // Those that its network namespace belongs to.
    let kept = half_made.filter(|ids| container::ids::is_held(roots, &wanted.name, *ids));
    match Judge::new(roots).decide(wanted, image, contents)? {
        Decision::Host(why) => Ok(Users::Host { why }),
        Decision::With(other) => Ok(Users::of(&container::get(roots, &other)?.config)),
        Decision::Own => match kept.map_or_else(|| container::ids::claim(roots, &wanted.name), |ids| Ok(Some(ids)))? {
            Some(ids) => Ok(Users::Own(ids)),
            None if wanted.userns.is_some() => Err(Error::NoIds),
            None => Ok(Users::Host { why: "no range of ids is left on this host".to_owned() }),
        },
    }
}

/// What a container is to have.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    Own,
    /// The user namespace of the container with this name, whose other namespaces it shares.
    With(String),
    /// Why.
    Host(String),
}

/// Decides for containers one after the other.
pub struct Judge<'a> {
    roots: &'a Roots,
    /// Containers and volumes that are not there yet, by name.
    pub containers: BTreeMap<&'a str, &'a ContainerConfig>,
    pub volumes: BTreeMap<&'a str, &'a resource::VolumeConfig>,
    /// A user namespace to try mounts with.
    namespace: OnceCell<OwnedFd>,
}

impl<'a> Judge<'a> {
    pub fn new(roots: &'a Roots) -> Self {
        Self { roots, containers: BTreeMap::new(), volumes: BTreeMap::new(), namespace: OnceCell::new() }
    }

    /// What this container of this image is to have.
    ///
    /// # Errors
    /// Where it asks for a user namespace that it can't have.
    pub fn decide(&self, wanted: &ContainerConfig, image: &Image, contents: Contents) -> Result<Decision, Error> {
        if private_users(wanted)? {
            return Ok(Decision::Own);
        }
        if wanted.userns.is_some() {
            return Ok(Decision::Host("as it asks for".to_owned()));
        }
        if let Some(why) = asked(wanted).or_else(|| foreign_ids(wanted, image, contents)) {
            return Ok(Decision::Host(why));
        }
        if let Some(why) = trial::obstacle(self.roots) {
            return Ok(Decision::Host(why));
        }
        if let Some(why) = self.sources(wanted)?.map_or_else(|| self.sysctls(wanted), |why| Ok(Some(why)))? {
            return Ok(Decision::Host(why));
        }
        self.joined(wanted)
    }

    /// Who shares processes, messages or network with another is in its user namespace, or that would not be its own.
    fn joined(&self, wanted: &ContainerConfig) -> Result<Decision, Error> {
        let mut found = Decision::Own;
        for name in others(wanted) {
            let of_other = match self.of_other(name)? {
                Decision::Own => Decision::With(name.to_owned()),
                Decision::With(third) => Decision::With(third),
                Decision::Host(_) => return Ok(Decision::Host(format!("it joins {name}, which is on the host's ids"))),
            };
            if found != Decision::Own && found != of_other {
                return Ok(Decision::Host("it joins containers that have different ids".to_owned()));
            }
            found = of_other;
        }
        Ok(found)
    }

    fn of_other(&self, name: &str) -> Result<Decision, Error> {
        let known = match self.containers.get(name) {
            Some(planned) => {
                let store = Store::open(self.roots);
                let Some(image) = store.get(&planned.image)? else { return Ok(Decision::Own) };
                return self.decide(planned, &image, store.contents(&image)?);
            }
            None => container::get(self.roots, name),
        };
        match known {
            Ok(found) if found.config.request.users.is_some() => Ok(Decision::Own),
            Ok(_) | Err(container::Error::NotFound(_)) => Ok(Decision::Host(String::new())),
            Err(error) => Err(error.into()),
        }
    }

    fn sources(&self, wanted: &ContainerConfig) -> Result<Option<String>, Error> {
        for mount in &wanted.mounts {
            if let Some(why) = self.source(mount)? {
                return Ok(Some(why));
            }
        }
        Ok(None)
    }

    fn source(&self, mount: &Mount) -> Result<Option<String>, Error> {
        match &mount.source {
            MountSource::Bind { source, propagation, .. } => match propagation.as_deref() {
                None | Some("" | "private" | "rprivate") => self.path(source),
                Some(word) => Ok(Some(format!("what is mounted at {} is shared with the host ({word})", mount.target))),
            },
            MountSource::Volume { volume: Some(name), .. } => self.volume(name),
            MountSource::Volume { volume: None, .. } => self.path(&self.roots.root),
            // A mounted image is as the container's own, which is looked at elsewhere.
            MountSource::Tmpfs { .. } | MountSource::Image { .. } => Ok(None),
        }
    }

    fn volume(&self, name: &str) -> Result<Option<String>, Error> {
        let config = match volume::get(self.roots, name)? {
            Some(found) => Some(found.config),
            None => self.volumes.get(name).map(|planned| super::volumes::config(planned)).transpose()?,
        };
        // Options that are wrong are somebody else's to tell.
        match config.map(|config| config.backing()) {
            Some(Ok(Backing::Plugin(driver))) => Ok(Some(format!("volume {name} is of plugin {driver}"))),
            Some(Ok(Backing::Mount(mount))) if mount.kind == "none" => self.path(Path::new(&mount.device)),
            Some(Ok(Backing::Mount(mount))) => Ok(Some(format!("volume {name} is a mount of {}", mount.kind))),
            Some(Ok(Backing::Directory) | Err(_)) | None => self.path(&self.roots.durable("volumes").join(name)),
        }
    }

    /// What is not there yet will be made below what is.
    fn path(&self, source: &Path) -> Result<Option<String>, Error> {
        let Some(place) = source.ancestors().find(|path| path.exists()) else { return Ok(None) };
        let failed = |source| Error::Path { what: "source of a mount", path: place.to_owned(), source };
        let data = fs::metadata(place).map_err(failed)?;
        let is_run = place.canonicalize().map_err(failed)?.starts_with("/run");
        if data.file_type().is_socket() || (is_run && !place.starts_with(&self.roots.root)) {
            return Ok(Some(format!("who listens at {} goes by the ids of the host", source.display())));
        }
        let owner = data.uid().max(data.gid());
        if owner >= userns::SIZE {
            return Ok(Some(format!("{} belongs to id {owner}, and 65535 is the largest inside", source.display())));
        }
        let maps = trial::maps(place, self.namespace()?).map_err(failed)?;
        Ok((!maps).then(|| format!("{} can't be mounted with mapped ids", source.display())))
    }

    fn namespace(&self) -> Result<&OwnedFd, Error> {
        if let Some(made) = self.namespace.get() {
            return Ok(made);
        }
        let ids = userns::candidates("trial").next().ok_or(Error::NoIds)?;
        let made = userns::create(ids).map_err(Error::Namespace)?;
        Ok(self.namespace.get_or_init(|| made))
    }

    fn sysctls(&self, wanted: &ContainerConfig) -> Result<Option<String>, Error> {
        let keys: Vec<&String> = wanted.sysctls.keys().collect();
        let path = |key: &&String| CString::new(format!("/proc/sys/{}", key.replace('.', "/"))).ok();
        let paths: Vec<CString> = keys.iter().filter_map(path).collect();
        if paths.is_empty() {
            return Ok(None);
        }
        let ids = userns::candidates("trial").next().ok_or(Error::NoIds)?;
        let found = trial::unsettable(&paths, ids).map_err(Error::Namespace)?;
        Ok(found.and_then(|index| keys.get(index)).map(|key| format!("root of a user namespace may not set {key}")))
    }
}

/// The containers whose namespaces it shares.
fn others(wanted: &ContainerConfig) -> impl Iterator<Item = &str> {
    let network = match &wanted.network {
        NetworkMode::Container(name) => Some(name.as_str()),
        _ => None,
    };
    let named = [&wanted.pid, &wanted.ipc].into_iter().filter_map(|mode| match mode {
        NamespaceMode::Container(name) => Some(name.as_str()),
        NamespaceMode::Private | NamespaceMode::Host => None,
    });
    network.into_iter().chain(named)
}

/// What it asks for that is the host's to give.
fn asked(wanted: &ContainerConfig) -> Option<String> {
    let host = |mode: &NamespaceMode| *mode == NamespaceMode::Host;
    let all = [
        (wanted.privileged, "it is privileged"),
        (wanted.runtime.is_some(), "another runtime runs it"),
        (!wanted.devices.is_empty() || !wanted.device_cgroup_rules.is_empty(), "it is given devices"),
        (wanted.network == NetworkMode::Host, "it is in the host's network"),
        (host(&wanted.pid), "it sees the host's processes"),
        (host(&wanted.ipc), "it shares the host's messages and memory"),
    ];
    let first = all.into_iter().find(|(holds, _)| *holds).map(|(_, why)| why.to_owned());
    first.or_else(|| {
        let name = |name: &String| {
            let upper = name.to_ascii_uppercase();
            upper.strip_prefix("CAP_").unwrap_or(&upper).to_owned()
        };
        let of_host = wanted.cap_add.iter().map(name).find(|name| !SAME_INSIDE.contains(&name.as_str()));
        of_host.map(|name| {
            format!("CAP_{name} counts on the host alone").replace("CAP_ALL counts", "some capabilities count")
        })
    })
}

/// Ids that a user namespace does not have.
fn foreign_ids(wanted: &ContainerConfig, image: &Image, contents: Contents) -> Option<String> {
    let beyond = |id: u32| id >= userns::SIZE;
    if beyond(contents.largest_id) {
        return Some(format!("its image has files of id {}, and 65535 is the largest inside", contents.largest_id));
    }
    let own = || image.config.config().as_ref().and_then(|own| own.user().clone());
    let user = wanted.user.clone().or_else(own).unwrap_or_default();
    let files = wanted.files.iter().flat_map(|file| [file.uid, file.gid].into_iter().flatten());
    let groups = wanted.group_add.iter().filter_map(|group| group.parse().ok());
    let all = user_ids(&image.layers, &user).into_iter().flatten().chain(files).chain(groups).chain(tmpfs_ids(wanted));
    let largest = all.max().filter(|id| beyond(*id));
    largest.map(|id| format!("it needs id {id}, and 65535 is the largest inside"))
}

/// The ids of the container's user, as far as they can be told: root's otherwise.
pub fn ids_of(layers: &[PathBuf], user: &str) -> (u32, u32) {
    user_ids(layers, user).map_or((0, 0), |[uid, gid]| (uid, gid))
}

/// As the topmost layer that knows the user has it.
fn user_ids(layers: &[PathBuf], user: &str) -> Option<[u32; 2]> {
    if user.is_empty() {
        return None;
    }
    let in_layer = |layer: &Path| init::ids_of(File::open(layer).ok()?.as_fd(), user).ok();
    layers.iter().rev().find_map(|layer| in_layer(layer)).map(|(user, group)| [user, group])
}

fn tmpfs_ids(wanted: &ContainerConfig) -> impl Iterator<Item = u32> {
    let options = wanted.mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Tmpfs { options, .. } => Some(options),
        _ => None,
    });
    let id = |option: &String| option.strip_prefix("uid=").or_else(|| option.strip_prefix("gid="))?.parse().ok();
    options.flatten().filter_map(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_hosts_to_give_is_told() {
        let of = |change: fn(&mut ContainerConfig)| {
            let mut wanted = ContainerConfig::default();
            change(&mut wanted);
            asked(&wanted)
        };
        assert_eq!(of(|_| ()), None);
        assert_eq!(of(|it| it.cap_add = vec!["net_admin".into(), "CAP_CHOWN".into()]), None);
        assert_eq!(of(|it| it.cap_add = vec!["cap_sys_time".into()]).unwrap(), "CAP_SYS_TIME counts on the host alone");
        assert_eq!(of(|it| it.cap_add = vec!["ALL".into()]).unwrap(), "some capabilities count on the host alone");
        assert_eq!(of(|it| it.privileged = true).unwrap(), "it is privileged");
        assert_eq!(of(|it| it.network = NetworkMode::Host).unwrap(), "it is in the host's network");
        assert!(of(|it| it.pid = NamespaceMode::Host).is_some() && of(|it| it.ipc = NamespaceMode::Host).is_some());
        assert!(of(|it| it.device_cgroup_rules = vec!["c 1:3 r".into()]).is_some());
        assert_eq!(of(|it| it.pid = NamespaceMode::Container("x".into())), None);
    }

    #[test]
    fn those_whose_namespaces_it_shares() {
        let wanted = ContainerConfig {
            network: NetworkMode::Container("a".into()),
            ipc: NamespaceMode::Container("b".into()),
            ..ContainerConfig::default()
        };
        assert_eq!(others(&wanted).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(others(&ContainerConfig::default()).count(), 0);
    }
}
