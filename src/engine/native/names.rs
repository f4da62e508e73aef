//! Names that follow from other names, so that making a thing again finds it.

use crate::runtime::fnv;

/// The volume of a mount that names none: the same for every container of this name, so that data outlives a
/// container that is replaced.
pub fn anonymous_volume(container: &str, target: &str) -> String {
    let slug: String = target.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let hash = fnv::hash(target.bytes());
    format!("{container}.{}.{:06x}", slug.trim_matches('-'), hash & 0xff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_that_look_alike_get_volumes_of_their_own() {
        assert_ne!(anonymous_volume("a", "/x/y"), anonymous_volume("a", "/x-y"));
        assert!(anonymous_volume("a", "/var/lib/data").starts_with("a.var-lib-data."));
    }
}
