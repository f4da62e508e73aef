//! An image's root directory, for as long as somebody looks at it.

use std::path::{Path, PathBuf};
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::{Error, Image, io_at};
use crate::runtime::roots::Roots;
use crate::runtime::state;

/// Runs `look` with the root directory of the image, read-only. The mount is seen by its thread alone and ends with
/// it, whatever becomes of this process.
pub fn view<T: Send + 'static>(
    roots: &Roots,
    image: &Image,
    look: impl FnOnce(&Path) -> T + Send + 'static,
) -> Result<T, Error> {
    if let [only] = image.layers.as_slice() {
        return Ok(look(only));
    }
    let directory = roots.volatile("view");
    state::make_private(&directory).map_err(io_at(&directory))?;
    let layers = image.layers.clone();
    let failed = |_| io_at("view")(std::io::Error::other("the thread that looked at the image failed"));
    let thread = thread::Builder::new().name("view".into()).spawn(move || look_at(&layers, &directory, look));
    thread.map_err(io_at("thread"))?.join().map_err(failed)?
}

fn look_at<T>(layers: &[PathBuf], directory: &Path, look: impl FnOnce(&Path) -> T) -> Result<T, Error> {
    let none = None::<&str>;
    let mounted = (|| -> nix::Result<()> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        let lower: Vec<String> = layers.iter().rev().map(|layer| layer.display().to_string()).collect();
        let data = format!("lowerdir={}", lower.join(":"));
        mount(Some("overlay"), directory, Some("overlay"), MsFlags::MS_RDONLY, Some(data.as_str()))
    })();
    mounted.map_err(|error| io_at(directory)(error.into()))?;
    Ok(look(directory))
}
