//! A question that is asked over a container's network to find out its health; nothing of its image takes part.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    Http {
        place: Place,
        /// From `/` on.
        path: String,
        /// Whatever certificate there is.
        tls: bool,
        headers: Vec<(String, String)>,
        /// Inclusive ranges of good status codes.
        status: Vec<(u16, u16)>,
    },
    /// A connection is accepted.
    Tcp { place: Place },
    /// `grpc.health.v1.Health/Check` without TLS; an empty service is the server.
    Grpc { place: Place, service: String },
}

/// Where, as the container sees itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Unset: loopback, 127.0.0.1 and then ::1.
    pub host: Option<IpAddr>,
    pub port: u16,
}
