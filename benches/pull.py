#!/usr/bin/env python3
"""Measures pulls against installed peers, from one registry on loopback, in one run. As root:

    cargo build --release && benches/pull.py [--rounds N] [--only stack,docker,podman,skopeo]

Needs Debian's `docker-registry`. Two kinds of images are made, always the same: `large`, 100 MB of files in each of 5
layers that compress to about half; `small`, 40,000 files of 0 to 4 KiB in 400 directories, in one layer. Layers are gzip,
level 6, as docker makes them. Peers pull in turn, round by round, each into a store of its own that has nothing of the
image; what the registry sends is in the page cache. Nothing is asserted: a slow machine is no error.

All stores are in one new ext4 in a file, by direct I/O, and nothing small is removed from it before the end: for minutes
ext4 does not use an inode again, and looks for another one at a price that depends on what others removed before.

Medians of:

- wall: from the command's start to its end;
- sync: what sync(2) takes after that, for what was left in memory: only some are sure that the disk has an image;
- CPU: user and system time of the command, of all that it starts, and of docker's daemons; neither the registry's nor
  that of kernel threads, which write;
- memory: the most resident memory of all those processes together, shared pages counted for each, looked at every 10 ms;
  of docker what it has above that of its daemons before the first pull.

`skopeo copy` to a directory fetches and verifies, and unpacks nothing."""

import argparse
import contextlib
import gzip
import hashlib
import http.client
import io
import json
import os
import pathlib
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

sys.dont_write_bytecode = True
import peers
from peers import PATIENCE_SECONDS, STACK, Unable, tell

MIB = 1 << 20
LOOK_SECONDS = 0.01
DISK_BYTES = 40 << 30
TYPE = "application/vnd.docker.distribution.manifest.v2+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
CONFIG = "application/vnd.docker.container.image.v1+json"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="stack,docker,podman,skopeo")
    asked = parser.parse_args()
    with contextlib.ExitStack() as ends:
        folder = pathlib.Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="stkb", ignore_cleanup_errors=True)))
        os.environ["TMPDIR"] = str(folder)
        port = registry(folder, ends)
        make(port, "large", large())
        for number in range(asked.rounds):
            make(port, f"small{number}", small(number))
        folder = disk(folder, ends)
        all_peers = {}
        for name in asked.only.split(","):
            try:
                all_peers[name] = {"stack": stack, "docker": docker, "podman": podman, "skopeo": skopeo}[name](folder, ends)
            except (Unable, FileNotFoundError) as reason:
                print(f"{name} is absent: {reason}")
        measure(lambda number: f"127.0.0.1:{port}/large:1", "large", all_peers, asked.rounds)
        measure(lambda number: f"127.0.0.1:{port}/small{number}:1", "small", all_peers, asked.rounds)


def make(port, name, layers):
    packed, unpacked = push(port, name, layers)
    print(f"{name}: {packed / MIB:.0f} MiB in {len(layers)} layer(s), unpacked {unpacked / MIB:.0f} MiB")


def disk(folder, ends):
    """A file system of its own, whose file takes what is written to it."""
    place = folder / "m"
    place.mkdir()
    with open(folder / "disk", "wb") as file:
        file.truncate(DISK_BYTES)
    tell("mkfs.ext4", "-q", folder / "disk")
    said = subprocess.run(["losetup", "--direct-io=on", "--find", "--show", folder / "disk"], check=True, capture_output=True, text=True)
    device = said.stdout.strip()
    ends.callback(tell, "losetup", "--detach", device)
    tell("mount", "-o", "noinit_itable", device, place)
    ends.callback(tell, "umount", place)
    return place


def measure(reference, image, all_peers, rounds):
    found = {name: [] for name in all_peers}
    for number in range(rounds):
        for name, peer in all_peers.items():
            os.sync()
            found[name].append(peer.pull(reference(number)))
            if image == "large":
                peer.remove(reference(number))
    medians = {name: [statistics.median(column) for column in zip(*rows)] for name, rows in found.items()}
    print(f"\n{image}, medians of {rounds}  {'wall s':>8} {'ratio':>6} {'sync s':>8} {'CPU s':>8} {'memory MiB':>11}")
    base = next(iter(medians.values()))[0]
    for name, (wall, sync, cpu, memory) in medians.items():
        print(f"  {name:23} {wall:8.2f} {wall / base:6.2f} {sync:8.2f} {cpu:8.2f} {memory:11.0f}", flush=True)


