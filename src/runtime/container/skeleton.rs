//! The layer below all layers of an image: places for what every container has mounted. Without it, each start would
//! make those that an image lacks in the container's own layer, on the disk, and each removal would take them away.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::{Error, io_at};

const DIRECTORIES: [&str; 5] = ["", "dev", "etc", "proc", "sys"];
/// The last one is there only when all the others are.
const FILES: [&str; 3] = ["etc/hostname", "etc/hosts", "etc/resolv.conf"];

/// Makes what is missing of it. It is never changed again: many containers use it.
pub fn ensure(directory: &Path) -> Result<(), Error> {
    if FILES.last().is_some_and(|last| directory.join(last).exists()) {
        return Ok(());
    }
    for name in DIRECTORIES {
        let path = directory.join(name);
        fs::create_dir_all(&path).map_err(io_at(&path))?;
        fs::set_permissions(&path, Permissions::from_mode(0o755)).map_err(io_at(&path))?;
    }
    for name in FILES {
        let path = directory.join(name);
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(&path).map_err(io_at(&path))?;
    }
    Ok(())
}
