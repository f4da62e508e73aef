//! The terminal of a container: made in its own devpts, so that it has a name there; the engine's end goes back to the
//! starter through a socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};
use nix::sys::termios::{OutputFlags, SetArg, tcgetattr, tcsetattr};

use crate::runtime::sys;

/// `DEVPTS_SUPER_MAGIC` of statfs(2).
const DEVPTS_MAGIC: i64 = 0x1cd1;

/// Two ends, to hand a descriptor over.
pub fn channel() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Makes a terminal of this size and sends the engine's end away. Returns the container's end.
/// `root` is the container's root directory.
pub fn open(root: BorrowedFd<'_>, rows: u16, columns: u16, channel: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let master = sys::open_in_root(root, Path::new("dev/pts/ptmx"), libc::O_RDWR | libc::O_NOCTTY, 0)?;
    // Nothing that the container put there instead may be taken for one.
    if nix::sys::statfs::fstatfs(&master)?.filesystem_type().0 as i64 != DEVPTS_MAGIC {
        return Err(io::Error::other("/dev/pts/ptmx is not of the kernel's devpts"));
    }
    let unlocked: libc::c_int = 0;
    // SAFETY: the argument points at an int that outlives the call.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) })?;
    // TIOCGPTPEER opens the other end by the first one: no path that a hostile image could have put there is followed.
    // SAFETY: takes open flags by value and returns a new descriptor.
    let slave = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY) };
    check(slave)?;
    // SAFETY: the kernel just returned this descriptor to us.
    let slave = unsafe { OwnedFd::from_raw_fd(slave) };
    resize(&master, rows, columns)?;
    let fds = [master.as_raw_fd()];
    sendmsg::<()>(
        channel.as_raw_fd(),
        &[IoSlice::new(b"t")],
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::empty(),
        None,
    )?;
    Ok(slave)
}

/// Tells the terminal its size; programs in it get SIGWINCH. Nothing is told for 0 rows.
pub fn resize(terminal: &OwnedFd, rows: u16, columns: u16) -> io::Result<()> {
    if rows == 0 {
        return Ok(());
    }
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the argument points at a winsize that outlives the call.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })
}

/// Puts no carriage return before the end of a line.
pub fn end_lines_plainly(terminal: &OwnedFd) -> io::Result<()> {
    let mut modes = tcgetattr(terminal)?;
    modes.output_flags.remove(OutputFlags::ONLCR);
    Ok(tcsetattr(terminal, SetArg::TCSANOW, &modes)?)
}

/// Rows and columns of a terminal.
///
/// # Errors
/// Where it is none.
pub fn size(terminal: BorrowedFd<'_>) -> io::Result<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the argument points at a winsize that outlives the call.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) })?;
    Ok((size.ws_row, size.ws_col))
}

/// Makes it the controlling terminal of this process, which must lead a session.
pub fn control(terminal: &OwnedFd) -> io::Result<()> {
    // SAFETY: takes an integer.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) })
}

/// The engine's end.
pub fn receive(channel: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut byte = [0];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut slices = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(channel.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let fd = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    let fd = fd.ok_or_else(|| io::Error::other("no terminal was sent"))?;
    // SAFETY: the kernel just installed this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
