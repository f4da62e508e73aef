//! Networks of the built program, with real packets, on islands.

mod connecting;
mod drift;
mod exposed;
mod host;
mod identity;
pub mod names;
mod options;
mod parents;
mod plugins;
mod ports;
mod serving;
mod six;
mod subnets;
