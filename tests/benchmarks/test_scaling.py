"""What a cell costs is counted right: Ray's log is read, requests through the proxy are counted and passed on whole."""

from __future__ import annotations

import socket
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

from benchmarks.scaling import CountingProxy, gcs_calls

# Two event loops, printing twice; a request's handling has a line of its own beside the request's.
LOG = """
[2026-01-01 00:00:00,000 I 1 1] (gcs_server) gcs_server.cc:1326: internal_kv_io_context Event stats:
Event stats:
\tInternalKVGcsService.grpc_server.InternalKVPut.HandleRequestImpl - 8 total (0 active), Execution time: mean = 0.02ms
\tInternalKVGcsService.grpc_server.InternalKVPut - 8 total (0 active), Execution time: mean = 12.18ms, total = 97.44ms
\tPeriodicalRunner.RunFnPeriodically - 3 total (1 active), Execution time: mean = 0.02ms
[2026-01-01 00:00:00,000 I 1 1] (gcs_server) gcs_server.cc:1326: node_manager_io_context Event stats:
\tNodeInfoGcsService.grpc_server.GetAllNodeInfo - 5 total (0 active), Execution time: mean = 12.63ms
[2026-01-01 00:00:05,000 I 1 1] (gcs_server) gcs_server.cc:1326: internal_kv_io_context Event stats:
\tInternalKVGcsService.grpc_server.InternalKVPut - 11 total (1 active), Execution time: mean = 12.18ms, total = 97.44ms
"""


def test_calls_of_ray_are_each_counted_once() -> None:
    assert gcs_calls(LOG) == 11 + 5
    assert gcs_calls("") == 0


class _Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


def test_the_proxy_counts_requests_and_passes_bytes_on_unchanged() -> None:
    server = HTTPServer(("127.0.0.1", 0), _Echo)
    proxy = CountingProxy(server.server_port)
    for one in (server, proxy):
        threading.Thread(target=one.serve_forever, daemon=True).start()
    body = bytes(range(256)) * 1000
    for _ in range(3):
        with urllib.request.urlopen(f"http://127.0.0.1:{proxy.port}/a", data=body, timeout=60) as answer:
            assert answer.read() == body
    assert proxy.requests == 3
    assert proxy.sent > 3 * len(body)
    assert proxy.received > 3 * len(body)
    for one in (proxy, server):
        one.shutdown()
        one.server_close()


def test_the_proxy_listens_on_loopback_only() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        proxy = CountingProxy(unused.getsockname()[1])
    assert proxy.server_address[0] == "127.0.0.1"
    proxy.server_close()
