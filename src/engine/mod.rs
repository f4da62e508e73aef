//! Who can hold a stack: this host, or a world in memory.
pub mod simulated;
