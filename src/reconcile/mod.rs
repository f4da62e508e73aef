//! What differs, what to do about it, and doing it.
//!
//! `desired`, `diff`, `plan` and `check` are pure: values in, values out. `execute` and `controller` act, through the
//! one seam in [`engine`]. The same code serves every engine.

pub mod engine;
pub mod resource;
