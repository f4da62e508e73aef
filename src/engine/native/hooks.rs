//! Commands that a container declares for points of its life, with Compose's meaning: containers of their own that run to
//! their end before a start (`pre_start`), and programs in the running container after it (`post_start`) and before a
//! stop by command (`pre_stop`). A restart by policy, and a death, run none of them.
//!
//! `post_start` of a container that has begun and not come to its end is a file in the container's volatile directory,
//! there before the start: whoever comes after a crash or a failure does it again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::containers::{self, Error};
use super::{files, names, volumes};
use crate::reconcile::resource::{
    ContainerConfig, Endpoint, FileSource, Healthcheck, Hook, Mount, MountSource, NetworkMode, Restart, label,
};
use crate::runtime::container::{self, Paths, Removal, State, aside, exec::Exec, logs};
use crate::runtime::roots::Roots;
use crate::runtime::{state, volume};

const PENDING: &str = "post_start.pending";
/// How many lines of a container that failed are shown.
const SHOWN: usize = 10;

fn pending(roots: &Roots, name: &str) -> PathBuf {
    Paths::of(roots, name).run.join(PENDING)
}

fn failed(kind: &'static str, wanted: &ContainerConfig, hook: &Hook, code: i32, output: String, help: String) -> Error {
    let command = if hook.command.is_empty() { "its image's program".to_owned() } else { hook.command.join(" ") };
    let output = if output.is_empty() { "it wrote nothing".to_owned() } else { output };
    Error::Hook { kind, name: wanted.name.clone(), command, code, output, help }
}

/// Runs the containers that come before the container's start, one after the other.
pub fn before_start(roots: &Roots, wanted: &ContainerConfig) -> Result<(), Error> {
    let own = |hook: &&Hook| hook.per_replica || wanted.number <= 1;
    for (number, hook) in wanted.pre_start.iter().filter(own).enumerate() {
        let mut one = ephemeral(roots, wanted, hook, number + 1);
        one.mounts.extend(of_image(roots, wanted)?);
        // One that is left of a start that was killed.
        remove(roots, &one.name)?;
        let ended = run(roots, &one, hook.timeout_ms);
        let removed = remove(roots, &one.name);
        let (code, output) = ended?;
        removed?;
        if code != 0 {
            let help = "the container was not started; mend the hook, then apply again".to_owned();
            return Err(failed("pre_start", wanted, hook, code, output, help));
        }
    }
    Ok(())
}

