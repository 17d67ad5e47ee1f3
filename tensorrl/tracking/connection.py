"""The connection to the MLflow record: quiet, and quick to fail if the server does not answer."""

from __future__ import annotations

import logging
import os
import re
import warnings
from pathlib import Path
from typing import Any

from tensorrl import files
from tensorrl.errors import InputError
from tensorrl.files import file_lock
from tensorrl.uris import HIDDEN, holds_secret, redact_uri, split_login, whole

DATABASE_FILE = "mlflow.db"
ARTIFACTS_FOLDER = "mlartifacts"
URI_VARIABLE = "MLFLOW_TRACKING_URI"
_SQLITE = "sqlite:///"
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # MLflow prints links to every run on standard output, where a command may be printing JSON.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # MLflow's own retries block for minutes and may create a run twice; the record retries itself, after a check.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}


def tracking_uri_for(directory: Path, given: str | None = None) -> str:
    """Returns the tracking URI for a trial's folder, with absolute paths (trials run in other working folders).

    A password in the URI is hidden (`http://user:***@host`), so the URI can be stored and shown. The full URI stays in
    the environment of this process and its children, where `connect` finds it.

    Args:
        directory: the trial's folder.
        given: an explicit URI, which takes precedence; then comes `MLFLOW_TRACKING_URI`; then an SQLite file next to
            the folder.

    Raises:
        InputError: MLflow cannot keep an SQLite file under that path.
    """
    uri = given or os.environ.get(URI_VARIABLE)
    if not uri:
        beside = directory.absolute().parent / DATABASE_FILE
        _check_path(beside)
        uri = f"{_SQLITE}{beside}"
    if holds_secret(uri):
        os.environ[URI_VARIABLE] = uri
        return redact_uri(uri)
    path = sqlite_path(uri)
    if path is not None:
        _check_path(path)
        _, mark, query = uri.partition("?")
        return f"{_SQLITE}{path}{mark}{query}"
    return uri if ":" in uri or uri.startswith("databricks") else str(Path(uri).absolute())


def _check_path(path: Path) -> None:
    """Refuses characters that have a meaning in a URI, and characters that MLflow unquotes inconsistently."""
    fault = re.search(r"\?|%[0-9A-Fa-f]{2}|[\udc80-\udcff]", str(path))
    if fault is not None:
        what = "bytes that are not UTF-8" if fault[0] >= "\udc80" else repr(fault[0])
        raise InputError(
            f"{path.parent}: MLflow cannot keep its SQLite file in a folder whose path contains {what} "
            "(allowed: a folder of another name, or a server in MLFLOW_TRACKING_URI)"
        )


def sqlite_path(uri: str) -> Path | None:
    """Returns the absolute path of the file behind an SQLite tracking URI, or None for any other store."""
    if not uri.startswith(_SQLITE):
        return None
    name = uri.removeprefix(_SQLITE).partition("?")[0]
    return Path(name).absolute() if name and name != ":memory:" else None


def artifact_location(uri: str, experiment: str) -> str | None:
    """Returns where a new experiment keeps its artifacts: next to an SQLite file; None leaves it to the server."""
    path = sqlite_path(uri)
    folder = "".join(c if c.isalnum() or c in "-_." else "_" for c in experiment)
    return None if path is None else (path.parent / ARTIFACTS_FOLDER / folder).as_uri()


def connect(uri: str) -> Any:
    """Returns an `MlflowClient` for a server, or for an SQLite file, which is created if it does not exist.

    MLflow is imported here and not at the top: the import takes a second, and so runs outside the training thread.

    Args:
        uri: as `tracking_uri_for` returns it.

    Raises:
        Exception: any error of MLflow or the database, if it cannot be reached or has another version.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    uri = _with_login(uri)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        path = sqlite_path(uri)
        if path is None:
            return mlflow.MlflowClient(tracking_uri=uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(path.with_name(f".{path.name}.lock")):
            if not path.exists():
                _create_sqlite(path)
            return mlflow.MlflowClient(tracking_uri=uri)


def _with_login(uri: str) -> str:
    """Returns the URI to connect to. A server's login is moved to the variables from which MLflow's client reads it.

    Errors of MLflow therefore cannot show the password.
    """
    uri = whole(uri, URI_VARIABLE)
    if not uri.lower().startswith(("http://", "https://")):
        return uri
    bare, login = split_login(uri)
    if login.get("password") == HIDDEN:
        # Another process has the password. This one may have its own login.
        return bare
    if login.get("password"):
        os.environ.update({"MLFLOW_TRACKING_USERNAME": login["user"], "MLFLOW_TRACKING_PASSWORD": login["password"]})
        return bare
    return uri


def _create_sqlite(path: Path) -> None:
    """Creates a database under a temporary name and renames it, because MLflow cannot repair a half-made schema."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    # Under a fixed name, not a draft's, because SQLite keeps a journal next to it that a kill may leave, too.
    partial = path.with_name(f".{path.name}.partial")
    for leftover in (partial, partial.with_name(f"{partial.name}-journal")):
        leftover.unlink(missing_ok=True)
    made = SqlAlchemyStore(f"{_SQLITE}{partial}", (path.parent / ARTIFACTS_FOLDER).as_uri())
    made.engine.dispose()
    files.move(partial, path)


def prepare_database(uri: str) -> None:
    """Creates the schema of an SQLite file once, so trials that start together find it ready.

    Does nothing for a server, which creates its own.

    Args:
        uri: as `tracking_uri_for` returns it.
    """
    if sqlite_path(uri) is not None:
        connect(uri)
