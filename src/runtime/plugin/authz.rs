//! Authorization plugins: `/AuthZPlugin.*` of docker's plugin protocol. Each is asked of what a client wants of the
//! engine's API, and of what it is answered; one that says no, or does not answer, has said no.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize, Serializer};

use super::{AUTHORIZATION, Error, Plugin, activate};
use crate::runtime::roots::Roots;

/// Longer bodies are not told, as docker has it: a request with one is denied, since who is asked would decide about
/// something else.
const MOST_BODY: usize = 1 << 20;

/// A request of the API, and later its answer.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Exchange {
    /// Who asks, where a certificate has said it.
    pub user: String,
    /// How that is known: `TLS`.
    #[serde(rename = "UserAuthNMethod")]
    pub user_authn_method: String,
    pub request_method: String,
    /// With its query.
    pub request_uri: String,
    #[serde(serialize_with = "text", skip_serializing_if = "is_untold")]
    pub request_body: Vec<u8>,
    pub request_headers: BTreeMap<String, String>,
    /// PEM of each.
    pub request_peer_certificates: Vec<String>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub response: Option<Response>,
}

/// What is answered.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Response {
    #[serde(rename = "ResponseStatusCode")]
    pub status: u16,
    #[serde(rename = "ResponseBody", serialize_with = "text", skip_serializing_if = "is_untold")]
    pub body: Vec<u8>,
    #[serde(rename = "ResponseHeaders")]
    pub headers: BTreeMap<String, String>,
}

fn text<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

fn is_untold(bytes: &[u8]) -> bool {
    bytes.is_empty() || bytes.len() > MOST_BODY
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Verdict {
    #[serde(default)]
    allow: bool,
    #[serde(default)]
    msg: String,
}

/// Why something is not done.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    #[error("authorization denied by plugin {plugin}: {message}")]
    Said { plugin: String, message: String },
    #[error("authorization denied: {0}")]
    Unanswered(#[from] Error),
    #[error("authorization denied: a body of {0} bytes is more than a plugin is told, which is {MOST_BODY}")]
    Untold(usize),
}

/// The plugins that are asked, in this order.
#[derive(Debug)]
pub struct Chain {
    plugins: Vec<Plugin>,
}

impl Chain {
    /// Of these names.
    ///
    /// # Errors
    /// Where one of them is not there, or no such plugin: an engine that is to be guarded by it must not go on without.
    pub fn open(roots: &Roots, names: &[String]) -> Result<Self, Error> {
        let plugins = names.iter().map(|name| activate(roots, name, AUTHORIZATION)).collect::<Result<_, _>>()?;
        Ok(Self { plugins })
    }

    /// Whether this may be done: all must say so, and the first that does not is the last that is asked.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn request(&self, exchange: &Exchange) -> Result<(), Denied> {
        let length = exchange.request_body.len();
        if length > MOST_BODY && !self.plugins.is_empty() {
            return Err(Denied::Untold(length));
        }
        self.plugins.iter().try_for_each(|plugin| ask(plugin, "AuthZPlugin.AuthZReq", exchange))
    }

    /// Whether this may be answered; asked in the opposite order.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn response(&self, exchange: &Exchange) -> Result<(), Denied> {
        self.plugins.iter().rev().try_for_each(|plugin| ask(plugin, "AuthZPlugin.AuthZRes", exchange))
    }
}

fn ask(plugin: &Plugin, call: &str, exchange: &Exchange) -> Result<(), Denied> {
    let verdict: Verdict = plugin.call(call, exchange)?;
    if verdict.allow {
        return Ok(());
    }
    Err(Denied::Said { plugin: plugin.name.clone(), message: super::harmless(&verdict.msg) })
}
