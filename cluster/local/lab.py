"""What runs on the hosts: a Ray head, Ray workers, an MLflow server on PostgreSQL, and the one folder they share."""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.local import network
from cluster.local.network import Host
from tensorrl.errors import InputError

RAY_PORT, DASHBOARD_PORT, MLFLOW_PORT, DATABASE_PORT = 6379, 8265, 5000, 5432
ADMIN = "admin"
_PROGRAMS = Path(sys.executable).parent
_READY_SECONDS = 180.0
_POLL_SECONDS = 0.5


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

    def secret(self, name: str) -> str:
        """Returns one of the laboratory's secrets: `token`, `mlflow`, `database` or `sessions`."""
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
        ours |= {"HOME": str(self.folder / "home"), "PATH": f"{_PROGRAMS}:{ours['PATH']}", "RAY_USAGE_STATS_ENABLED": "0"}
        ours |= {"TENSORRL_STORE": str(self.storage)}
        if not token:
            return ours | {"RAY_AUTH_MODE": "disabled"}
        return ours | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "secrets" / "token"),
            "RAY_ADDRESS": self.dashboard,
            "MLFLOW_TRACKING_URI": self.mlflow,
            "MLFLOW_TRACKING_USERNAME": ADMIN,
            "MLFLOW_TRACKING_PASSWORD": self.secret("mlflow"),
        }

    def command(self, host: Host, command: Sequence[str]) -> list[str]:
        """Returns `command` so that it runs on a host."""
        return network.inside(host, command, temporary=self.folder / "hosts" / host.name / "tmp")

    def run(self, name: str, command: Sequence[str], *, token: bool = True) -> int:
        """Runs a command on a host, on this terminal, and returns its exit status."""
        host = self.host(name)
        return subprocess.run(self.command(host, command), env=self.environment(token=token)).returncode


def create(lab: Lab) -> None:
    """Makes the laboratory's folder, secrets, hosts and services, and waits until all are ready.

    Raises:
        InputError: a laboratory of that name stands already, this is not root, or PostgreSQL is not installed.
        TimeoutError: a service was not ready in time; its log says why.
    """
    if os.geteuid() != 0:
        raise InputError("network namespaces need root")
    database_programs()
    if lab.folder.exists() or network.namespaces(lab.name):
        raise InputError(f"the laboratory {lab.name!r} in {lab.folder} stands already (take it down first)")
    lab.folder.mkdir(parents=True)
    lab.folder.chmod(0o755)
    for part in ("storage", "secrets", "artifacts", "home"):
        (lab.folder / part).mkdir(mode=0o700 if part == "secrets" else 0o755)
    for secret in ("token", "mlflow", "database", "sessions"):
        path = lab.folder / "secrets" / secret
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32))
    for name in lab.hosts:
        temporary = lab.folder / "hosts" / name / "tmp"
        temporary.mkdir(parents=True)
    write_json(lab)
    network.create(lab.name, list(lab.hosts.values()))
    for name in ("mlflow", "head"):
        start(lab, name)
    for name in ("mlflow", "head"):
        wait_ready(lab, name)
    for name in (name for name in lab.hosts if name.startswith("worker")):
        start(lab, name)
    wait_for_workers(lab, lab.workers)


def write_json(lab: Lab) -> None:
    """Keeps what the laboratory is made of in its folder, for `open_lab`."""
    (lab.folder / "lab.json").write_text(json.dumps({"name": lab.name, "workers": lab.workers, "cpus": lab.cpus}))


def open_lab(folder: Path) -> Lab:
    """Returns the laboratory that stands in a folder.

    Raises:
        InputError: there is none.
    """
    try:
        return Lab(folder=folder, **json.loads((folder / "lab.json").read_text()))
    except (OSError, ValueError):
        raise InputError(f"no laboratory stands in {folder} (make one with `up`)") from None


def remove(lab: Lab) -> None:
    """Ends the laboratory's processes and takes away its hosts and its folder, results included."""
    network.remove(lab.name)
    shutil.rmtree(lab.folder, ignore_errors=True)


def start(lab: Lab, name: str) -> None:
    """Starts the services of a host. Like a service manager, each is started again when it ends.

    Raises:
        InputError: the host is unknown, runs services already, or has none.
    """
    host = lab.host(name)
    if network.processes(host.namespace):
        raise InputError(f"{name}: its services run already")
    services: Mapping[str, Callable[[Lab], None]] = {"head": _start_head, "mlflow": _start_mlflow}
    if name.startswith("worker"):
        _start_worker(lab, host)
    elif name in services:
        services[name](lab)
    else:
        raise InputError(f"{name}: has no services (allowed: {', '.join(h for h in lab.hosts if h != name)})")


def wait_ready(lab: Lab, name: str) -> None:
    """Waits until the services of `head` or `mlflow` answer.

    Raises:
        TimeoutError: they did not in three minutes.
    """
    url = {"head": f"{lab.dashboard}/api/version", "mlflow": f"{lab.mlflow}/health"}[name]
    _wait(lambda: answers(lab, url), f"{name}: {url} does not answer, see {_log(lab, name)}")


