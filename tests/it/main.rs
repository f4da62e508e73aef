//! Black-box tests: the built binary and the library against real kernels, disks and servers.
mod convergence;
mod plans;
mod stacks;
