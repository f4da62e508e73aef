//! Networks of the built program, with real packets, on islands.

mod host;
mod names;
mod ports;
mod serving;
mod subnets;
