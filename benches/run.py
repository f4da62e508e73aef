#!/usr/bin/env python3
"""Measures `stack` against the kernel's floor and installed peers, in one run, as ratios. As root:

    cargo build --release && benches/run.py [--rounds N]

Prints medians. Nothing is asserted: a slow machine is no error."""

import argparse
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import tempfile
import time

HOME = pathlib.Path(__file__).resolve().parent.parent
STACK = HOME / "target/release/stack"


def median(rounds, action):
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        action()
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1000


def cpu(action):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    action()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) * 1000


def call(*words, **more):
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="stkb") as folder:
        folder = pathlib.Path(folder)
        env = dict(os.environ, STACK_ROOT=str(folder / "r"), STACK_RUN_ROOT=str(folder / "n"))
        stack = lambda *words: call(STACK, *words, env=env)
        stack("run", "--rm", "--network", "none", "builtin:whoami", "true")
        run(folder, env, stack, rounds)
        for count in (10, 50):
            apply(folder, stack, count)


def run(folder, env, stack, rounds):
    print(f"run --rm of `true`, median of {rounds}, ms")
    image = json.loads(subprocess.run([STACK, "inspect", "builtin:whoami"], env=env, check=True, capture_output=True).stdout)
    layer = image[0]["layers"][0]
    call("cc", "-O2", "-o", folder / "floor", HOME / "benches/floor.c")
    for name in ("u", "w", "m"):
        (folder / name).mkdir()
    floor = lambda: call(folder / "floor", layer, folder / "u", folder / "w", folder / "m", "/whoami", "true")
    base = median(rounds, floor)
    print(f"  {'floor (clone, overlay, exec)':34} {base:8.1f}   1.0 x")
    report("stack --network none", base, median(rounds, lambda: stack("run", "--rm", "--network", "none", "builtin:whoami", "true")))
    report("stack", base, median(rounds, lambda: stack("run", "--rm", "builtin:whoami", "true")))
    if shutil.which("runc"):
        bundle = folder / "bundle"
        (bundle / "rootfs").mkdir(parents=True)
        call("cp", "-a", f"{layer}/.", bundle / "rootfs")
        call("runc", "spec", cwd=bundle)
        config = json.loads((bundle / "config.json").read_text())
        config["process"].update(terminal=False, args=["/whoami", "true"])
        (bundle / "config.json").write_text(json.dumps(config))
        report("runc (no image, log, supervisor)", base, median(rounds, lambda: call("runc", "run", "-b", bundle, "bench")))


def report(name, base, value):
    print(f"  {name:34} {value:8.1f} {value / base:5.1f} x")


def apply(folder, stack, count):
    text = "name: bench\ncontainers:\n" + "".join(
        f"  c{n}: {{image: 'builtin:whoami', command: [sleep, forever], networks: [net]}}\n" for n in range(count))
    file = folder / "stack.yaml"
    file.write_text(text + "networks: {net: {}}\n")
    cold = median(1, lambda: stack("apply", file))
    noop = median(10, lambda: stack("apply", file))
    used = cpu(lambda: stack("apply", file))
    gone = median(1, lambda: stack("destroy", "bench"))
    print(f"{count} containers: cold apply {cold:.0f} ms, no-op apply {noop:.1f} ms ({used:.1f} ms CPU), destroy {gone:.0f} ms;"
          f" no-op is {cold / noop:.0f} x faster than cold")


main()