def wait_for_workers(lab: Lab, count: int) -> None:
    """Waits until Ray counts `count` hosts of workers alive.

    Raises:
        TimeoutError: it did not in three minutes.
    """
    _wait(lambda: len(alive_workers(lab)) == count, f"Ray does not count {count} workers, see {lab.folder / 'hosts'}")


def alive_workers(lab: Lab) -> list[str]:
    """Returns the addresses of the workers that Ray holds for alive."""
    got = fetch(lab, f"{lab.dashboard}/api/v0/nodes?limit=1000")
    nodes = json.loads(got.body)["data"]["result"]["result"] if got.status == 200 else []
    return [node["node_ip"] for node in nodes if node["state"] == "ALIVE" and not node["is_head_node"]]


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


def _start_head(lab: Lab) -> None:
    host = lab.hosts["head"]
    # fmt: off
    _service(lab, host, [
        "ray", "start", "--head", "--block", "--disable-usage-stats", "--include-dashboard=true", "--num-cpus=0",
        f"--node-ip-address={host.address}", f"--port={RAY_PORT}",
        f"--dashboard-host={host.address}", f"--dashboard-port={DASHBOARD_PORT}", "--object-store-memory=100000000",
    ])
    # fmt: on


def _start_worker(lab: Lab, host: Host) -> None:
    # fmt: off
    _service(lab, host, [
        "ray", "start", "--block", "--disable-usage-stats", f"--num-cpus={lab.cpus}",
        f"--address={lab.hosts['head'].address}:{RAY_PORT}", f"--node-ip-address={host.address}",
        "--object-store-memory=100000000",
    ])
    # fmt: on


def _start_mlflow(lab: Lab) -> None:
    host, folder = lab.hosts["mlflow"], lab.folder / "hosts" / "mlflow"
    programs, user = database_programs(), database_user()
    data, sockets, password = folder / "database", folder / "sockets", lab.secret("database")
    as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    if not data.exists():
        for path in (data, sockets):
            path.mkdir(mode=0o700)
            shutil.chown(path, user)
        handed = folder / "password"
        handed.touch(mode=0o600)
        handed.write_text(password)
        shutil.chown(handed, user)
        # fmt: off
        made = subprocess.run(
            [*as_user, str(programs / "initdb"), "-D", str(data), "-U", "mlflow", "--auth=scram-sha-256",
             f"--pwfile={handed}", "--no-sync", "-E", "UTF8"],
            capture_output=True, text=True,
        )
        # fmt: on
        handed.unlink()
        if made.returncode != 0:
            raise RuntimeError(f"initdb: {made.stderr.strip()}")
    # fmt: off
    _service(lab, host, [
        *as_user, str(programs / "postgres"), "-D", str(data), "-k", str(sockets), "-h", "127.0.0.1",
        "-p", str(DATABASE_PORT), "-c", "fsync=off",
    ], name="postgres")
    # fmt: on
    database = f"postgresql+psycopg2://mlflow:{password}@127.0.0.1:{DATABASE_PORT}/postgres"
    settings = folder / "auth.ini"
    settings.touch(mode=0o600)
    settings.write_text(
        f"[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = {database}\nadmin_username = {ADMIN}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        # Each request would otherwise hash the password anew, which takes longer than the request.
        "auth_cache_ttl_seconds = 300\n"
    )
    own = {
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_AUTH_ADMIN_PASSWORD": lab.secret("mlflow"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": lab.secret("sessions"),
        "MLFLOW_BACKEND_STORE_URI": database,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    # fmt: off
    _service(lab, host, [
        "mlflow", "server", "--app-name", "basic-auth", "--host", host.address, "--port", str(MLFLOW_PORT),
        "--allowed-hosts", f"{host.address}:{MLFLOW_PORT}", "--workers", "1", "--artifacts-destination", str(lab.folder / "artifacts"),
    ], own)
    # fmt: on


def _service(
    lab: Lab, host: Host, command: Sequence[str], more: Mapping[str, str] | None = None, *, name: str | None = None
) -> None:
    """Starts a service on a host, apart from this process, and starts it again whenever it ends."""
    restarted = ["sh", "-c", 'while :; do "$@"; sleep 1; done', "sh", *command]
    environment = {**lab.environment(), **(more or {})}
    # The services themselves are asked by address; this is for those who submit.
    environment.pop("RAY_ADDRESS")
    with _log(lab, name or host.name).open("ab") as log:
        subprocess.Popen(
            lab.command(host, restarted),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd="/", start_new_session=True,
        )  # fmt: skip


def _log(lab: Lab, name: str) -> Path:
    return lab.folder / "hosts" / f"{name}.log"


def _wait(ready: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(complaint)
        time.sleep(_POLL_SECONDS)


def database_programs() -> Path:
    """Returns the folder of PostgreSQL's server programs, the newest where there are several.

    Raises:
        InputError: PostgreSQL is not installed.
    """
    found = shutil.which("postgres")
    if found is not None:
        return Path(found).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if not folders:
        raise InputError("PostgreSQL's server is not installed; on Debian and Ubuntu: apt-get install postgresql")
    return folders[-1]


def database_user() -> str:
    """Returns the user that PostgreSQL runs as, which refuses to run as root."""
    users = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in users else "nobody"
