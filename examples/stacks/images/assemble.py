"""Puts Debian packages together into image archives, in the form that `docker save` writes.

usage: assemble.py DIR [NAME...]

A package is never installed: its files go from the .deb into a layer, without maintainer scripts. Every image has the
same first layer (BASE) and one of its own. The result depends only on the packages and these scripts: sorted entries,
one date, no host names.
"""

import hashlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile

import recipes

HERE = pathlib.Path(__file__).parent
DATE = 1_700_000_000
CREATED = "2023-11-14T22:13:20Z"
MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
IN_THE_WAY = (
    "usr/share/doc/", "usr/share/man/", "usr/share/info/", "usr/share/locale/", "usr/share/lintian/", "usr/share/bug/",
    "usr/lib/systemd/", "usr/share/bash-completion/", "etc/init.d/", "etc/logrotate.d/", "usr/share/perl5/", "usr/lib/postgresql/15/lib/bitcode/",
    "usr/share/icu/", "usr/share/postgresql/15/man/", "usr/lib/x86_64-linux-gnu/gconv/", "usr/lib/aarch64-linux-gnu/gconv/",
)


def main():
    out = pathlib.Path(sys.argv[1])
    recipe_hash = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in ("assemble.py", "recipes.py"))).hexdigest()
    wanted = [name for name in sys.argv[2:] or recipes.IMAGES if not is_current(out, name, recipe_hash)]
    if not wanted:
        return
    base_packages = download(out, recipes.BASE["packages"])
    base = layer(out / "base.layer", recipes.BASE, base_packages, first=True)
    for name in wanted:
        recipe = recipes.IMAGES[name]
        packages = {k: v for k, v in download(out, recipe["packages"]).items() if k not in base_packages}
        own = layer(out / f"{name}.layer", recipe, packages)
        save(out / f"{name}.tar", name, recipe["config"], [base, own])
        own[0].unlink()
        (out / f"{name}.stamp").write_text(recipe_hash)
        print(f"{out}/{name}.tar", file=sys.stderr)
    base[0].unlink()


def is_current(out, name, recipe_hash):
    stamp = out / f"{name}.stamp"
    return (out / f"{name}.tar").exists() and stamp.exists() and stamp.read_text() == recipe_hash


# --- packages -------------------------------------------------------------------------------------------------------


