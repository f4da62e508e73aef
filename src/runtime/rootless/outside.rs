//! Sockets of the host's network, for processes that are in that of the user's networks: the holder makes them and
//! passes them on (unix(7), `SCM_RIGHTS`). Whose network a socket belongs to is decided when it is made.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socket,
};

use super::holder;
use crate::runtime::roots::Roots;
use crate::runtime::sys;

const PATIENCE: Duration = Duration::from_secs(5);

/// A kind of socket, and the byte that asks for it.
const KINDS: [(u8, AddressFamily, SockType); 4] = [
    (b't', AddressFamily::Inet, SockType::Stream),
    (b'T', AddressFamily::Inet6, SockType::Stream),
    (b'u', AddressFamily::Inet, SockType::Datagram),
    (b'U', AddressFamily::Inet6, SockType::Datagram),
];

/// Made here.
pub fn make(family: AddressFamily, kind: SockType) -> io::Result<OwnedFd> {
    Ok(socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?)
}

/// Made in the host's network: by the holder where there is one, else here. It does not block.
///
/// # Errors
/// What the kernel says, or that the holder is gone.
pub fn ask(roots: &Roots, family: AddressFamily, kind: SockType) -> io::Result<OwnedFd> {
    if super::network_of(roots).is_none() {
        return make(family, kind);
    }
    let wanted = KINDS.iter().find(|(_, one, other)| (*one, *other) == (family, kind));
    let word = wanted.ok_or(io::ErrorKind::InvalidInput)?.0;
    let gone = |error: io::Error| io::Error::new(error.kind(), format!("the holder of your user namespace: {error}"));
    let mut stream = UnixStream::connect(holder::socket(roots)).map_err(gone)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut welcome = [0];
    stream.read_exact(&mut welcome).map_err(gone)?;
    stream.write_all(&[word]).map_err(gone)?;
    receive(&stream)
}

/// Answers one question of [`ask`]; an unknown word is an error.
pub fn answer(stream: &UnixStream, word: u8) -> io::Result<()> {
    let kind = KINDS.iter().find(|(one, ..)| *one == word).ok_or(io::ErrorKind::InvalidInput)?;
    let made = make(kind.1, kind.2);
    let error = made.as_ref().err().and_then(io::Error::raw_os_error).unwrap_or(0).to_ne_bytes();
    let descriptors: Vec<RawFd> = made.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let rights = if descriptors.is_empty() { &[][..] } else { &rights[..] };
    sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&error)], rights, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

fn receive(stream: &UnixStream) -> io::Result<OwnedFd> {
    let mut error = [0; 4];
    let mut space = nix::cmsg_space!(RawFd);
    let mut pieces = [IoSliceMut::new(&mut error)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut pieces, Some(&mut space), flags)?;
    let passed = message.cmsgs()?.find_map(|one| match one {
        ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
        _ => None,
    });
    match passed {
        Some(descriptor) => sys::adopt(descriptor),
        None => Err(io::Error::from_raw_os_error(i32::from_ne_bytes(error))),
    }
}
