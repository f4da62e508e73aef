//! A managed plugin as a container that no `ps` lists: held by a supervisor as any other, in roots of the plugins' own.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::config::Variable;
use super::{Error, Managed, engine};
use crate::runtime::container::{self, Config, Restart, Start, Supervision};
use crate::runtime::devices;
use crate::runtime::image::Store;
use crate::runtime::init::spec::{self, Limits, Namespace, Request};
use crate::runtime::plugin::channel::connect_own;
use crate::runtime::roots::Roots;
use crate::runtime::state::{self, Contention, Lock};

/// How often one that keeps ending is started again by its supervisor; the next use of it begins anew.
const MOST_RESTARTS: u32 = 10;
/// Where docker's plugins make their sockets.
const SOCKETS: &str = "/run/docker/plugins";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// A socket that is made and not yet listened at tells nobody when it is.
const LOOK_AGAIN_MS: u16 = 50;

/// Where the plugin's socket is on this host.
pub fn socket(roots: &Roots, plugin: &Managed) -> PathBuf {
    sockets(roots, plugin).join(&plugin.config.interface.socket)
}

fn sockets(roots: &Roots, plugin: &Managed) -> PathBuf {
    engine(roots).volatile("sockets").join(plugin.short_id())
}

/// What the plugin keeps below its propagated mount; stays when it is upgraded.
pub fn data(roots: &Roots, plugin: &Managed) -> PathBuf {
    engine(roots).durable("data").join(plugin.short_id())
}

/// Sees to it that the plugin runs and takes connections.
///
/// # Errors
/// Where it does not within this time.
pub fn ensure(roots: &Roots, plugin: &Managed, within: Duration) -> Result<(), Error> {
    let engine = engine(roots);
    let _lock = Lock::take(&engine.volatile("locks").join(plugin.short_id()), Contention::Wait)?;
    let socket = socket(roots, plugin);
    let found = match container::get(&engine, plugin.short_id()) {
        Ok(found) => found,
        Err(container::Error::NotFound(_)) => make(roots, &engine, plugin)?,
        Err(error) => return Err(error.into()),
    };
    container::adopt(&engine, &found)?;
    if !container::get(&engine, plugin.short_id())?.is_running() {
        prepare(roots, plugin)?;
        state::remove(&socket)?;
        container::start(&engine, &found, &files(plugin), Supervision::Anew, || ())?;
    }
    wait(&engine, plugin, &socket, within)
}

/// Ends the plugin; it comes back when it is needed.
pub fn stop(roots: &Roots, plugin: &Managed) -> Result<(), Error> {
    let engine = engine(roots);
    match container::stop(&engine, plugin.short_id(), &container::Stop::default()) {
        Err(container::Error::NotFound(_)) => Ok(()),
        done => Ok(done?),
    }
}

/// Removes its container, and with it all that it has written into its root.
pub fn remove(roots: &Roots, plugin: &Managed) -> Result<(), Error> {
    container::remove(&engine(roots), plugin.short_id(), true)?;
    let sockets = sockets(roots, plugin);
    match fs::remove_dir_all(&sockets) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(Error::Io { path: sockets, source }),
        _ => Ok(()),
    }
}

/// The directories that are bound into it.
fn prepare(roots: &Roots, plugin: &Managed) -> Result<(), Error> {
    state::make_directory(&sockets(roots, plugin))?;
    if !plugin.config.propagatedmount.is_empty() {
        state::make_directory(&data(roots, plugin))?;
    }
    Ok(())
}

/// In the host's network with the host's names; any other has none of both, as with docker.
fn files(plugin: &Managed) -> Start {
    if plugin.config.network.kind.is_empty() {
        return Start::default();
    }
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    Start { hosts: read("/etc/hosts"), resolv_conf: read("/etc/resolv.conf"), ..Start::default() }
}

