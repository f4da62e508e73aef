#!/usr/bin/env python3
"""Measures networks against installed peers, in one run. As root:

    cargo build --release && benches/network.py [--rounds N] [--only stack,docker,podman]

Each engine has a network namespace of its own as its host, with nobody else's rules in it, and a cable to another one where
a client from elsewhere lives; docker has a daemon of its own there, without its userland proxy. All have the same image and
the same containers. They are measured in turn, round by round; no round begins after 110 seconds. Nothing is asserted: a
slow machine is no error. What is measured:

- attach: `network connect` of a container that runs and was taken out before, from the command's start to its end; of docker
  also how long its daemon takes to answer that request, without a command;
- run: `run -d` and `rm -f` of a container in the network, less the same without any network, whole commands;
- throughput: TCP for a second, as `iperf3` of Debian tells it for the receiver;
- connections: made, a byte had, and hung up, one after another; of `stack` also beside a chain of the host's own at `input`,
  which it asks about each (docker and podman ask none);
- names: A queries of a container for another one's name to its name server, one after another and 16 under way at once. Of
  podman with CNI this needs the plugin `dnsname`."""

import argparse
import contextlib
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
import peers
from peers import HOME, STACK, Unable, call, tell

LIMIT_SECONDS = 110
COMMAND_SECONDS = 60
PORTS = (0, 1, 20)
CONNECTIONS = 2000
QUERIES = 5000
WINDOWS = (1, 16)
HOST, CLIENT = "10.214.0.1", "10.214.0.2"
SERVED, IPERF = 7000, 5201


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="stack,docker,podman")
    parser.add_argument("--stack", type=pathlib.Path, default=STACK, help="the program, where it is not the release build")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with contextlib.ExitStack() as ends:
        folder = pathlib.Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="stkb", ignore_cleanup_errors=True)))
        os.environ.update(TMPDIR=str(folder), STACK_ROOT=str(folder / "r"), STACK_RUN_ROOT=str(folder / "n"))
        call("cc", "-O2", "-o", folder / "timer", HOME / "benches/timer.c")
        root = files(folder / "root")
        engines = []
        for name in asked.only.split(","):
            try:
                engine = {"stack": lambda *given: Stack(asked.stack, *given), "docker": Docker, "podman": Podman}[name](folder, ends)
                engine.furnish(root, ends)
                engines.append(engine)
            except (Unable, FileNotFoundError) as reason:
                print(f"{name} is absent: {reason}", flush=True)
        measure(engines, root, asked.rounds)


