"""A plugin for the tests: docker's plugin protocol over a unix socket, its volumes tmpfs mounts below one folder.

plugin.py SOCKET FOLDER: what it is told to do wrong is in FOLDER/wrong, one `CALL WAY` a line; what it was asked is in
FOLDER/calls. Its volumes outlive it, as those of a proper plugin do.
"""

import base64
import http.server
import json
import os
import pathlib
import select
import socketserver
import subprocess
import sys
import threading
import time

SOCKET, FOLDER = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
STATE, CALLS, WRONG = FOLDER / "state.json", FOLDER / "calls", FOLDER / "wrong"


def load():
    return json.loads(STATE.read_text()) if STATE.exists() else {}


def save(state):
    new = FOLDER / "state.new"
    new.write_text(json.dumps(state))
    new.rename(STATE)


def place(name):
    return FOLDER / "mounts" / name


def activate(_):
    return {"Implements": ["VolumeDriver", "authz", "LogDriver"]}


def create(asked):
    options = asked.get("Opts") or {}
    if "refuse" in options:
        return {"Err": "no volume like that: " + options["refuse"]}
    state = load()
    state.setdefault(asked["Name"], {"options": options, "users": []})
    save(state)
    return {"Err": ""}


def remove(asked):
    state = load()
    if state.get(asked["Name"], {}).get("users"):
        return {"Err": "it is mounted"}
    state.pop(asked["Name"])
    save(state)
    return {}


def mount(asked):
    state = load()
    volume = state[asked["Name"]]
    target = place(asked["Name"])
    target.mkdir(parents=True, exist_ok=True)
    if not os.path.ismount(target):
        subprocess.run(["mount", "-t", "tmpfs", "plugin", target], check=True)
        for name, text in volume.get("kept", {}).items():
            (target / name).write_text(text)
    volume["users"].append(asked["ID"])
    save(state)
    return {"Mountpoint": str(target)}


def unmount(asked):
    state = load()
    volume = state[asked["Name"]]
    if asked["ID"] not in volume["users"]:
        return {"Err": "it is not mounted for " + asked["ID"]}
    volume["users"].remove(asked["ID"])
    target = place(asked["Name"])
    if not volume["users"] and os.path.ismount(target):
        volume["kept"] = {file.name: file.read_text() for file in target.iterdir() if file.is_file()}
        subprocess.run(["umount", target], check=True)
    save(state)
    return {}


def get(asked):
    volume = load().get(asked["Name"])
    if volume is None:
        return {"Err": "no such volume"}
    return {"Volume": {"Name": asked["Name"], "Status": {"users": len(volume["users"])}}}


def list_all(_):
    return {"Volumes": [{"Name": name} for name in load()]}


def capabilities(_):
    return {"Capabilities": {"Scope": "global"}}


def may_ask(asked):
    body = base64.b64decode(asked.get("RequestBody") or "")
    allowed = "forbidden" not in asked["RequestUri"] and b"forbidden" not in body
    return {"Allow": allowed, "Msg": "" if allowed else asked["User"] + " may not do that"}


def may_hear(asked):
    allowed = b"secret" not in base64.b64decode(asked.get("ResponseBody") or "")
    return {"Allow": allowed, "Msg": "" if allowed else "that is secret"}


def start_logging(asked):
    pipe, info = os.open(asked["File"], os.O_RDONLY | os.O_NONBLOCK), asked["Info"]
    threading.Thread(target=read_entries, args=(pipe, info), daemon=True).start()
    return {}


def read_entries(pipe, info):
    os.set_blocking(pipe, True)
    select.select([pipe], [], [])
    with open(pipe, "rb") as entries, (FOLDER / "logged").open("ab") as logged:
        while head := entries.read(4):
            text = entries.read(int.from_bytes(head, "big"))
            logged.write(info["ContainerName"].encode() + b" " + repr(text).encode() + b"\n")
            logged.flush()
        logged.write(info["ContainerName"].encode() + b" end " + info["Config"]["colour"].encode() + b"\n")


DO = {
    "LogDriver.StartLogging": start_logging,
    "LogDriver.StopLogging": lambda asked: {},
    "AuthZPlugin.AuthZReq": may_ask,
    "AuthZPlugin.AuthZRes": may_hear,
    "Plugin.Activate": activate,
    "VolumeDriver.Create": create,
    "VolumeDriver.Remove": remove,
    "VolumeDriver.Mount": mount,
    "VolumeDriver.Unmount": unmount,
    "VolumeDriver.Get": get,
    "VolumeDriver.List": list_all,
    "VolumeDriver.Capabilities": capabilities,
}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        call = self.path.lstrip("/")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with CALLS.open("a") as calls:
            calls.write(call.removeprefix("VolumeDriver.") + "\n")
        wrong = dict(line.split() for line in WRONG.read_text().splitlines()) if WRONG.exists() else {}
        match wrong.get(call.removeprefix("VolumeDriver.")):
            case "die":
                os._exit(1)
            case "hang":
                time.sleep(600)
            case "lie":
                return self.answer(b'{"Mountpoint": ["/", 7]}')
            case "chunks":
                return self.endless()
        if call not in DO:
            return self.answer(b"no such call", 404)
        self.answer(json.dumps(DO[call](json.loads(body or "{}"))).encode())

    def answer(self, body, status=200):
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.docker.plugins.v1.2+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def endless(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        except OSError:
            pass

    def address_string(self):
        return "engine"

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


SOCKET.unlink(missing_ok=True)
FOLDER.mkdir(parents=True, exist_ok=True)
with Server(str(SOCKET), Handler) as server:
    print("ready", flush=True)
    server.serve_forever()
