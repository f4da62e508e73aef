//! init

pub mod spec;
