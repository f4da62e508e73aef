//! Looking up names of registries. That it was the name which is not known, the system's resolver says in words alone;
//! here it is a kind of error.

use std::io;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// The name was not found, or nobody answered who knows names.
#[derive(Debug, thiserror::Error)]
#[error("its name can't be looked up: {0}")]
pub struct LookupFailed(io::Error);

/// The system's resolver.
#[derive(Debug, Default)]
pub struct Lookup(DefaultResolver);

impl Resolver for Lookup {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        self.0.resolve(uri, config, timeout).map_err(|error| match error {
            ureq::Error::Io(error) => ureq::Error::Other(Box::new(LookupFailed(error))),
            other => other,
        })
    }
}

/// Whether a request failed of that.
pub fn is_of_name(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::HostNotFound | ureq::Error::Timeout(ureq::Timeout::Resolve) => true,
        ureq::Error::Other(inner) => inner.downcast_ref::<LookupFailed>().is_some(),
        _ => false,
    }
}
