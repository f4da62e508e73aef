//! Black-box tests: the built binary and the library against real kernels, disks and servers.
mod applying;
mod attributes;
mod conformance;
mod convergence;
mod examples;
mod executing;
mod image;
mod layering;
mod lowering;
mod native;
mod plans;
mod running;
mod stacks;
mod support;
mod tour;
mod users;
mod watching;
