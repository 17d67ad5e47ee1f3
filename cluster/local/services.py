"""What runs on the hosts: Ray's head and workers, PostgreSQL, and an MLflow server with passwords."""

from __future__ import annotations

import pwd
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.local.lab import ADMIN, DASHBOARD_PORT, DATABASE_PORT, MLFLOW_PORT, RAY_PORT, Lab
from cluster.local.network import Host
from tensorrl.errors import InputError


def start_head(lab: Lab) -> None:
    """Starts Ray's head, which runs no trial."""
    host = lab.hosts["head"]
    # fmt: off
    _service(lab, host, [
        "ray", "start", "--head", "--block", "--disable-usage-stats", "--include-dashboard=true", "--num-cpus=0",
        f"--node-ip-address={host.address}", f"--port={RAY_PORT}",
        f"--dashboard-host={host.address}", f"--dashboard-port={DASHBOARD_PORT}", "--object-store-memory=100000000",
    ])
    # fmt: on


def start_worker(lab: Lab, host: Host) -> None:
    """Starts a Ray worker, which joins the head."""
    # fmt: off
    _service(lab, host, [
        "ray", "start", "--block", "--disable-usage-stats", f"--num-cpus={lab.cpus}",
        f"--address={lab.hosts['head'].address}:{RAY_PORT}", f"--node-ip-address={host.address}",
        "--object-store-memory=100000000",
    ])
    # fmt: on


def start_mlflow(lab: Lab) -> None:
    """Starts PostgreSQL, made where there is none yet, and the MLflow server with passwords on it."""
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
        "--allowed-hosts", f"{host.address}:{MLFLOW_PORT}", "--workers", "1",
        "--artifacts-destination", str(lab.folder / "artifacts"),
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
    with lab.log(name or host.name).open("ab") as log:
        subprocess.Popen(
            lab.command(host, restarted),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd="/", start_new_session=True,
        )  # fmt: skip


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