/// Until it takes connections.
fn wait(engine: &Roots, plugin: &Managed, socket: &Path, within: Duration) -> Result<(), Error> {
    let begun = Instant::now();
    let failed = |reason: String| Error::NotStarted {
        name: plugin.name.clone(),
        reason,
        log: engine.durable("containers").join(plugin.short_id()).join("log"),
    };
    let about = |error: nix::Error| Error::Io { path: socket.to_owned(), source: error.into() };
    let news = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(about)?;
    let folder = socket.parent().unwrap_or(Path::new("/"));
    news.add_watch(folder, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO).map_err(about)?;
    loop {
        // Who listens and takes no connections must not keep us for longer, with what is locked.
        let left = within.saturating_sub(begun.elapsed()).max(Duration::from_millis(1));
        if connect_own(socket, Some(left)).is_ok() {
            return Ok(());
        }
        let found = container::get(engine, plugin.short_id())?;
        if !found.is_running() {
            return Err(failed(format!("it has ended with code {}", found.status.exit_code)));
        }
        if begun.elapsed() > within {
            return Err(failed(format!("nobody listens at its socket after {} s", within.as_secs())));
        }
        match poll(&mut [PollFd::new(news.as_fd(), PollFlags::POLLIN)], PollTimeout::from(LOOK_AGAIN_MS)) {
            Err(error) if error != nix::Error::EINTR => return Err(about(error)),
            _ => {}
        }
        match news.read_events() {
            Err(error) if error != nix::Error::EAGAIN => return Err(about(error)),
            _ => {}
        }
    }
}

fn make(roots: &Roots, engine: &Roots, plugin: &Managed) -> Result<container::Container, Error> {
    let store = Store::open(engine);
    let lease = store.lease()?;
    let image = store.get(&plugin.image)?.ok_or_else(|| Error::Incomplete { name: plugin.name.clone() })?;
    store.hold(&lease, &image)?;
    let user = &plugin.config.user;
    let config = Config {
        name: plugin.short_id().to_owned(),
        id: plugin.id.clone(),
        image: plugin.name.clone(),
        image_id: image.id.to_string(),
        layers: image.layers.clone(),
        request: request(roots, plugin)?,
        user: if user.uid == 0 && user.gid == 0 { String::new() } else { format!("{}:{}", user.uid, user.gid) },
        restart: Restart::OnFailure { max_retries: Some(MOST_RESTARTS) },
        stop_grace_ms: 10_000,
        ..Config::default()
    };
    Ok(container::create(engine, &config)?)
}

/// What the plugin asks for, in the runtime's words.
fn request(roots: &Roots, plugin: &Managed) -> Result<Request, Error> {
    let (config, settings) = (&plugin.config, &plugin.settings);
    let variable = |one: &Variable| format!("{}={}", one.name, settings.env_of(one));
    let namespace = |host: bool| if host { Namespace::Host } else { Namespace::New };
    let args = settings.args.as_ref().unwrap_or(&config.args.value);
    let mut given = Vec::new();
    for device in &config.linux.devices {
        let path = PathBuf::from(settings.path_of(device));
        given.push(devices::of(&path, path.clone()).map_err(|source| Error::Io { path, source })?);
    }
    Ok(Request {
        args: config.entrypoint.iter().chain(args).cloned().collect(),
        env: [PATH.to_owned()].into_iter().chain(config.env.iter().map(variable)).collect(),
        cwd: config.workdir.clone(),
        hostname: plugin.short_id().to_owned(),
        cap_add: config.linux.capabilities.clone(),
        mounts: mounts(roots, plugin),
        devices: given,
        device_rules: config.linux.allowalldevices.then(|| "a *:* rwm".to_owned()).into_iter().collect(),
        network: namespace(config.network.kind == "host"),
        pid: namespace(config.pidhost),
        ipc: namespace(config.ipchost),
        limits: Limits::default(),
        ..Request::default()
    })
}

fn mounts(roots: &Roots, plugin: &Managed) -> Vec<spec::Mount> {
    let bind = |target: &str, source: PathBuf, read_only: bool, propagation: Option<String>| spec::Mount {
        target: PathBuf::from(target),
        read_only,
        source: spec::MountSource::Bind { source, propagation, mapped: false },
    };
    let propagated = &plugin.config.propagatedmount;
    let own = (!propagated.is_empty()).then(|| bind(propagated, data(roots, plugin), false, None));
    let asked = plugin.config.mounts.iter().map(|mount| {
        let has = |word: &str| mount.options.iter().any(|option| option == word);
        if mount.kind == "tmpfs" {
            let source = spec::MountSource::Tmpfs { size: None, mode: None, options: mount.options.clone() };
            return spec::Mount { target: PathBuf::from(&mount.destination), read_only: has("ro"), source };
        }
        let words = ["rslave", "slave", "rshared", "shared"];
        let propagation = words.iter().find(|word| has(word)).map(|word| (*word).to_owned());
        bind(&mount.destination, PathBuf::from(plugin.settings.source_of(mount)), has("ro"), propagation)
    });
    let sockets = bind(SOCKETS, sockets(roots, plugin), false, None);
    asked.chain(own).chain([sockets]).collect()
}
