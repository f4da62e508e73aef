"""Other engines to measure against, each with everything of it below one directory, all of it gone at the end."""

import contextlib
import os
import pathlib
import subprocess
import time

HOME = pathlib.Path(__file__).resolve().parent.parent
STACK = HOME / "target/release/stack"
PATIENCE_SECONDS = 30


class Unable(Exception):
    """A peer that can't be measured here, and its own words why."""


def call(*words, **more):
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)


def tell(*words, **more):
    done = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **more)
    if done.returncode:
        raise Unable((done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}").splitlines()[-1])


def docker(place, ends, *network):
    """A daemon of our own: the words that ask it, and its process."""
    place.mkdir()
    words = ["docker", "-H", f"unix://{place}/s"]
    daemon = subprocess.Popen(
        ["dockerd", "-H", f"unix://{place}/s", "--data-root", place / "data", "--exec-root", place / "exec",
         "--pidfile", place / "pid", *network, "--iptables=false", "--ip6tables=false", "--ip-forward=false"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ends.callback(daemon.wait)
    ends.callback(daemon.terminate)
    until = time.monotonic() + PATIENCE_SECONDS
    while subprocess.run([*words, "info"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
        if daemon.poll() is not None or time.monotonic() > until:
            raise Unable("its daemon does not start here")
        time.sleep(0.1)
    return words, daemon


def podman(folder, ends):
    words = ["podman", "--root", folder / "p", "--runroot", folder / "q", "--cgroup-manager", "cgroupfs",
             "--events-backend", "file"]
    # It leaves its store mounted on itself, and the groups above those of its containers.
    ends.callback(subprocess.run, ["umount", "-l", folder / "p/overlay"], stderr=subprocess.DEVNULL)
    ends.callback(remove_groups, "libpod_parent")
    return words


def remove_groups(name):
    for top in pathlib.Path("/sys/fs/cgroup").glob(f"**/{name}"):
        for group, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(group)
