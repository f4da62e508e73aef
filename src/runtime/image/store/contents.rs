//! What an unpacked layer holds that bears on how containers of it are protected: `layers/HEX/contents.json`, format 1.
//!
//! Written when the layer is unpacked; of one that an older build unpacked, when it is first asked for. A layer above can
//! only hide what one below has, so all layers of an image together say no less than the image.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Image, Store};
use crate::runtime::image::tarball::{Entry, Kind};
use crate::runtime::image::{Error, io_at};
use crate::runtime::state;
use crate::runtime::volume::attributes;

const VERSION: u32 = 1;
/// The attribute that gives a program rights of its own (capabilities(7), "File capabilities").
const CAPABILITIES: &str = "security.capability";
/// Set-user-id and set-group-id of a mode.
const SET_ID: u32 = libc::S_ISUID | libc::S_ISGID;

/// Of one layer, or of all of an image together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// A program of it raises the rights of who executes it: it is set-user-id or set-group-id, or has capabilities.
    pub raises: bool,
    /// The largest id of a user or group that something of it belongs to.
    pub largest_id: u32,
}

#[derive(Serialize, Deserialize)]
struct Text {
    version: u32,
    #[serde(flatten)]
    contents: Contents,
}

impl Contents {
    pub(in crate::runtime::image) fn add(&mut self, entry: &Entry) {
        let is_file = entry.kind == Kind::File;
        let raises = entry.mode & SET_ID != 0 || entry.attributes.iter().any(|(key, _)| key == CAPABILITIES);
        self.merge(Self { raises: is_file && raises, largest_id: entry.uid.max(entry.gid) });
    }

    fn merge(&mut self, other: Self) {
        self.raises |= other.raises;
        self.largest_id = self.largest_id.max(other.largest_id);
    }

    pub(super) fn write(self, folder: &Path) -> Result<(), Error> {
        let text = Text { version: VERSION, contents: self };
        Ok(state::write_json_volatile(&folder.join("contents.json"), &text)?)
    }

    /// `None` where nobody has written it down, or another format.
    fn read(folder: &Path) -> Result<Option<Self>, Error> {
        let text: Option<Text> = state::read_json(&folder.join("contents.json"))?;
        Ok(text.filter(|text| text.version == VERSION).map(|text| text.contents))
    }
}

impl Store {
    /// What is known of the image's layers.
    ///
    /// # Errors
    /// Where a layer is not there, or its tree can't be read.
    pub fn contents(&self, image: &Image) -> Result<Contents, Error> {
        self.contents_of(&image.layers)
    }

    /// As [`Self::contents`], of these layers of the store.
    ///
    /// # Errors
    /// As there.
    pub fn contents_of(&self, layers: &[PathBuf]) -> Result<Contents, Error> {
        let mut all = Contents::default();
        for layer in layers {
            let folder = layer.parent().unwrap_or(layer);
            let known = match Contents::read(folder)? {
                Some(known) => known,
                None => {
                    let found = look(layer).map_err(io_at(layer))?;
                    found.write(folder)?;
                    found
                }
            };
            all.merge(known);
        }
        Ok(all)
    }
}

/// Walks the tree. It is the engine's alone, and no link of it is followed.
fn look(tree: &Path) -> io::Result<Contents> {
    let (mut found, mut waiting) = (Contents::default(), vec![tree.to_owned()]);
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let data = fs::symlink_metadata(&path)?;
            found.merge(of_file(&path, &data)?);
            if data.is_dir() {
                waiting.push(path);
            }
        }
    }
    Ok(found)
}

fn of_file(path: &Path, data: &Metadata) -> io::Result<Contents> {
    let raises = data.is_file() && (data.mode() & SET_ID != 0 || has_capabilities(path)?);
    Ok(Contents { raises, largest_id: data.uid().max(data.gid()) })
}

fn has_capabilities(path: &Path) -> io::Result<bool> {
    let names = attributes::list(File::open(path)?.as_fd())?;
    Ok(names.iter().any(|name| name.to_bytes() == CAPABILITIES.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_as_it_was() {
        let golden = r#"{"version":1,"raises":true,"largest_id":65534}"#;
        let text: Text = serde_json::from_str(golden).unwrap();
        assert_eq!(text.contents, Contents { raises: true, largest_id: 65534 });
        assert_eq!(serde_json::to_string(&text).unwrap(), golden);
    }

    #[test]
    fn a_tree_tells_what_its_archive_told() {
        use std::os::unix::fs::PermissionsExt;
        let tree = std::env::temp_dir().join(format!("stack-contents-{}", std::process::id()));
        fs::create_dir_all(tree.join("d")).unwrap();
        fs::set_permissions(tree.join("d"), fs::Permissions::from_mode(0o2755)).unwrap();
        fs::write(tree.join("d/file"), "").unwrap();
        std::os::unix::fs::symlink("/etc/shadow", tree.join("link")).unwrap();
        // A directory whose files get its group raises nobody.
        assert!(!look(&tree).unwrap().raises);
        for (mode, raises) in [(0o4755, true), (0o755, false), (0o2755, true)] {
            fs::set_permissions(tree.join("d/file"), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(look(&tree).unwrap().raises, raises, "{mode:o}");
        }
        fs::remove_dir_all(tree).unwrap();
    }
}
