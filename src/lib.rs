//! `stack`: a container engine that is driven by files.

pub mod cli;
pub mod engine;
pub mod reconcile;
pub mod runtime;
pub mod spec;
