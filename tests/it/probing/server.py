"""What probes ask: servers that answer well, badly, and never. Run in a container's network; says `ready` once all listen."""
import concurrent.futures
import http.server
import socket
import ssl
import sys
import threading
import time

import grpc

CERTIFICATE, KEY = sys.argv[1:]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/ok?deep=1":
            self.answer(200, b"fine")
        elif self.path == "/asked":
            good = self.headers["X-Probe"] == "yes" and self.headers["Host"] == "localhost:8080"
            self.answer(204 if good else 400, b"")
        elif self.path == "/named":
            self.answer(200 if self.headers["Host"] == "shop.example" else 400, b"")
        elif self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/bad")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path == "/teapot":
            self.answer(418, b"")
        elif self.path == "/slow":
            time.sleep(1000)
        elif self.path == "/drip":
            # A byte of the head now and then, for ever.
            while True:
                self.wfile.write(b"H")
                time.sleep(0.05)
        elif self.path == "/head":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while True:
                self.wfile.write(b"X-More: " + b"a" * 4096 + b"\r\n")
        elif self.path == "/body":
            self.wfile.write(b"HTTP/1.1 500 No\r\n\r\n")
            while True:
                self.wfile.write(b"\x1b[31mno database\r\n" * 4096)
        else:
            self.answer(503, b"no database\n")

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


class Health(grpc.GenericRpcHandler):
    STATES = {b"": 1, b"\n\x02up": 1, b"\n\x04down": 2}

    def service(self, call):
        if call.method != "/grpc.health.v1.Health/Check":
            return None
        return grpc.unary_unary_rpc_method_handler(self.check)

    def check(self, request, context):
        if request == b"\n\x05never":
            time.sleep(1000)
        if request not in self.STATES:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return bytes([8, self.STATES[request]])


class Silence(grpc.GenericRpcHandler):
    def service(self, call):
        return None


def http_server(family, address, port, tls=False):
    class Server(http.server.ThreadingHTTPServer):
        address_family = family
        daemon_threads = True

        def handle_error(self, request, client_address):
            pass

    server = Server((address, port), Handler)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE, KEY)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def grpc_server(port, handler):
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((handler,))
    assert server.add_insecure_port("127.0.0.1:%d" % port)
    server.start()
    return server


# A container without networks has no address of version 6; giving it the switch brings ::1.
with open("/proc/sys/net/ipv6/conf/lo/disable_ipv6", "w") as switch:
    switch.write("0")
http_server(socket.AF_INET, "127.0.0.1", 8080)
http_server(socket.AF_INET6, "::1", 8081)
http_server(socket.AF_INET, "127.0.0.1", 8443, tls=True)
kept = [grpc_server(9000, Health()), grpc_server(9001, Silence())]
print("ready", flush=True)
sys.stdin.read()
