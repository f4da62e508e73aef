//! Dockerfile → build graph → image, run by this engine's own runtime. Knows the host's runtime; knows no stacks.

pub mod dockerfile;
pub mod ignore;
pub mod mode;
pub mod pattern;
pub mod units;
