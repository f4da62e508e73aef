#!/usr/bin/env python3
"""Takes each guard of tests/it/threats/guards.txt out, one at a time, and sees the tests that it names fail.

    tests/guards.py [WORD...]    all of them, or those whose names have one of the words

In a copy of the sources, with a target directory of its own (target/guards). The tests are built with all guards in, and only
the program anew, but where tests call the library. CARGO names another cargo."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

HOME = pathlib.Path(__file__).resolve().parent.parent
TREE = HOME / "target/guards/tree"
CARGO = os.environ.get("CARGO", "cargo")
ENVIRONMENT = {**os.environ, "CARGO_TARGET_DIR": str(HOME / "target/guards/target")}


def guards(text):
    """Name, tests, and (file, what goes, what comes) of each."""
    for block in re.split(r"\n\n(?=# )", text)[1:]:
        title, *lines = block.strip("\n").split("\n")
        name, tests = title[2:].rsplit(": ", 1)
        edits, file = [], None
        for line in lines:
            sign, rest = line[0], line[1:]
            if sign == "@":
                file = rest.strip()
            elif sign == "-":
                # Lines that go begin another edit, unless they follow each other.
                if not edits or edits[-1][0] != file or edits[-1][2]:
                    edits.append((file, [], []))
                edits[-1][1].append(rest)
            else:
                edits[-1][2].append(rest)
        yield name, tests.split(), [(file, "\n".join(old), "\n".join(new)) for file, old, new in edits]


def cargo(*words):
    return subprocess.run([CARGO, *words], cwd=TREE, env=ENVIRONMENT, capture_output=True, text=True)


def built(*words):
    done = cargo(*words)
    if done.returncode:
        sys.exit(f"cargo {' '.join(words)} failed:\n{done.stderr[-4000:]}")
    return done


def executable(done):
    return re.search(r"Executable .*\((.*)\)", done.stderr).group(1)


def copy():
    """The sources as they are; what has not changed keeps its time, so that it is not built again."""
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=HOME, check=True, capture_output=True, text=True)
    names = [name for name in files.stdout.splitlines() if (HOME / name).exists()]
    for name in names:
        source, target = HOME / name, TREE / name
        if not target.exists() or target.read_bytes() != source.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    for old in [path for path in TREE.rglob("*.rs") if str(path.relative_to(TREE)) not in names]:
        old.unlink()


def without(edits):
    """Takes the guard out; gives what puts it back."""
    before = {}
    for file, old, new in edits:
        path = TREE / file
        text = path.read_text()
        before.setdefault(path, text)
        if text.count(old) != 1:
            sys.exit(f"{file} has this {text.count(old)} times:\n{old}")
        path.write_text(text.replace(old, new))
    return before


def main():
    copy()
    chosen = list(guards((TREE / "tests/it/threats/guards.txt").read_text()))
    chosen = [one for one in chosen if not sys.argv[1:] or any(word in one[0] for word in sys.argv[1:])]
    for _, _, edits in chosen:
        for path, text in without(edits).items():
            path.write_text(text)
    unnoticed, tests = [], None
    for name, filters, edits in chosen:
        # Some tests call the library, which is in them.
        inside = any(one.startswith(("image::", "plans::")) for one in filters)
        if not tests and not inside:
            tests = executable(built("test", "--locked", "--test", "it", "--no-run"))
        begun, before = time.time(), without(edits)
        try:
            program = cargo("test", "--locked", "--test", "it", "--no-run") if inside else cargo("build", "--locked", "--bin", "stack")
            if program.returncode:
                sys.exit(f"{name}: it can't be built without:\n{program.stderr[-4000:]}")
            tests = executable(program) if inside else tests
            for one in filters:
                ran = subprocess.run([tests, one], cwd=TREE, env=ENVIRONMENT, capture_output=True, text=True, errors="replace")
                failed = re.findall(r"^test (\S+) \.\.\. FAILED", ran.stdout, re.M)
                print(f"{name}: {', '.join(failed) or 'NOT NOTICED by ' + one} ({time.time() - begun:.0f} s)", flush=True)
                if not failed:
                    unnoticed.append(name)
        finally:
            for path, text in before.items():
                path.write_text(text)
        if inside:
            tests = None
    sys.exit(f"not noticed: {'; '.join(unnoticed)}" if unnoticed else 0)


if __name__ == "__main__":
    main()
