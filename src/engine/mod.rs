//! Who can hold a stack: this host, and a world in memory that the tests of planning run against.

pub mod native;
pub mod simulated;