class Peer:
    """How one engine pulls and removes, and the daemon that works for it."""

    def __init__(self, pull, remove, daemon=None):
        self.words, self.remove, self.daemon = pull, remove, daemon
        self.idle = resident([daemon.pid]) if daemon else 0

    def pull(self, reference):
        daemons = [self.daemon.pid] if self.daemon else []
        used = ticks(daemons)
        begun = time.perf_counter()
        with tempfile.TemporaryFile() as errors:
            child = subprocess.Popen(self.words(reference), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
            most = Most([child.pid, *daemons])
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            wall = time.perf_counter() - begun
            memory = most.end() - self.idle
            cpu = usage.ru_utime + usage.ru_stime + ticks(daemons) - used
            if child.returncode:
                errors.seek(0)
                raise SystemExit(f"{child.args}: {errors.read().decode(errors='replace')}")
        begun = time.perf_counter()
        os.sync()
        return wall, time.perf_counter() - begun, cpu, memory / MIB


class Most:
    """Looks at the memory of these processes, and of all that they start, until it is to end."""

    def __init__(self, roots):
        self.roots, self.most, self.stop = roots, 0, threading.Event()
        self.thread = threading.Thread(target=self.look)
        self.thread.start()

    def look(self):
        while True:
            self.most = max(self.most, resident(self.roots))
            if self.stop.wait(LOOK_SECONDS):
                return

    def end(self):
        self.stop.set()
        self.thread.join()
        return self.most


def tree(roots):
    waiting, seen = list(roots), []
    while waiting:
        pid = waiting.pop()
        seen.append(pid)
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children") as children:
                    waiting.extend(map(int, children.read().split()))
    return seen


def resident(roots):
    total = 0
    for pid in tree(roots):
        with contextlib.suppress(OSError, IndexError), open(f"/proc/{pid}/statm") as pages:
            total += int(pages.read().split()[1])
    return total * os.sysconf("SC_PAGE_SIZE")


def ticks(roots):
    """Seconds of CPU of these, of all that they started, and of those of them that have ended."""
    total = 0
    for pid in tree(roots):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as stat:
            total += sum(map(int, stat.read().rsplit(")", 1)[1].split()[11:15]))
    return total / os.sysconf("SC_CLK_TCK")


def stack(folder, ends):
    if not STACK.exists():
        raise Unable(f"{STACK} is not built")
    words = ["env", f"STACK_ROOT={folder}/r", f"STACK_RUN_ROOT={folder}/n", STACK]
    return Peer(lambda image: [*words, "pull", image], lambda image: tell(*words, "image", "rm", image))


def docker(folder, ends):
    if not shutil.which("dockerd"):
        raise Unable("no dockerd")
    words, daemon = peers.docker(folder / "d", ends, "--bridge", "none", *peers.WITHOUT_RULES)
    return Peer(lambda image: [*words, "pull", image], lambda image: tell(*words, "rmi", image), daemon)


def podman(folder, ends):
    if not shutil.which("podman"):
        raise Unable("no podman")
    words = peers.podman(folder, ends)
    tell(*words, "images")
    return Peer(lambda image: [*words, "pull", "--tls-verify=false", image], lambda image: tell(*words, "rmi", image))


def skopeo(folder, ends):
    if not shutil.which("skopeo"):
        raise Unable("no skopeo")
    place = lambda image: folder / "k" / image.replace("/", "_")
    (folder / "k").mkdir()
    words = lambda image: ["skopeo", "copy", "--src-tls-verify=false", f"docker://{image}", f"dir:{place(image)}"]
    return Peer(words, lambda image: shutil.rmtree(place(image)))


def registry(folder, ends):
    """Debian's, on a free port of loopback."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = {"version": 0.1, "log": {"level": "error", "accesslog": {"disabled": True}},
              "http": {"addr": f"127.0.0.1:{port}"}, "storage": {"filesystem": {"rootdirectory": str(folder / "registry")}}}
    (folder / "registry.json").write_text(json.dumps(config))
    server = subprocess.Popen(["docker-registry", "serve", folder / "registry.json"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ends.callback(server.wait)
    ends.callback(server.terminate)
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return port
        except ConnectionRefusedError:
            if server.poll() is not None or time.monotonic() > until:
                raise SystemExit("the registry does not start")
            time.sleep(0.05)


def large():
    return [lambda number=number: archive(content(number), 25, 1, 4 * MIB, 4 * MIB) for number in range(5)]


def small(number):
    return [lambda: archive(content(100 + number), 400, 100, 0, 4096)]


def content(seed):
    """Bytes that compress to half: noise, and words in any order."""
    chance = random.Random(seed)
    words = [chance.randbytes(chance.randint(2, 9)).hex()[: chance.randint(2, 9)].encode() for _ in range(4000)]
    text = b" ".join(chance.choices(words, weights=[1 / (rank + 1) for rank in range(len(words))], k=MIB))

    def some(length):
        pieces = []
        while length > 0:
            size = min(length, 4096)
            at = chance.randrange(len(text) - size)
            pieces.append(chance.randbytes(size) if chance.random() < 0.25 else text[at : at + size])
            length -= size
        return b"".join(pieces)

    return chance, some


def archive(how, directories, files, least, most):
    chance, some = how
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for directory in range(directories):
            entry = tarfile.TarInfo(f"usr/lib/part{directory:03}")
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
            for file in range(files):
                entry = tarfile.TarInfo(f"usr/lib/part{directory:03}/file{file:03}")
                entry.size, entry.mtime = chance.randint(least, most), 1_700_000_000
                tar.addfile(entry, io.BytesIO(some(entry.size)))
    return made.getvalue()


def push(port, name, layers):
    """Makes the image and gives it to the registry. Its size, packed and unpacked."""
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def ask(method, path, body=b"", kind="application/octet-stream"):
        connection.request(method, path, body, {"Content-Type": kind})
        answer = connection.getresponse()
        answer.read()
        if answer.status >= 300:
            raise SystemExit(f"the registry answers {method} {path} with {answer.status}")
        return answer

    def blob(kind, data):
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        place = ask("POST", f"/v2/{name}/blobs/uploads/").headers["Location"].split(f":{port}", 1)[-1]
        ask("PUT", f"{place}{'&' if '?' in place else '?'}digest={digest}", data)
        return {"mediaType": kind, "size": len(data), "digest": digest}

    def packed(layer):
        tar = layer()
        return gzip.compress(tar, 6, mtime=0), hashlib.sha256(tar).hexdigest(), len(tar)

    with ThreadPoolExecutor() as together:
        made = list(together.map(packed, layers))
    config = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/none"]},
              "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff_id}" for _, diff_id, _ in made]}}
    document = {"schemaVersion": 2, "mediaType": TYPE, "config": blob(CONFIG, json.dumps(config).encode()),
                "layers": [blob(LAYER, data) for data, _, _ in made]}
    ask("PUT", f"/v2/{name}/manifests/1", json.dumps(document).encode(), TYPE)
    connection.close()
    return sum(len(data) for data, _, _ in made), sum(size for _, _, size in made)


main()
