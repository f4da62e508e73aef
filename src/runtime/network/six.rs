//! IPv6 on the interfaces of a container: off until one of its networks has it (see `sandbox`), and then on where the
//! network does. For a thread in the container's namespace that still sees the host's /proc.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::Placed;

fn setting(interface: &str, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/sys/net/ipv6/conf/{interface}/{name}"))
}

/// Makes the interfaces take addresses, before they have any. Nobody on the link tells a container where to send things
/// but the engine (`accept_ra`); that an address is nobody else's is known (`accept_dad`); neighbours hear of it when the
/// link comes up (`ndisc_notify`): it may have been another container's.
pub fn prepare(places: &[Placed]) -> io::Result<()> {
    if !places.iter().any(Placed::has_ipv6) {
        return places.iter().try_for_each(|place| turn(&place.interface, false));
    }
    set("all", "disable_ipv6", "0")?;
    for place in places {
        for (name, value) in [("accept_ra", "0"), ("accept_dad", "0"), ("ndisc_notify", "1")] {
            set(&place.interface, name, value)?;
        }
        turn(&place.interface, place.has_ipv6())?;
    }
    Ok(())
}

fn turn(interface: &str, on: bool) -> io::Result<()> {
    set(interface, "disable_ipv6", if on { "0" } else { "1" })
}

/// A kernel without IPv6 has no such setting, and needs none: giving an address will say what is missing.
fn set(interface: &str, name: &str, value: &str) -> io::Result<()> {
    let path = setting(interface, name);
    match fs::read_to_string(&path) {
        Ok(present) if present.trim() == value => Ok(()),
        Ok(_) => fs::write(&path, value),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
