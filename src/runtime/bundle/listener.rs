//! Who answers system calls that a filter does not decide (`SCMP_ACT_NOTIFY`): a program at a unix socket, which is told
//! whose they are, and given the descriptor on which the kernel asks (seccomp_unotify(2)).

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use oci_spec::runtime::{SECCOMP_FD_NAME, Spec};
use serde_json::json;

use super::VERSION;
use super::state::{State, Status};
use crate::runtime::init::InitError;

/// Sends the container process state of the specification, and with it the descriptor.
///
/// # Errors
/// Where nobody listens.
pub fn tell(spec: &Spec, state: &State, status: Status, pid: i32, listener: &OwnedFd) -> Result<(), InitError> {
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let Some(path) = seccomp.and_then(|seccomp| seccomp.listener_path().as_ref()) else { return Ok(()) };
    let about = format!("failed to connect with seccomp agent at linux.seccomp.listenerPath {}", path.display());
    let mut message = json!({"ociVersion": VERSION, "fds": [SECCOMP_FD_NAME], "pid": pid,
                             "state": state.to_json(status)});
    if let Some(metadata) = seccomp.and_then(|seccomp| seccomp.listener_metadata().as_ref()) {
        message["metadata"] = json!(metadata);
    }
    let send = || {
        let socket = connect(path)?;
        let fds = [listener.as_raw_fd()];
        let text = message.to_string();
        let control = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(text.as_bytes())], &control, MsgFlags::empty(), None)?;
        Ok(())
    };
    send().map_err(|error: io::Error| InitError::Step { step: about, reason: error.to_string() })
}

/// A name that begins with `@` is no file's (unix(7), "abstract").
fn connect(path: &Path) -> io::Result<UnixStream> {
    match path.as_os_str().as_bytes().strip_prefix(b"@") {
        Some(name) => UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?),
        None => UnixStream::connect(path),
    }
}
