//! The host: containers, images, networks and volumes as the kernel and the disk know them.
//!
//! Knows OCI, the kernel and disks; knows no stacks. Each call is idempotent. Imports nothing else of the crate.

pub mod apparmor;
pub mod bundle;
pub mod cgroup;
pub mod confine;
pub mod container;
pub mod devices;
pub mod events;
pub mod fnv;
pub mod home;
pub mod image;
pub mod init;
pub mod network;
pub mod objects;
pub mod outside;
pub mod overlay;
pub mod plugin;
pub mod probe;
pub mod rootless;
pub mod roots;
pub mod sealed;
pub mod seccomp;
pub mod shim;
pub mod state;
pub mod sys;
pub mod systemd;
pub mod userns;
mod varint;
pub mod volume;
