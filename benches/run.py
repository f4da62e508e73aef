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
from peers import HOME, STACK, Unable, call


# So many times each is measured in turn, so that what disturbs the machine disturbs all.
PASSES = 4
CROWD = 100


class Clock:
    """`timer`: programs timed without the costs of this interpreter."""

    def __init__(self, folder):
        self.program = folder / "timer"
        call("cc", "-O2", "-o", self.program, HOME / "benches/timer.c")

    def times(self, rounds, words, env=None):
        """Of what the last of the words says, itself a list; those before it run the timer."""
        done = subprocess.run([*words[:-1], self.program, str(rounds), *words[-1]], env=env, capture_output=True, text=True)
        if done.returncode or done.stderr:
            raise Unable((done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1])
        return [float(line) for line in done.stdout.split()]

    def compare(self, rounds, subjects, env):
        """Prints the median of each subject and its ratio to the first."""
        all_times = {name: [] for name, _ in subjects}
        for _ in range(PASSES):
            for name, words in subjects:
                if all_times[name] is None:
                    continue
                try:
                    all_times[name] += self.times(max(1, rounds // PASSES), words, env)
                except Unable as reason:
                    all_times[name] = None
                    print(f"  {name}: {reason}", flush=True)
        base = statistics.median(all_times[subjects[0][0]])
        for name, times in all_times.items():
            if times:
                report(name, base, statistics.median(times))


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
    image = json.loads(subprocess.run([STACK, "inspect", "builtin:whoami"], env=env, check=True, capture_output=True).stdout)
    layer = image[0]["GraphDriver"]["Data"]["LowerDir"]
    clock = Clock(folder)
    call("cc", "-O2", "-static", "-o", folder / "floor", HOME / "benches/floor.c")
    for name in ("u", "w", "m"):
        (folder / name).mkdir()
    floor = [["run", folder / "floor", layer, folder / "u", folder / "w", folder / "m", "/whoami", "true"]]
    print(f"create, start, end and delete of `true` from a bundle, median of {rounds}, ms")
    clock.compare(rounds, [("floor (clone, overlay, exec)", floor), *runtimes(folder, layer)], env)

    engines = {"stack": ([STACK, "run"], "builtin:whoami", [])}
    for name, peer, program in (("docker", docker, "dockerd"), ("podman", podman, "podman")):
        if shutil.which(program):
            try:
                engines[name] = (peer(folder, layer, ends), "bench", ["/whoami"])
            except Unable as reason:
                print(f"  {name}: {reason}")
    print(f"run --rm of `true`, median of {rounds}, ms")
    subjects = [("floor (clone, overlay, exec)", floor)]
    for name, (words, image, program) in engines.items():
        for more in (["--network", "none"], []):
            subjects.append((" ".join([name, *more]), [["run", *words, "--rm", *more, image, *program, "true"]]))
    clock.compare(rounds, subjects, env)
    execs(clock, env, engines, rounds)
    for name in engines:
        crowd(clock, env, name, *engines[name])


def runtimes(folder, layer):
    """OCI runtimes with the same bundle, as `runc spec` or ours writes it. crun refuses hosts with both versions of control
    groups: it is given a mount namespace without the second."""
    bundle = folder / "bundle"
    (bundle / "rootfs").mkdir(parents=True)
    call("cp", "-a", f"{layer}/.", bundle / "rootfs")
    call(*(["runc", "spec"] if shutil.which("runc") else [STACK, "oci-runtime", "spec"]), cwd=bundle)
    config = json.loads((bundle / "config.json").read_text())
    config["process"].update(terminal=False, args=["/whoami", "true"])
    (bundle / "config.json").write_text(json.dumps(config))
    life = lambda *words: ["life", bundle, *words, "--root", folder / f"{pathlib.Path(words[0]).name}-root"]
    yield "stack oci-runtime", [life(STACK, "oci-runtime")]
    if shutil.which("runc"):
        yield "runc", [life("runc")]
    if shutil.which("crun"):
        hybrid = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\""
        yield "crun (without the second version of control groups)", ["unshare", "--mount", "sh", "-c", hybrid, "sh", life("crun")]


def execs(clock, env, engines, rounds):
    print(f"exec of `true` in a container that runs, median of {rounds}, ms")
    subjects = []
    for name, (words, image, program) in engines.items():
        subprocess.run([*words, "-d", "--name", "bench-exec", "--network", "none", image, *program, "sleep", "forever"],
                       env=env, check=True, stdout=subprocess.DEVNULL)
        subjects.append((name, [["run", *words_of(words, "exec"), "bench-exec", "/whoami", "true"]]))
    clock.compare(rounds, subjects, env)
    for words, _, _ in engines.values():
        call(*words_of(words, "rm"), "-f", "bench-exec", env=env)


def words_of(words, verb):
    """Another command of the engine whose `run` these words are."""
    return [*words[:words.index("run")], verb]


def crowd(clock, env, name, words, image, program):
    """So many containers that are started at once; then what all processes cost that are there for their sake."""
    before = processes()
    start = [*words, "-d", "--name", "@", "--network", "none", image, *program, "sleep", "forever"]
    try:
        took = clock.times(1, [["crowd", str(CROWD), *start]], env)[0]
        pss = sum(memory(pid) for pid in processes() - before)
        print(f"{CROWD} at once, {name}: {took:.0f} ms, none failed; {pss / CROWD:.0f} KiB PSS a container for its supervisors"
              f"{', without the daemon' if name == 'docker' else ''}", flush=True)
    except Unable as reason:
        print(f"{CROWD} at once, {name}: {reason}", flush=True)
    subprocess.run([*words_of(words, "rm"), "-f", *(f"timed-{n}" for n in range(CROWD))], env=env,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def processes():
    """Those in our pid namespace: programs of containers are in others."""
    own, found = os.readlink("/proc/self/ns/pid"), set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/ns/pid") == own:
                found.add(pid)
    return found


def memory(pid):
    """Its share of memory, in KiB; of the kernel's own there is none."""
    with contextlib.suppress(OSError):
        for line in open(f"/proc/{pid}/smaps_rollup"):
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def report(name, base, value):
    print(f"  {name:52} {value:8.1f} {value / base:6.1f} x", flush=True)


def docker(folder, layer, ends):
    """`run` of a daemon of our own, with everything of it below the folder."""
    if not pathlib.Path("/sys/class/net/docker0").exists():
        ends.callback(subprocess.run, ["ip", "link", "delete", "docker0"], stderr=subprocess.DEVNULL)
    words, _ = peers.docker(folder / "d", ends, "--bip", "10.213.0.1/24", *peers.WITHOUT_RULES)
    peers.take(words, layer)
    return [*words, "run"]


def podman(folder, layer, ends):
    """`run` in a network namespace of its own, where its bridge and its rules end with it."""
    within, _ = peers.network(ends)
    words = [*peers.podman(folder, ends, within), *peers.podman_runtime()]
    peers.take(words, layer)
    ends.callback(call, *words, "rmi", "--all", "--force")
    return [*words, "run", *peers.podman_limits()]


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
