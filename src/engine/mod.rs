//! Who can hold a stack.

pub mod native;
