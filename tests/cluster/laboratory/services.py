"""What runs on the hosts: Ray's head and workers and an MLflow server, as the image starts them, and PostgreSQL."""

from __future__ import annotations

import pwd
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorrl.errors import InputError
from tests.cluster.laboratory.lab import ADMIN, DATABASE_PORT, MLFLOW_PORT, RAY_PORT, TRIALS, Lab
from tests.cluster.laboratory.network import Host

ENTRYPOINT = Path(__file__).parents[3] / "docker" / "entrypoint.sh"
"""What a container of the image runs: these hosts are what those of a real cluster are."""
_SMALL = "--object-store-memory=100000000"


def start_head(lab: Lab) -> None:
    """Starts Ray's head, which runs no trial."""
    _service(lab, lab.hosts["head"], [str(ENTRYPOINT), "head", _SMALL], {"RAY_PORT": str(RAY_PORT)})


def start_worker(lab: Lab, host: Host) -> None:
    """Starts a Ray worker, which joins the head."""
    head = {"RAY_HEAD": f"{lab.hosts['head'].address}:{RAY_PORT}"}
    _service(lab, host, [str(ENTRYPOINT), "worker", f"--num-cpus={lab.cpus}", _SMALL], head)


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
    own = {
        "MLFLOW_BACKEND_STORE_URI": database,
        "MLFLOW_AUTH_DATABASE_URI": database,
        "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN,
        "MLFLOW_AUTH_ADMIN_PASSWORD": lab.secret("mlflow"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": lab.secret("sessions"),
        "MLFLOW_TRIALS_USERNAME": TRIALS,
        "MLFLOW_TRIALS_PASSWORD": lab.secret("trials"),
        "MLFLOW_ARTIFACTS": str(lab.folder / "artifacts"),
        "MLFLOW_ALLOWED_HOSTS": f"{host.address}:{MLFLOW_PORT}",
        "MLFLOW_HOST": host.address,
        "MLFLOW_PORT": str(MLFLOW_PORT),
        "MLFLOW_WORKERS": "1",
    }
    _service(lab, host, [str(ENTRYPOINT), "mlflow-server"], own)


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
