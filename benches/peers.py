"""Other engines to measure against, each with everything of it below one directory, all of it gone at the end."""

import contextlib
import os
import pathlib
import resource
import shutil
import subprocess
import time

HOME = pathlib.Path(__file__).resolve().parent.parent
STACK = HOME / "target/release/stack"
PATIENCE_SECONDS = 30
# For a daemon in the network of the host.
WITHOUT_RULES = ("--iptables=false", "--ip6tables=false", "--ip-forward=false")


class Unable(Exception):
    """A peer that can't be measured here, and its own words why."""


def call(*words, **more):
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)


def tell(*words, **more):
    done = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **more)
    if done.returncode:
        raise Unable((done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}").splitlines()[-1])


def until(holds, otherwise):
    """Waits until this holds; what keeps it from that for good it raises itself."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        if time.monotonic() > end:
            raise Unable(otherwise)
        time.sleep(0.02)


def network(ends):
    """A network namespace that ends with the last that is in it: the words by which a program enters, and a process there."""
    holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, start_new_session=True)
    ends.callback(holder.wait)
    ends.callback(holder.stdin.close)
    here = os.readlink("/proc/self/ns/net")
    until(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != here, "there can be no other network namespace")
    return ["nsenter", f"--net=/proc/{holder.pid}/ns/net"], holder.pid


def docker(place, ends, *network, within=()):
    """A daemon of our own: the words that ask it, and its process."""
    place.mkdir()
    words = ["docker", "-H", f"unix://{place}/s"]
    daemon = subprocess.Popen(
        [*within, "dockerd", "-H", f"unix://{place}/s", "--data-root", place / "data", "--exec-root", place / "exec",
         "--pidfile", place / "pid", *network],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    ends.callback(daemon.wait)
    ends.callback(daemon.terminate)

    def answers():
        if daemon.poll() is not None:
            raise Unable("its daemon does not start here")
        return not subprocess.run([*words, "info"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode

    until(answers, "its daemon does not answer")
    return words, daemon


def podman(folder, ends, within=()):
    words = [*within, "podman", "--root", folder / "p", "--runroot", folder / "q", "--cgroup-manager", "cgroupfs",
             "--events-backend", "file"]
    # It leaves its store mounted on itself, and the groups above those of its containers.
    ends.callback(subprocess.run, ["umount", "-l", folder / "p/overlay"], stderr=subprocess.DEVNULL)
    ends.callback(remove_groups, "libpod_parent")
    return words


def podman_limits():
    """For its `run`: limits of its own making are refused where root may not raise what it has."""
    most = (("nofile", resource.getrlimit(resource.RLIMIT_NOFILE)[1]), ("nproc", 32768))
    return [word for name, low in most for word in ("--ulimit", f"{name}={low}:{low}")]


def podman_runtime():
    """crun refuses hosts with both versions of control groups, where runc does not."""
    return ["--runtime", "runc"] if shutil.which("runc") else []


def take(words, root):
    """The engine has an image `bench` of these files."""
    tar = subprocess.run(["tar", "-C", root, "-c", "."], check=True, capture_output=True).stdout
    tell(*words, "import", "-", "bench", input=tar)


def remove_groups(name):
    for top in pathlib.Path("/sys/fs/cgroup").glob(f"**/{name}"):
        for group, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(group)
