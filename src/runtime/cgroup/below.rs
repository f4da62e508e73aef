//! Groups that a container's processes have made below its own, for a further process that is to be in one of them.

use std::path::{Component, Path};

use super::{Cgroup, Hierarchy, V1_CONTROLLERS};

impl Cgroup {
    /// The group with those below it in its place that are named: `PATH`, for all hierarchies, or, of version 1,
    /// `CONTROLLER,CONTROLLER:PATH`, for each of which there is one.
    ///
    /// # Errors
    /// A path that leads out of the group, or a controller that is not known or named twice.
    pub fn below_named(mut self, named: &[String]) -> Result<Self, String> {
        let mut changed = Vec::new();
        for words in named {
            let (controllers, path) =
                words.split_once(':').map_or((None, words.as_str()), |(all, path)| (Some(all), path));
            let path = Path::new(path.trim_start_matches('/'));
            if !path.components().all(|part| matches!(part, Component::Normal(_))) {
                return Err(format!("bad sub cgroup path: {} is not a sub cgroup path", path.display()));
            }
            let Some(controllers) = controllers else {
                if named.len() > 1 {
                    return Err(format!("{words:?}: several groups need a controller each, as in cpu:{words}"));
                }
                self.hierarchies.iter_mut().for_each(|one| one.directory.push(path));
                return Ok(self);
            };
            for controller in controllers.split(',') {
                if changed.contains(&controller) {
                    return Err(format!("controller {controller:?} is named twice"));
                }
                let known = self.hierarchies.iter_mut().find(|one| one.controller == Some(controller));
                let Some(Hierarchy { directory, .. }) = known else {
                    return Err(format!("unknown controller {controller:?}; there are: {}", V1_CONTROLLERS.join(" ")));
                };
                directory.push(path);
                changed.push(controller);
            }
        }
        Ok(self)
    }
}
