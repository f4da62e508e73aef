//! What a container has become, as an image: its changes are one layer on top of its image's, and the words that it was
//! made with become the image's own.

use std::fs::File;
use std::io::{self, BufWriter};
use std::os::fd::{AsFd, BorrowedFd};

use serde_json::{Map, Value, json};

use super::{containers::Error, declared, images};
use crate::build::{self, DockerfileSource, Request};
use crate::reconcile::resource::ContainerConfig;
use crate::runtime::container::{self, Container, Paths, State};
use crate::runtime::image::{self, Digest, Image, ImageReference, Layer, Lease, Pack, Store, pack, stubs};
use crate::runtime::overlay;
use crate::runtime::roots::Roots;

/// How a container becomes an image.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// Without a name it is listed under its id.
    pub name: Option<String>,
    pub author: Option<String>,
    pub message: Option<String>,
    /// Lines as of a Dockerfile, that change how it is run.
    pub changes: Vec<String>,
    /// Suspend it meanwhile, where it runs.
    pub pause: bool,
    /// Now.
    pub created: jiff::Timestamp,
}

/// Why a container did not become an image.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    #[error(transparent)]
    Container(#[from] Error),
    #[error(transparent)]
    Build(#[from] build::Error),
    #[error(
        "{0:?} can't change an image\n  help: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME and WORKDIR can"
    )]
    Change(String),
}

