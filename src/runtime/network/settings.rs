//! What this host says about networks: `/etc/stack/networks.toml`.

use std::fs;
use std::io;
use std::path::Path;

use serde::Deserialize;

use super::address::{Family, Subnet};
use super::{Error, io_at};
use crate::runtime::roots::Roots;

/// Where subnets come from when none is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubnetPool {
    pub base: Subnet,
    /// The length of the prefix of the networks that are made of it.
    pub size: u8,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    pools: Vec<SubnetPool>,
}

/// The pools of this family that the host's owner names, in order; `None` where there are none.
///
/// # Errors
/// [`Error::Settings`] where the file is there and can't be understood.
pub fn pools(roots: &Roots, family: Family) -> Result<Option<Vec<SubnetPool>>, Error> {
    let path = roots.etc.join("stack/networks.toml");
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(io_at(&path))?,
    };
    let pools: Vec<SubnetPool> = parse(&path, &text)?.into_iter().filter(|pool| pool.base.family() == family).collect();
    Ok(Some(pools).filter(|pools| !pools.is_empty()))
}

fn parse(path: &Path, text: &str) -> Result<Vec<SubnetPool>, Error> {
    let wrong = |reason: String| Error::Settings { path: path.to_owned(), reason };
    let file: File = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
    let fits = |pool: &SubnetPool| (pool.base.prefix()..=pool.base.family().bits() - 2).contains(&pool.size);
    match file.pools.iter().find(|pool| !fits(pool)) {
        Some(pool) => Err(wrong(format!("pools: no network of size {} fits into {}", pool.size, pool.base))),
        None => Ok(file.pools),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_read_and_what_is_wrong_is_named() {
        let parse = |text: &str| parse(Path::new("/etc/stack/networks.toml"), text);
        let good = "pools = [{base = \"10.64.0.0/12\", size = 26}, {base = \"fd00:1::/48\", size = 64}]";
        let pools = parse(good).unwrap();
        assert_eq!((pools[0].size, pools[1].base.to_string().as_str()), (26, "fd00:1::/48"));
        for text in [
            "pool = []",
            "pools = [{base = \"10.0.0.0/8\"}]",
            "pools = [{base = \"10.0.0.0/24\", size = 16}]",
            "pools = [{base = \"x\", size = 16}]",
        ] {
            assert!(parse(text).unwrap_err().to_string().contains("networks.toml"), "{text}");
        }
    }
}