/// With the volumes that only it has.
fn remove(roots: &Roots, name: &str) -> Result<(), Error> {
    let volumes = match container::get(roots, name) {
        Ok(found) => volumes::anonymous(roots, &found)?,
        Err(container::Error::NotFound(_)) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    containers::remove(roots, name, true)?;
    let own = format!("{name}.");
    volumes
        .iter()
        .filter(|volume| volume.starts_with(&own))
        .try_for_each(|volume| volumes::remove(roots, volume, volume::Removal::Now))
}

/// Mounts of the container that only its image asks for.
pub fn of_image(roots: &Roots, wanted: &ContainerConfig) -> Result<Vec<Mount>, Error> {
    let found = container::get(roots, &wanted.name)?;
    let targets = found.config.request.mounts.iter().map(|mount| mount.target.to_string_lossy().into_owned());
    let mut mounts = Vec::new();
    for target in targets.filter(|target| wanted.mounts.iter().all(|mount| mount.target != *target)) {
        let name = names::anonymous_volume(&wanted.name, &target);
        if volume::get(roots, &name)?.is_some() {
            let source = MountSource::Volume { volume: Some(name), nocopy: true, subpath: None };
            mounts.push(Mount { target, read_only: false, on_change: Default::default(), source });
        }
    }
    Ok(mounts)
}

fn run(roots: &Roots, one: &ContainerConfig, timeout_ms: Option<u64>) -> Result<(i32, String), Error> {
    let removal = Removal::Maker;
    containers::create_with(roots, one, |config| container::Config { removal, ..config })?;
    containers::start(roots, &one.name)?;
    let mut lines = Vec::new();
    let code = match container::wait_completed(roots, &one.name, timeout_ms.map(Duration::from_millis)) {
        Err(container::Error::Timeout { .. }) => {
            container::stop(roots, &one.name, &container::Stop::at_once())?;
            let seconds = timeout_ms.unwrap_or_default() as f64 / 1000.0;
            lines.push(format!("it took longer than {seconds} s, and was killed"));
            container::wait_completed(roots, &one.name, None)?
        }
        ended => ended?,
    };
    let select = logs::Select { tail: Some(SHOWN), ..logs::Select::default() };
    logs::read(roots, &one.name, &select, &mut |line| {
        lines.push(line.log.trim_end().to_owned());
        true
    })?;
    Ok((code, lines.join("\n")))
}

/// As the container is, with its mounts and in its networks, but for what it is to be known by.
fn ephemeral(roots: &Roots, wanted: &ContainerConfig, hook: &Hook, number: usize) -> ContainerConfig {
    let mut one = wanted.clone();
    one.name = format!("{}.pre_start-{number}", wanted.name);
    let own_image = hook.image.is_some();
    one.image = hook.image.clone().unwrap_or(one.image);
    one.entrypoint = None;
    one.command = (!hook.command.is_empty()).then(|| hook.command.clone());
    one.user = hook.user.clone().or(one.user.filter(|_| !own_image));
    one.working_dir = hook.working_dir.clone().or(one.working_dir);
    one.environment.extend(hook.environment.clone());
    one.privileged |= hook.privileged;
    one.labels = BTreeMap::from([(label::ONEOFF.to_owned(), "True".to_owned())]);
    one.labels.extend(
        [label::STACK, label::SERVICE]
            .iter()
            .filter_map(|key| Some(((*key).to_owned(), wanted.labels.get(*key)?.clone()))),
    );
    one.restart = Restart::No;
    one.healthcheck = Some(Healthcheck { test: vec!["NONE".to_owned()], ..Healthcheck::default() });
    (one.ports, one.expose, one.tty, one.stdin_open) = (Vec::new(), Vec::new(), false, false);
    (one.pre_start, one.post_start, one.pre_stop) = (Vec::new(), Vec::new(), Vec::new());
    if let NetworkMode::Networks(networks) = &mut one.network {
        networks.values_mut().for_each(|endpoint| *endpoint = Endpoint::default());
    }
    for mount in &mut one.mounts {
        if let MountSource::Volume { volume: volume @ None, .. } = &mut mount.source {
            *volume = Some(names::anonymous_volume(&wanted.name, &mount.target));
        }
    }
    for (index, file) in one.files.iter_mut().enumerate() {
        file.source = FileSource::File(files::written(roots, &wanted.name, index));
    }
    one
}

/// Says that the hooks after the start are to be run, before it begins.
pub fn note_start(roots: &Roots, wanted: &ContainerConfig) -> Result<(), Error> {
    if wanted.post_start.is_empty() {
        return Ok(());
    }
    let path = pending(roots, &wanted.name);
    state::make_directory(path.parent().unwrap_or(&path))?;
    Ok(state::write_json_volatile(&path, &true)?)
}

/// Whether hooks after the start have not come to their end.
pub fn are_pending(roots: &Roots, wanted: &ContainerConfig) -> bool {
    !wanted.post_start.is_empty() && pending(roots, &wanted.name).exists()
}

/// Runs the hooks after the start, where they have not come to their end.
pub fn after_start(roots: &Roots, wanted: &ContainerConfig) -> Result<(), Error> {
    if !are_pending(roots, wanted) {
        return Ok(());
    }
    for hook in &wanted.post_start {
        let ended = aside::run(roots, &wanted.name, &inside(hook))?;
        if ended.code != 0 {
            let help = format!("{} runs; mend the hook, and the next apply runs it again", wanted.name);
            return Err(failed("post_start", wanted, hook, ended.code, ended.output, help));
        }
    }
    Ok(state::remove(&pending(roots, &wanted.name))?)
}

/// Runs the hooks before a stop, where there is a program to be stopped.
pub fn before_stop(roots: &Roots, name: &str, wanted: &ContainerConfig) -> Result<(), Error> {
    for hook in &wanted.pre_stop {
        if !container::get(roots, name).is_ok_and(|found| found.status.state == State::Running) {
            return Ok(());
        }
        let ended = aside::run(roots, name, &inside(hook))?;
        let gone = || !container::get(roots, name).is_ok_and(|found| found.is_running());
        if ended.code != 0 && !gone() {
            let help =
                format!("{name} was not stopped; mend what fails, or `stack rm -f {name}` ends it without hooks");
            return Err(failed("pre_stop", wanted, hook, ended.code, ended.output, help));
        }
    }
    Ok(())
}

fn inside(hook: &Hook) -> Exec {
    Exec {
        args: hook.command.clone(),
        env: hook.environment.iter().map(|(key, value)| format!("{key}={value}")).collect(),
        cwd: hook.working_dir.clone(),
        user: hook.user.clone(),
        privileged: hook.privileged,
        timeout_ms: hook.timeout_ms,
    }
}
