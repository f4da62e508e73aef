//! Images that a stack builds: from their declaration to a build, and what such a build reads of the host.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use super::{files, images};
use crate::build::{self, Built, Context, DockerfileSource, Error, Event, NamedContext, Network, Request, Secret};
use crate::reconcile::resource::{BuildConfig, BuildContent, BuildContext, FileSource, ImageConfig};
use crate::runtime::objects::Kind;
use crate::runtime::roots::Roots;

/// Hears of what builds do.
pub type Listener = Arc<dyn Fn(Event<'_>) + Send + Sync>;

/// The build that the declaration asks for; a secret of a saved plan may have lost its content.
fn request(reference: &str, wanted: &BuildConfig) -> Request {
    let dockerfile = match (&wanted.dockerfile_inline, &wanted.dockerfile) {
        (Some(text), _) => DockerfileSource::Text(text.clone()),
        (None, Some(path)) => DockerfileSource::File(path.clone()),
        (None, None) => DockerfileSource::File(build::default_dockerfile(&wanted.context)),
    };
    let context = |context: &BuildContext| match context {
        BuildContext::Directory(path) => NamedContext::Directory(path.clone()),
        BuildContext::Image(reference) => NamedContext::Image(reference.clone()),
    };
    let secret = |source: &FileSource| match source {
        FileSource::File(path) => Secret::File(path.clone()),
        FileSource::Content(text) => Secret::Value(text.clone().into_bytes()),
        // Filled in when it is built.
        FileSource::External(_) | FileSource::Encrypted { .. } => Secret::Value(Vec::new()),
    };
    Request {
        context: Context::Directory(wanted.context.clone()),
        dockerfile,
        target: wanted.target.clone(),
        epoch: wanted.args.get("SOURCE_DATE_EPOCH").and_then(|text| text.parse().ok()),
        arguments: wanted.args.clone(),
        labels: wanted.labels.clone(),
        contexts: wanted.contexts.iter().map(|(name, one)| (name.clone(), context(one))).collect(),
        secrets: wanted.secrets.iter().map(|(id, one)| (id.clone(), secret(one))).collect(),
        network: match wanted.network.as_deref() {
            Some("none") => Network::None,
            Some("host") => Network::Host,
            _ => Network::Default,
        },
        no_cache: wanted.no_cache,
        no_cache_filter: wanted.no_cache_filter.iter().cloned().collect(),
        pull: wanted.pull,
        extra_hosts: wanted.extra_hosts.clone(),
        shm_size: wanted.shm_size,
        ulimits: wanted.ulimits.clone(),
        names: [vec![reference.to_owned()], wanted.tags.clone()].concat(),
        ..Request::default()
    }
}

/// Builds the image and lists it under its names.
pub fn build(
    roots: &Roots,
    image: &ImageConfig,
    wanted: &BuildConfig,
    listener: Option<&Listener>,
) -> Result<Built, Error> {
    let mut request = request(&image.reference, wanted);
    for (id, source) in &wanted.secrets {
        if matches!(source, FileSource::External(_) | FileSource::Encrypted { .. }) {
            let found = files::bytes(roots, source, Kind::Secret);
            let found = found
                .map_err(|error| Error::Input { path: format!("secret {id}").into(), reason: error.to_string() })?;
            request.secrets.insert(id.clone(), Secret::Value(found));
        }
    }
    request.declared = serde_json::to_value(image).unwrap_or_default();
    let provide = images::provide(roots);
    build::build(roots, &request, &provide, &|event| {
        if let Some(listener) = listener {
            listener(event);
        }
    })
}

/// A build that can't be begun.
#[derive(Debug)]
pub struct Wrong {
    /// The image's name.
    pub name: String,
    pub error: Error,
}

/// Looks at what the build reads of the host, so that changed files are a change of the stack.
///
/// # Errors
/// Where the context is not there or the Dockerfile is wrong: the stack can't be applied then.
pub fn look(reference: &str, wanted: &mut BuildConfig) -> Result<(), Error> {
    // What `..` and links lead to is the same place however it is written.
    wanted.context =
        fs::canonicalize(&wanted.context).map_err(|source| Error::Io { path: wanted.context.clone(), source })?;
    let inputs = build::inputs(&request(reference, wanted))?;
    wanted.content = BuildContent { dockerfile: inputs.dockerfile, context: inputs.context };
    Ok(())
}

/// The directories whose files decide what is built.
pub fn directories(wanted: &BuildConfig) -> Vec<PathBuf> {
    let named = wanted.contexts.values().filter_map(|context| match context {
        BuildContext::Directory(path) => Some(path.clone()),
        BuildContext::Image(_) => None,
    });
    named.chain([wanted.context.clone()]).collect()
}