const CHANGES: [&str; 11] = [
    "CMD",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "LABEL",
    "ONBUILD",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Makes an image of the container.
///
/// # Errors
/// Where its image or its changes can't be read, or a change is none.
pub fn commit(roots: &Roots, found: &Container, wanted: &Commit) -> Result<Image, CommitError> {
    let is_change = |line: &&String| {
        let word = line.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
        CHANGES.contains(&word.as_str()) && !line.contains('\n')
    };
    if let Some(bad) = wanted.changes.iter().find(|line| !is_change(line)) {
        return Err(CommitError::Change(bad.clone()));
    }
    let store = Store::open(roots);
    let lease = store.lease().map_err(Error::from)?;
    let name = wanted.name.as_deref().map(ImageReference::parse).transpose();
    let name = name.map_err(|error| Error::from(image::Error::from(error)))?.map(|name| name.to_string());
    let own = name.as_deref().filter(|_| wanted.changes.is_empty());
    let image = plain(roots, (&store, &lease), found, wanted, own)?;
    if wanted.changes.is_empty() {
        return Ok(image);
    }
    let text = format!("FROM {}\n{}\n", image.id, wanted.changes.join("\n"));
    let names = name.into_iter().collect();
    let request = Request { dockerfile: DockerfileSource::Text(text), names, ..Request::default() };
    let built = build::build(roots, &request, &images::provide(roots), &|_| ())?;
    store.remove(image.manifest.as_str()).map_err(Error::from)?;
    Ok(built.image)
}

/// Without further changes.
fn plain(
    roots: &Roots,
    (store, lease): (&Store, &Lease),
    found: &Container,
    wanted: &Commit,
    name: Option<&str>,
) -> Result<Image, Error> {
    let gone = || image::Error::NotFound(found.config.image_id.clone());
    let base = images::held(store, lease, || store.get(&found.config.image_id)?.ok_or_else(gone))?;
    let mut layers = store.layers_of(lease, &base)?;
    let runs = found.status.state == State::Running;
    let paused = wanted.pause && runs && container::can_pause(roots, found);
    if paused {
        container::pause(roots, &found.config.name)?;
    }
    let layer = changes(roots, store, lease, found);
    if paused {
        container::unpause(roots, &found.config.name)?;
    }
    layers.push(layer?);
    let diff_ids: Vec<&Digest> = layers.iter().map(|layer| &layer.diff_id).collect();
    let config = configuration(&base, found, wanted, &diff_ids)?;
    Ok(store.add_image(lease, name, &config, layers)?)
}

/// What the container has changed, as a layer.
fn changes(roots: &Roots, store: &Store, lease: &Lease, found: &Container) -> Result<Layer, Error> {
    let upper = Paths::of(roots, &found.config.name).upper;
    let failed = |source| Error::Path { what: "the changes in", path: upper.clone(), source };
    let directory = File::open(&upper).map_err(failed)?;
    let below = overlay::open(&found.config.layers, None).map_err(failed)?;
    let targets = found.config.request.mounts.iter().map(|mount| mount.target.as_path());
    let options = Pack { stubs: stubs(targets, Some(below.as_fd())), ..Pack::default() };
    let (reader, sink) = io::pipe().map_err(failed)?;
    std::thread::scope(|scope| {
        let write = |directory: BorrowedFd<'_>| pack(directory, Some(below.as_fd()), &options, BufWriter::new(sink));
        let packing = scope.spawn(|| write(directory.as_fd()));
        let layer = store.add_layer(lease, reader);
        let packed = packing.join().unwrap_or_else(|_| Err(io::Error::other("packing failed")));
        // A reader that gave up makes the writer fail too; its own reason is the better one.
        let layer = layer?;
        packed.map_err(failed)?;
        Ok(layer)
    })
}

/// What its image said, what the container was made with, and when it became an image.
fn configuration(base: &Image, found: &Container, wanted: &Commit, diff_ids: &[&Digest]) -> Result<Vec<u8>, Error> {
    let mut value: Map<String, Value> = serde_json::from_str(&base.text)?;
    let mut own = value.get("config").and_then(Value::as_object).cloned().unwrap_or_default();
    if let Some(container) = declared(found) {
        add_words(&mut own, &container);
    }
    value.insert("config".into(), Value::Object(own));
    let created = wanted.created.to_string();
    let mut step = json!({"created": created, "created_by": found.config.request.args.join(" ")});
    if let Some(message) = &wanted.message {
        step["comment"] = json!(message);
    }
    let mut history = value.get("history").and_then(Value::as_array).cloned().unwrap_or_default();
    history.push(step);
    value.extend([
        ("created".to_owned(), json!(created)),
        ("history".to_owned(), Value::Array(history)),
        ("rootfs".to_owned(), json!({"type": "layers", "diff_ids": diff_ids})),
    ]);
    value.extend(wanted.author.as_ref().map(|author| ("author".to_owned(), json!(author))));
    // Of a container that docker's own builder made the image with.
    for key in ["container", "container_config", "docker_version", "id", "parent", "throwaway"] {
        value.remove(key);
    }
    Ok(serde_json::to_vec(&value)?)
}

fn add_words(own: &mut Map<String, Value>, container: &ContainerConfig) {
    if let Some(words) = &container.entrypoint {
        // The image's command belonged to its own entrypoint.
        own.insert("Entrypoint".into(), json!(words));
        own.remove("Cmd");
    }
    let texts =
        [("User", &container.user), ("WorkingDir", &container.working_dir), ("StopSignal", &container.stop_signal)];
    own.extend(texts.into_iter().filter_map(|(key, text)| Some((key.to_owned(), json!(text.as_ref()?)))));
    own.extend(container.command.as_ref().map(|words| ("Cmd".to_owned(), json!(words))));
    let entries = own.get("Env").and_then(Value::as_array).cloned().unwrap_or_default();
    let name = |entry: &Value| entry.as_str().and_then(|text| text.split('=').next()).map(str::to_owned);
    let stays = |entry: &Value| name(entry).is_none_or(|name| !container.environment.contains_key(&name));
    let more = container.environment.iter().map(|(key, value)| json!(format!("{key}={value}")));
    let all: Vec<Value> = entries.into_iter().filter(stays).chain(more).collect();
    if !all.is_empty() {
        own.insert("Env".into(), Value::Array(all));
    }
    // Those of a stack are about its containers, and would be believed of others.
    let labels = container.labels.iter().filter(|(key, _)| !key.starts_with("com.docker.compose."));
    let mut known = own.get("Labels").and_then(Value::as_object).cloned().unwrap_or_default();
    known.extend(labels.map(|(key, value)| (key.clone(), json!(value))));
    if !known.is_empty() {
        own.insert("Labels".into(), Value::Object(known));
    }
}
