"""A laboratory: hosts on one machine, the folder that they share, and who may ask them what."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tensorrl.errors import InputError
from tests.cluster.laboratory import network
from tests.cluster.laboratory.network import Host

RAY_PORT, DASHBOARD_PORT, MLFLOW_PORT, DATABASE_PORT = 6379, 8265, 5000, 5432
ADMIN = "admin"
TRIALS = "trials"
_PROGRAMS = Path(sys.executable).parent


@dataclass(frozen=True)
class Lab:
    """A laboratory: hosts, their services, and a folder with all that is theirs.

    Attributes:
        name: the prefix of its namespaces, so that two can stand beside each other.
        folder: `storage` (what the hosts share), `hosts/<name>` (what they do not), and the secrets.
        workers: how many worker hosts.
        cpus: trials at once on each worker, of one core each.
    """

    name: str
    folder: Path
    workers: int = 2
    cpus: int = 1

    @property
    def hosts(self) -> dict[str, Host]:
        """The hosts by name."""
        return network.layout(self.name, self.workers)

    @property
    def storage(self) -> Path:
        """The folder that every host has under the same path, as with NFS."""
        return self.folder / "storage"

    @property
    def dashboard(self) -> str:
        """The URL of Ray's dashboard and job API."""
        return f"http://{self.hosts['head'].address}:{DASHBOARD_PORT}"

    @property
    def mlflow(self) -> str:
        """The URL of the MLflow server, without credentials."""
        return f"http://{self.hosts['mlflow'].address}:{MLFLOW_PORT}"

    def log(self, name: str) -> Path:
        """Returns the log of a host's services, or of `postgres`."""
        return self.folder / "hosts" / f"{name}.log"

    def secret(self, name: str) -> str:
        """Returns one of the laboratory's secrets: `token`, `mlflow`, `trials`, `database` or `sessions`."""
        return (self.folder / "secrets" / name).read_text()

    def host(self, name: str) -> Host:
        """Returns a host by name.

        Raises:
            InputError: there is none of that name.
        """
        if name not in self.hosts:
            raise InputError(f"no host {name!r} (allowed: {', '.join(self.hosts)})")
        return self.hosts[name]

    def environment(self, *, token: bool = True) -> dict[str, str]:
        """Returns the environment of a host's processes.

        Args:
            token: with Ray's token and MLflow's password, which a stranger on the network would not have.
        """
        ours = {
            name: os.environ[name]
            for name in ("PATH", "PYTHONPATH", "LANG", "OMP_NUM_THREADS", "PYTHONDONTWRITEBYTECODE")
            if name in os.environ
        }
        ours |= {
            "HOME": str(self.folder / "home"),
            "PATH": f"{_PROGRAMS}:{ours['PATH']}",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        # A job that is stopped may take that long over its trials' checkpoints; Ray's own patience is three seconds.
        ours |= {"RAY_JOB_STOP_WAIT_TIME_S": "60", "RAY_USAGE_STATS_ENABLED": "0", "TENSORRL_STORE": str(self.storage)}
        if not token:
            return ours | {"RAY_AUTH_MODE": "disabled"}
        return ours | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "secrets" / "token"),
            "RAY_ADDRESS": self.dashboard,
            "MLFLOW_TRACKING_URI": self.mlflow,
            "MLFLOW_TRACKING_USERNAME": TRIALS,
            "MLFLOW_TRACKING_PASSWORD": self.secret("trials"),
        }

    def command(self, host: Host, command: Sequence[str]) -> list[str]:
        """Returns `command` so that it runs on a host."""
        return network.inside(host, command, temporary=self.folder / "hosts" / host.name / "tmp")

    def run(self, name: str, command: Sequence[str], *, token: bool = True) -> int:
        """Runs a command on a host, on this terminal, and returns its exit status."""
        host = self.host(name)
        return subprocess.run(self.command(host, command), env=self.environment(token=token)).returncode


def open_lab(folder: Path) -> Lab:
    """Returns the laboratory that stands in a folder.

    Raises:
        InputError: there is none.
    """
    try:
        return Lab(folder=folder, **json.loads((folder / "lab.json").read_text()))
    except (OSError, ValueError):
        raise InputError(f"no laboratory stands in {folder} (make one with `up`)") from None


@dataclass(frozen=True)
class Answer:
    """What a request was answered: the HTTP status, or 0 where nothing answered, and the body."""

    status: int
    body: str


def answers(lab: Lab, url: str) -> bool:
    """Returns whether a URL answers 200 to one who has the token."""
    return fetch(lab, url).status == 200


def fetch(lab: Lab, url: str, *, host: str | None = "client", token: bool = True, seconds: float = 5.0) -> Answer:
    """Asks a URL from one of the hosts.

    Args:
        lab: the laboratory.
        url: of Ray's head or of MLflow.
        host: who asks; None is the machine itself, outside of all hosts.
        token: with Ray's token.
        seconds: to wait for an answer.
    """
    arguments = ["-", url, lab.secret("token") if token else "", str(seconds)]
    command = [sys.executable, *arguments]
    if host is not None:
        command = lab.command(lab.host(host), command)
    ran = subprocess.run(command, input=_FETCH, env=lab.environment(token=False), capture_output=True, text=True)
    status, _, body = ran.stdout.partition("\n")
    return Answer(int(status or 0), body)


_FETCH = """
import sys, urllib.error, urllib.request
url, token, seconds = sys.argv[1:]
headers = {"Authorization": f"Bearer {token}"} if token else {}
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    with opener.open(urllib.request.Request(url, headers=headers), timeout=float(seconds)) as answer:
        status, body = answer.status, answer.read().decode(errors="replace")
except urllib.error.HTTPError as error:
    status, body = error.code, error.read().decode(errors="replace")
except OSError as error:
    status, body = 0, str(error)
print(status)
print(body)
"""


def alive_workers(lab: Lab) -> list[str]:
    """Returns the addresses of the workers that Ray holds for alive."""
    got = fetch(lab, f"{lab.dashboard}/api/v0/nodes?limit=1000")
    nodes = json.loads(got.body)["data"]["result"]["result"] if got.status == 200 else []
    return [node["node_ip"] for node in nodes if node["state"] == "ALIVE" and not node["is_head_node"]]