def download(out, packages):
    """The closure of these packages as name -> .deb. An empty dpkg status makes apt see a machine that has nothing."""
    cache = out / "debs"
    cache.mkdir(parents=True, exist_ok=True)
    # apt lists only what its archive folder lacks: one that stays empty makes it list everything.
    empty = out / "empty"
    (empty / "partial").mkdir(parents=True, exist_ok=True)
    status = out / "status"
    status.touch()
    apt = ["apt-get", "-qq", "-y", "--no-install-recommends", "-o", f"Dir::State::status={status}", "-o", f"Dir::Cache::archives={empty}",
           "-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1"]
    listing = subprocess.run([*apt, "--print-uris", "install", *packages], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if listing.returncode != 0:
        subprocess.run(["apt-get", "-qq", "update"], stdin=subprocess.DEVNULL, check=True)
        listing = subprocess.run([*apt, "--print-uris", "install", *packages], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    # 'uri' file size digest
    files = sorted(line.split()[1] for line in listing.stdout.splitlines() if line.startswith("'"))
    wanted = {name.split("_")[0]: name for name in files if name.split("_")[0] not in recipes.INSTALLERS}
    missing = [package_and_version(name) for name in wanted.values() if not (cache / name).exists()]
    if missing:
        subprocess.run(["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *missing], cwd=cache,
                       stdin=subprocess.DEVNULL, check=True)
    return {name: cache / file for name, file in wanted.items()}


def package_and_version(file):
    name, version, _ = file.split("_")
    return f"{name}={version.replace('%3a', ':')}"


# --- layers ---------------------------------------------------------------------------------------------------------


def layer(path, recipe, packages, first=False):
    """Writes one layer; gives (path, its digest)."""
    entries = {}
    if first:
        for name in MERGED[:3] + ("lib64",):
            entries[name] = (entry(name, tarfile.SYMTYPE, 0o777, 0, f"usr/{name}"), None)
            entries[f"usr/{name}"] = (entry(f"usr/{name}", tarfile.DIRTYPE, 0o755, 0), None)
    for name, file in sorted(packages.items()):
        take_package(entries, file, recipe.get("only", {}).get(name))
    for name, (mode, owner) in recipe.get("folders", {}).items():
        entries[name] = (entry(name, tarfile.DIRTYPE, mode, owner), None)
    for name, target in recipe.get("links", {}).items():
        # A file of a package stays; an empty folder of one gives way.
        if name not in entries or entries[name][0].isdir():
            entries[name] = (entry(name, tarfile.SYMTYPE, 0o777, 0, target), None)
    for name, (mode, owner, text) in recipe.get("files", {}).items():
        entries[name] = (entry(name, tarfile.REGTYPE, mode, owner), text.encode())
    add_parents(entries)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name in sorted(entries):
            info, data = entries[name]
            info.size = len(data) if data is not None else 0
            tar.addfile(info, io.BytesIO(data) if data is not None else None)
    return path, digest(path)


def take_package(entries, file, only):
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", file], stdout=subprocess.PIPE) as unpack:
        with tarfile.open(fileobj=unpack.stdout, mode="r|") as tar:
            for info in tar:
                name = merged(os.path.normpath(info.name))
                if name == "." or f"{name}/".startswith(IN_THE_WAY) or (only is not None and name not in only):
                    continue
                if info.isdir() and name in entries:
                    continue
                info.name = name
                info.mtime = DATE
                info.uname = info.gname = ""
                if info.islnk():
                    info.linkname = merged(os.path.normpath(info.linkname))
                entries[name] = (info, tar.extractfile(info).read() if info.isreg() else None)
        unpack.stdout.read()
    if unpack.returncode != 0:
        sys.exit(f"{file}: dpkg-deb failed")


def merged(name):
    """Where a path lies in a root with merged /usr."""
    return f"usr/{name}" if name.split("/")[0] in MERGED else name


def entry(name, kind, mode, owner, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.uid, info.gid, info.linkname, info.mtime = kind, mode, owner, owner, target, DATE
    return info


def add_parents(entries):
    for name in list(entries):
        for parent in pathlib.PurePosixPath(name).parents:
            if str(parent) != "." and str(parent) not in entries:
                entries[str(parent)] = (entry(str(parent), tarfile.DIRTYPE, 0o755, 0), None)


# --- the archive ----------------------------------------------------------------------------------------------------


def save(path, name, config, layers):
    environment = {"Env": [f"PATH={recipes.SEARCH_PATH}"]}
    image = {
        "architecture": {"amd64": "amd64", "arm64": "arm64"}[architecture()],
        "os": "linux",
        "created": CREATED,
        "config": environment | config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hexadecimal}" for _, hexadecimal in layers]},
        "history": [{"created": CREATED, "created_by": "build.sh base"}, {"created": CREATED, "created_by": f"build.sh {name}"}],
    }
    text = json.dumps(image, sort_keys=True).encode()
    config_name = hashlib.sha256(text).hexdigest() + ".json"
    manifest = [{"Config": config_name, "RepoTags": [f"{name}:latest"], "Layers": [f"{digest}/layer.tar" for _, digest in layers]}]
    partial = path.with_suffix(".partial")
    with tarfile.open(partial, "w", format=tarfile.GNU_FORMAT) as tar:
        for file, hexadecimal in layers:
            info = entry(f"{hexadecimal}/layer.tar", tarfile.REGTYPE, 0o644, 0)
            info.size = file.stat().st_size
            with file.open("rb") as data:
                tar.addfile(info, data)
        for file, data in ((config_name, text), ("manifest.json", json.dumps(manifest).encode())):
            info = entry(file, tarfile.REGTYPE, 0o644, 0)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    partial.rename(path)


def architecture():
    return subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()


def digest(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else hashlib.sha256(file.read()).hexdigest()


if __name__ == "__main__":
    main()
