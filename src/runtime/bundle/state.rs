//! What is written down about a container, and what others are told of it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::VERSION;
use crate::runtime::cgroup::Cgroup;
use crate::runtime::container::ProcessId;

/// `ROOT/ID/state.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Of this file.
    pub version: u32,
    pub id: String,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    /// The first process.
    pub process: ProcessId,
    /// Below each hierarchy of control groups.
    pub cgroup: String,
    /// The unit that it belongs to, where systemd made it.
    #[serde(default)]
    pub scope: Option<String>,
    /// RFC 3339.
    pub created: String,
    pub annotations: BTreeMap<String, String>,
}

impl State {
    /// The control group of the container.
    pub fn group(&self) -> Cgroup {
        Cgroup::named(&self.cgroup)
    }

    /// The first process; 0 of one that has ended.
    pub fn pid(&self, status: Status) -> i32 {
        if status == Status::Stopped { 0 } else { self.process.pid }
    }

    /// In the words of the specification, as hooks and engines read it.
    pub fn to_json(&self, status: Status) -> Value {
        let pid = self.pid(status);
        json!({"ociVersion": VERSION, "id": self.id, "status": status.to_string(), "pid": pid, "bundle": self.bundle,
               "annotations": self.annotations})
    }

    /// The same as what hooks read.
    pub fn text(&self, status: Status) -> Vec<u8> {
        self.to_json(status).to_string().into_bytes()
    }
}

/// How far a container has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}
