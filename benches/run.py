#!/usr/bin/env python3
"""Measures `stack` against the kernel's floor and installed peers, in one run, as ratios. As root:

    cargo build --release && benches/run.py [--rounds N]

Prints medians. Nothing is asserted: a slow machine is no error. The volatile root is a tmpfs, as /run is; all else is in
a directory below the one for temporary files. Peers are measured where they are installed, with images made of the same
files, without any network."""

import argparse
import contextlib
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
import peers
from peers import HOME, PATIENCE_SECONDS, STACK, Unable, call, tell


def median(rounds, action):
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        action()
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1000


def cpu(rounds, action):
    used = lambda: (lambda it: it.ru_utime + it.ru_stime)(resource.getrusage(resource.RUSAGE_CHILDREN))
    before = used()
    for _ in range(rounds):
        action()
    return (used() - before) / rounds * 1000


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    with contextlib.ExitStack() as ends:
        folder = pathlib.Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="stkb")))
        (folder / "n").mkdir()
        call("mount", "-t", "tmpfs", "tmpfs", folder / "n")
        ends.callback(call, "umount", folder / "n")
        env = dict(os.environ, STACK_ROOT=str(folder / "r"), STACK_RUN_ROOT=str(folder / "n"))
        stack = lambda *words: call(STACK, *words, env=env)
        ends.callback(stack, "system", "prune", "--force")
        stack("run", "--rm", "--network", "none", "builtin:whoami", "true")
        run(folder, env, stack, rounds, ends)
        for count in (10, 50):
            apply(folder, stack, count, rounds)


def run(folder, env, stack, rounds, ends):
    print(f"run --rm of `true`, median of {rounds}, ms")
    image = json.loads(subprocess.run([STACK, "inspect", "builtin:whoami"], env=env, check=True, capture_output=True).stdout)
    layer = image[0]["GraphDriver"]["Data"]["LowerDir"]
    call("cc", "-O2", "-o", folder / "floor", HOME / "benches/floor.c")
    for name in ("u", "w", "m"):
        (folder / name).mkdir()
    floor = lambda: call(folder / "floor", layer, folder / "u", folder / "w", folder / "m", "/whoami", "true")
    base = median(rounds, floor)
    report("floor (clone, overlay, exec)", base, base)
    report("stack --network none", base, median(rounds, lambda: stack("run", "--rm", "--network", "none", "builtin:whoami", "true")))
    report("stack", base, median(rounds, lambda: stack("run", "--rm", "builtin:whoami", "true")))
    if shutil.which("runc"):
        report("runc (no image, log, supervisor)", base, runc(folder, layer, rounds))
    for name, peer in (("docker", docker), ("podman", podman)):
        if shutil.which(name if name != "docker" else "dockerd"):
            try:
                words = [*peer(folder, layer, ends), "--rm"]
                program = ["bench", "/whoami", "true"]
                report(f"{name} --network none", base, median(rounds, lambda: tell(*words, "--network", "none", *program)))
                report(name, base, median(rounds, lambda: tell(*words, *program)))
            except Unable as reason:
                print(f"  {name}: {reason}")


def report(name, base, value):
    print(f"  {name:34} {value:8.1f} {value / base:5.1f} x", flush=True)


def runc(folder, layer, rounds):
    bundle = folder / "bundle"
    (bundle / "rootfs").mkdir(parents=True)
    call("cp", "-a", f"{layer}/.", bundle / "rootfs")
    call("runc", "spec", cwd=bundle)
    config = json.loads((bundle / "config.json").read_text())
    config["process"].update(terminal=False, args=["/whoami", "true"])
    (bundle / "config.json").write_text(json.dumps(config))
    return median(rounds, lambda: call("runc", "run", "-b", bundle, "bench"))


def docker(folder, layer, ends):
    """`run` of a daemon of our own, with everything of it below the folder."""
    if not pathlib.Path("/sys/class/net/docker0").exists():
        ends.callback(subprocess.run, ["ip", "link", "delete", "docker0"], stderr=subprocess.DEVNULL)
    words, _ = peers.docker(folder / "d", ends, "--bip", "10.213.0.1/24")
    take(words, layer)
    return [*words, "run"]


def podman(folder, layer, ends):
    """`run` in a network namespace of its own, where its bridge and its rules end with it. crun refuses hosts with both
    versions of control groups, where runc does not; limits of podman's own making are refused where root may not raise
    what it has."""
    holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE)
    ends.callback(holder.wait)
    ends.callback(holder.stdin.close)
    here = os.readlink("/proc/self/ns/net")
    until = time.monotonic() + PATIENCE_SECONDS
    while os.readlink(f"/proc/{holder.pid}/ns/net") == here:
        if time.monotonic() > until:
            raise Unable("there can be no other network namespace")
        time.sleep(0.01)
    words = ["nsenter", f"--net=/proc/{holder.pid}/ns/net", *peers.podman(folder, ends)]
    if shutil.which("runc"):
        words += ["--runtime", "runc"]
    take(words, layer)
    ends.callback(call, *words, "rmi", "--all", "--force")
    limits = [f"{name}={low}:{low}" for name, low in (("nofile", resource.getrlimit(resource.RLIMIT_NOFILE)[1]), ("nproc", 32768))]
    return [*words, "run", *(word for limit in limits for word in ("--ulimit", limit))]


def take(words, layer):
    tar = subprocess.run(["tar", "-C", layer, "-c", "."], check=True, capture_output=True).stdout
    tell(*words, "import", "-", "bench", input=tar)


def apply(folder, stack, count, rounds):
    text = "name: bench\ncontainers:\n" + "".join(
        f"  c{n}: {{image: 'builtin:whoami', command: [sleep, forever], networks: [net]}}\n" for n in range(count))
    file = folder / "stack.yaml"
    file.write_text(text + "networks: {net: {}}\n")
    cold, gone = [], []
    for _ in range(3):
        cold.append(median(1, lambda: stack("apply", file)))
        noop = median(rounds, lambda: stack("apply", file))
        used = cpu(rounds, lambda: stack("apply", file))
        gone.append(median(1, lambda: stack("destroy", "bench")))
    cold, gone = statistics.median(cold), statistics.median(gone)
    print(f"{count} containers: cold apply {cold:.0f} ms, no-op apply {noop:.1f} ms ({used:.1f} ms CPU), destroy {gone:.0f} ms;"
          f" no-op is {cold / noop:.0f} x faster than cold", flush=True)


main()