def files(root):
    """Those of the image: programs, and the libraries of those that have any."""
    for name in ("tmp", "etc", "proc", "sys", "dev", "lib"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    call("cc", "-O2", "-static", "-o", root / "talk", HOME / "benches/talk.c")
    iperf = shutil.which("iperf3")
    if not iperf:
        print("throughput is not measured: there is no iperf3 (Debian: `apt-get install iperf3`)")
        return root
    shutil.copy(iperf, root / "iperf3")
    for line in subprocess.run(["ldd", iperf], check=True, capture_output=True, text=True).stdout.splitlines():
        # NAME => PATH (WHERE), or the loader's own PATH (WHERE), which has to be where it is looked for.
        library = pathlib.Path(line.split("=>")[-1].split()[0])
        if library.is_absolute():
            place = root / "lib" / library.name if "=>" in line else root / library.relative_to("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, place)
    return root


class Engine:
    """One that has a host of its own, and how it is asked."""

    run_options, remove = [], ["rm", "-f"]

    def __init__(self, folder, ends):
        self.timer = folder / "timer"
        self.within, _ = peers.network(ends)
        self.client, client = peers.network(ends)
        call(*self.within, "ip", "link", "set", "lo", "up")
        call(*self.within, "ip", "link", "add", "uplink", "type", "veth", "peer", "name", "uplink", "netns", str(client))
        for place, address in ((self.within, HOST), (self.client, CLIENT)):
            call(*place, "ip", "address", "add", f"{address}/24", "dev", "uplink")
            call(*place, "ip", "link", "set", "uplink", "up")

    def tell(self, *words):
        tell(*self.within, *self.words, *words, timeout=COMMAND_SECONDS)

    def furnish(self, root, ends):
        """The image, the network, and the containers that stay."""
        self.take(root)
        ends.callback(self.clear)
        self.tell("network", "create", "bench")
        self.start("bench-serve", [(SERVED, SERVED)], "/talk", "serve", str(SERVED))
        self.start("bench-client", [], "/talk", "wait")
        if (root / "iperf3").exists():
            self.start("bench-iperf", [(IPERF, IPERF)], "/iperf3", "-s")
        for count in PORTS:
            self.start(f"bench-{count}", ports(20000, count), "/talk", "wait")
            self.tell("network", "disconnect", "bench", f"bench-{count}")
        peers.until(lambda: self.serves(), "its published port is not served")

    def take(self, root):
        peers.take([*self.within, *self.words], root)

    def clear(self):
        """Whatever of it there is: some may have been interrupted."""
        names = [f"bench-{name}" for name in ("serve", "client", "iperf", "run", *PORTS)]
        for words in (*([*self.remove, name] for name in names), ["network", "rm", "bench"], *self.last):
            with contextlib.suppress(Unable, subprocess.TimeoutExpired):
                self.tell(*words)

    def start(self, name, published, *program):
        self.tell("run", "-d", "--name", name, *self.run_options, "--network", "bench", *publish(published), "bench", *program)

    def serves(self):
        with contextlib.suppress(Unable):
            self.connections(self.client, HOST, 1)
            return True

    def inside(self, name):
        """The words that run a program in that container."""
        return [*self.within, *self.words, "exec", name]

    def timed(self, *words):
        return number(*self.within, self.timer, "1", "run", *self.words, *words)

    def attach(self):
        """In milliseconds, by how many ports are published."""
        found = {}
        for how, connect in self.ways():
            for count in PORTS:
                found[published_ports(count) + how] = connect(f"bench-{count}")
                self.tell("network", "disconnect", "bench", f"bench-{count}")
        return found

    def ways(self):
        """What is added to the name of a measure, and how the container gets into the network."""
        return [("", self.connect)]

    def connect(self, container):
        return self.timed("network", "connect", "bench", container)

    def run(self):
        without = self.life("none", 0)
        return {published_ports(count): self.life("bench", count) - without for count in PORTS}

    def life(self, network, count):
        words = ["run", "-d", "--name", "bench-run", *self.run_options, "--network", network, *publish(ports(30000, count))]
        return self.timed(*words, "bench", "/talk", "wait") + self.timed(*self.remove, "bench-run")

    def throughput(self):
        own = output(*self.inside("bench-iperf"), "/talk", "address").strip()
        return {"container to container": gigabits([*self.inside("bench-client"), "/iperf3"], own),
                "through a published port": gigabits([*self.client, "iperf3"], HOST)}

    def connect_often(self):
        own = output(*self.inside("bench-serve"), "/talk", "address").strip()
        return {"container to container": self.connections(self.inside("bench-client"), own, CONNECTIONS),
                "through a published port": self.connections(self.client, HOST, CONNECTIONS)}

    def connections(self, place, address, count):
        program = "/talk" if place[-1] == "bench-client" else self.timer.parent / "root/talk"
        return number(*place, program, "connect", address, str(SERVED), str(count))

    def names(self):
        ask = lambda window: number(*self.inside("bench-client"), "/talk", "ask", "bench-serve", str(QUERIES), str(window))
        return {f"{window} at once": ask(window) for window in WINDOWS}


class Stack(Engine):
    name, last = "stack", [["system", "prune", "--all", "--force"]]

    def __init__(self, program, folder, ends):
        super().__init__(folder, ends)
        if not program.exists():
            raise Unable(f"{program} is not built")
        self.words = [program.resolve()]
        # As /run is.
        (folder / "n").mkdir()
        call("mount", "-t", "tmpfs", "tmpfs", folder / "n")
        ends.callback(call, "umount", folder / "n")

    def take(self, root):
        self.tell("import", root, "bench")

    def connect_often(self):
        found = super().connect_often()
        if shutil.which("nft"):
            with self.chain_at_input():
                found["through a published port, the host's chains asked"] = self.connections(self.client, HOST, CONNECTIONS)
        return found

    @contextlib.contextmanager
    def chain_at_input(self):
        """The host has rules on who may speak to it, and the engine knows it, as it does once it has changed its own."""
        chain = "table inet bench { chain input { type filter hook input priority 0; tcp dport 1 drop; }; }"
        tell(*self.within, "nft", chain)
        try:
            self.renew()
            yield
        finally:
            tell(*self.within, "nft", "delete table inet bench")
            self.renew()

    def renew(self):
        for verb in ("connect", "disconnect"):
            self.tell("network", verb, "bench", "bench-1")


class Docker(Engine):
    name, last = "docker", []

    def __init__(self, folder, ends):
        super().__init__(folder, ends)
        options = ("--userland-proxy=false", "--bip", "10.213.0.1/24", "--default-address-pool", "base=10.215.0.0/16,size=24")
        self.words, _ = peers.docker(folder / "d", ends, *options, within=self.within)
        self.socket = folder / "d/s"

    def ways(self):
        return [*super().ways(), (", the daemon alone", self.request)]

    def request(self, container):
        api = http.client.HTTPConnection("docker")
        api.sock = socket.socket(socket.AF_UNIX)
        api.sock.settimeout(COMMAND_SECONDS)
        api.sock.connect(str(self.socket))
        with contextlib.closing(api):
            begun = time.perf_counter()
            api.request("POST", "/networks/bench/connect", json.dumps({"Container": container}), {"Content-Type": "application/json"})
            answer = api.getresponse()
            said = answer.read().decode(errors="replace")
            if answer.status != 200:
                raise Unable(said.strip())
            return (time.perf_counter() - begun) * 1000


class Podman(Engine):
    name, last = "podman", [["rmi", "--all", "--force"]]

    def __init__(self, folder, ends):
        super().__init__(folder, ends)
        self.words = [*peers.podman(folder, ends), "--network-config-dir", folder / "networks", *peers.podman_runtime()]
        self.run_options = peers.podman_limits()


def ports(first, count):
    """(of the host, of the container): no two containers that have some have one in common."""
    return [(first + 100 * count + number, 1 + number) for number in range(count)]


def published_ports(count):
    return f"{count} port{'' if count == 1 else 's'}"


def publish(published):
    return [word for host, container in published for word in ("-p", f"0.0.0.0:{host}:{container}")]


def output(*words):
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_SECONDS)
    except subprocess.TimeoutExpired:
        raise Unable(f"{words[-1]}: not done after {COMMAND_SECONDS} s") from None
    # The timer has told on standard error of what failed.
    if done.returncode or not done.stdout.strip():
        raise Unable((done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1])
    return done.stdout


def number(*words):
    return float(output(*words).split()[-1])


def gigabits(iperf, address):
    said = json.loads(output(*iperf, "-c", address, "-p", str(IPERF), "-t", "1", "--json"))
    return said["end"]["sum_received"]["bits_per_second"] / 1e9


def measure(engines, root, rounds):
    measures = {
        "attach of a container that runs, ms": "attach",
        "run -d and rm -f, beyond the same without a network, ms": "run",
        "throughput, Gbit/s": "throughput",
        "connections a second": "connect_often",
        "names asked for a second": "names",
    }
    if not (root / "iperf3").exists():
        del measures["throughput, Gbit/s"]
    found = {title: {engine.name: [] for engine in engines} for title in measures}
    until = time.monotonic() + LIMIT_SECONDS
    done = 0
    while done < rounds and time.monotonic() < until:
        for title, of in measures.items():
            for engine in engines:
                if engine.name not in found[title]:
                    continue
                try:
                    found[title][engine.name].append(getattr(engine, of)())
                except Unable as reason:
                    del found[title][engine.name]
                    print(f"{engine.name}, {title}: {reason}", flush=True)
        done += 1
    print(f"medians of {done} rounds, with quartiles, and as multiples of the first's")
    for title, rows in found.items():
        report(title, rows)


def report(title, rows):
    """A line a kind and engine. What is a kind of another (`KIND, HOW`) is compared with that."""
    print(title)
    middle = lambda values, kind: statistics.median([value[kind] for value in values])
    for kind in dict.fromkeys(kind for values in rows.values() for value in values for kind in value):
        base = next(middle(values, kind.split(",")[0]) for values in rows.values() if values)
        for name, values in rows.items():
            column = [value[kind] for value in values if kind in value]
            if column:
                low, median, high = statistics.quantiles(column, n=4, method="inclusive") if len(column) > 1 else column * 3
                times = f"{median / base:8.2f} x" if base > 0 else ""
                print(f"  {kind:50} {name:8} {median:9.1f} ({low:.1f} to {high:.1f}) {times}", flush=True)


main()
