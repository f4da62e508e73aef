//! How an image of the stack is built.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::LowerError;
use super::container::{hosts, ulimits};
use super::lower::image_name;
use crate::reconcile::engine::Capabilities;
use crate::reconcile::resource::{BuildConfig, BuildContent, BuildContext, FileSource};
use crate::spec;

/// Everything but the content of what is read: that is looked at later, by who may.
pub(super) fn lower_build(
    stack: &spec::Stack,
    service: &str,
    build: &spec::Build,
    capabilities: &Capabilities,
) -> Result<BuildConfig, LowerError> {
    let container = service.to_owned();
    let spec::BuildContext::Directory(context) = &build.context else { return Err(LowerError::Build { container }) };
    let mut contexts = BTreeMap::new();
    for (name, place) in &build.additional_contexts {
        let place = if let Some(image) = place.strip_prefix("docker-image://") {
            BuildContext::Image(image.to_owned())
        } else if let Some(other) = place.strip_prefix("service:") {
            let undeclared =
                || LowerError::Undeclared { container: container.clone(), what: "service", name: other.into() };
            BuildContext::Image(image_name(stack.containers.get(other).ok_or_else(undeclared)?, capabilities))
        } else {
            BuildContext::Directory(PathBuf::from(place))
        };
        contexts.insert(name.clone(), place);
    }
    let mut secrets = BTreeMap::new();
    for grant in &build.secrets {
        let (container, name) = (container.clone(), grant.source.clone());
        let source = match stack.secrets.get(&name).map(|object| &object.source) {
            Some(spec::FileSource::File(path)) => FileSource::File(path.clone()),
            Some(spec::FileSource::Environment { value, .. }) => FileSource::Content(value.clone()),
            Some(spec::FileSource::Content(text)) => FileSource::Content(text.clone()),
            Some(spec::FileSource::Encrypted { path, encryption, keys }) => {
                FileSource::Encrypted { path: path.clone(), encryption: *encryption, keys: keys.clone() }
            }
            Some(spec::FileSource::External) => FileSource::External(stack.secrets[&name].name.clone()),
            None => return Err(LowerError::Undeclared { container, what: "secret", name }),
        };
        // Steps know it by the name that it is granted under.
        let id = grant.target.rsplit('/').next().unwrap_or(&grant.source).to_owned();
        secrets.insert(id, source);
    }
    Ok(BuildConfig {
        dockerfile: build.dockerfile.as_ref().map(|file| context.join(file)),
        context: context.clone(),
        dockerfile_inline: build.dockerfile_inline.clone(),
        target: build.target.clone(),
        args: build.args.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?))).collect(),
        labels: build.labels.clone(),
        contexts,
        secrets,
        network: build.network.clone(),
        no_cache: build.no_cache,
        no_cache_filter: build.no_cache_filter.clone(),
        pull: build.pull,
        extra_hosts: hosts(&build.extra_hosts),
        shm_size: build.shm_size_bytes,
        ulimits: ulimits(&build.ulimits),
        tags: build.tags.clone(),
        content: BuildContent::default(),
    })
}
