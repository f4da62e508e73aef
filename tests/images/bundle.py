"""Unpacks an image archive into an OCI bundle for another runtime: to check our images without our engine.

usage: bundle.py ARCHIVE BUNDLE [ARG...]

Reads only what examples/stacks/images writes: no whiteouts, no compression. Shares the host's network.
"""

import json
import os
import pathlib
import sys
import tarfile


def main():
    archive, bundle, arguments = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3:]
    rootfs = bundle / "rootfs"
    rootfs.mkdir(parents=True)
    with tarfile.open(archive) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))[0]
        config = json.load(tar.extractfile(manifest["Config"]))["config"]
        for layer in manifest["Layers"]:
            with tarfile.open(fileobj=tar.extractfile(layer)) as files:
                files.extractall(rootfs, numeric_owner=True)
    (bundle / "config.json").write_text(json.dumps(runtime_spec(config, arguments, rootfs), indent=1))


def runtime_spec(config, arguments, rootfs):
    command = config.get("Entrypoint", []) + (arguments or config.get("Cmd", []))
    capabilities = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE", "CAP_KILL"]
    uid = next((int(line.split(":")[2]) for line in (rootfs / "etc/passwd").read_text().splitlines()
                if line.split(":")[0] == config.get("User", "root")))
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": uid, "gid": uid},
            "args": command,
            "env": config["Env"] + os.environ.get("BUNDLE_ENV", "").split(),
            "cwd": config.get("WorkingDir", "/"),
            "capabilities": {kind: capabilities for kind in ("bounding", "effective", "permitted")},
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "mode=1777"]},
            {"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
        ],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")]},
    }


if __name__ == "__main__":
    main()
