"""An S3 server on loopback, which PyArrow's own client talks to as to Amazon's: moto's, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

BUCKET = "sweeps"
_PATIENCE = 120.0


def environment(port: int) -> dict[str, str]:
    """What a client of the server needs in its environment."""
    return {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextmanager
def s3_server(port: int) -> Iterator[None]:
    """Serves S3 from memory, with the bucket `BUCKET`."""
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + _PATIENCE
        while True:
            assert server.poll() is None, "the S3 server ended"
            assert time.monotonic() < deadline, "the S3 server does not answer"
            try:
                made = urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT")
                urllib.request.urlopen(made, timeout=30).close()
            except OSError:
                time.sleep(0.1)
            else:
                break
        yield
    finally:
        server.terminate()
        server.wait()
