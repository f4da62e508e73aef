//! What differs, what to do about it, and doing it.
//!
//! `desired`, `diff`, `plan` and `check` are pure: values in, values out. `facts` reads the files whose content counts;
//! `execute` and `controller` act, through the one seam in [`engine`]. The same code serves every engine.

pub mod check;
pub mod controller;
pub mod desired;
pub mod diff;
pub mod engine;
pub mod execute;
pub mod facts;
pub mod history;
pub mod plan;
pub mod resource;
