"""Sends a sweep to a Ray cluster as a job, after asking the cluster whether it can run it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tensorrl
from tensorrl.errors import InputError
from tensorrl.sweeps.grid.files import load_sweep
from tensorrl.sweeps.grid.spec import SweepSpec
from tensorrl.sweeps.submit.interpreter import HOOK
from tensorrl.sweeps.submit.probe import MARK
from tensorrl.sweeps.submit.token import MODE_VARIABLE, Token, find_token
from tensorrl.uris import holds_secret, redact, redact_uri

JOB_ENVIRONMENT = {
    # Ray's default is 3 seconds, too few for a trial to finish its hundred steps and write a checkpoint.
    "RAY_JOB_STOP_WAIT_TIME_S": "90",
    **HOOK,
}
_SENT = "sweep.yaml"
_PROBE_SECONDS = 300.0
_POLL_SECONDS = 1.0
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


class Cluster:
    """The job API of a Ray cluster.

    Ray's own client sends a token only if `RAY_AUTH_MODE` is `token`. This class also sends it if the variable is unset
    and the cluster asks for a token. A cluster asks for one if there was a token in the home folder of the user who
    started it.

    Args:
        address: the address of its dashboard, http://HOST:PORT.

    Attributes:
        token: the token that was sent because the cluster asked for it; None if Ray's client needed no help.

    Raises:
        InputError: no job API answers at the address, or it refuses the request.
    """

    def __init__(self, address: str) -> None:
        if not address.startswith(("http://", "https://")):
            raise InputError(f"--address {address}: not a dashboard's address (allowed: http://HOST:8265)")
        from ray.dashboard.modules import dashboard_sdk
        from ray.job_submission import JobSubmissionClient

        # Otherwise Ray prints every package that it uploads on standard error.
        for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
            logging.getLogger(name).setLevel(logging.ERROR)
        dashboard_sdk.cli_logger.configure(verbosity=-1)
        from ray.exceptions import AuthenticationError

        self.address = address
        self.token: Token | None = None
        try:
            try:
                self.client = JobSubmissionClient(address)
            except AuthenticationError:
                self.token = find_token()
                if self.token is None or os.environ.get(MODE_VARIABLE):
                    raise
                self.client = JobSubmissionClient(address, headers=self.token.headers)
        except AuthenticationError as error:
            raise InputError(f"--address {address}: {_refused(self.token, error)}") from None
        except Exception as error:
            raise InputError(f"--address {address}: no job API can be used there: {_line(error)}") from None

    def start(self, entrypoint: str, folder: Path, *, name: str, metadata: Mapping[str, str]) -> str:
        """Starts a job and returns its id.

        Args:
            entrypoint: the command.
            folder: the folder that is uploaded, and in which the command runs.
            name: the start of the job's id.
            metadata: the job's metadata.

        Raises:
            InputError: the command holds a password, or the cluster refuses it.
        """
        words = shlex.split(entrypoint)
        if redact(entrypoint) != entrypoint or any("://" in word and holds_secret(word) for word in words):
            raise InputError(
                f"{shlex.join(map(redact_uri, words))}: holds a password, which the cluster would keep (allowed: in "
                "the environment of the cluster's machines)"
            )
        environment = {**JOB_ENVIRONMENT, **_commit()}
        try:
            return str(
                self.client.submit_job(
                    entrypoint=entrypoint,
                    submission_id=f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(2).hex()}",
                    runtime_env={"working_dir": str(folder), "env_vars": environment},
                    metadata=dict(metadata),
                )
            )
        except Exception as error:
            raise InputError(f"--address {self.address}: the job was refused: {_line(error)}") from None

    def status(self, job: str) -> str:
        """Returns a job's status, such as "RUNNING"."""
        return str(self.client.get_job_status(job).value)

    def wait(self, job: str, seconds: float) -> str:
        """Waits until a job has ended and returns its log.

        Raises:
            InputError: the job did not end in time; it is then stopped.
        """
        deadline = time.monotonic() + seconds
        while self.status(job) not in _ENDED:
            if time.monotonic() > deadline:
                self.client.stop_job(job)
                raise InputError(f"--address {self.address}: the cluster's check did not end in {seconds:.0f} s")
            time.sleep(_POLL_SECONDS)
        return str(self.client.get_job_logs(job))

    def follow(self, job: str, write: Callable[[str], object]) -> str:
        """Writes a job's log as it grows, reconnects if the connection is lost, and returns the job's final status."""
        written = 0
        while True:
            try:
                written = asyncio.run(self._tail(job, write, written))
            except (RuntimeError, OSError):
                time.sleep(_POLL_SECONDS)
            status = self.status(job)
            if status in _ENDED:
                write(str(self.client.get_job_logs(job))[written:])
                return status

    async def _tail(self, job: str, write: Callable[[str], object], written: int) -> int:
        """Writes the log after its first `written` characters. Returns how many characters are written in all."""
        seen = 0
        async for text in self.client.tail_job_logs(job):
            new = text[max(0, written - seen) :]
            seen += len(text)
            if new:
                write(new)
                written = max(written, seen)
        return written

    def running(self, sweep: str, store: str) -> str | None:
        """Returns the id of a job that runs a sweep of this name in this store, or None."""
        for job in self.client.list_jobs():
            of = job.metadata or {}
            if job.status.value not in _ENDED and (of.get("sweep"), of.get("store")) == (sweep, store):
                return str(job.submission_id)
        return None


def check_cluster(cluster: Cluster, file: Path, *, out: str | None, remote: str | None = None) -> dict[str, Any]:
    """Checks whether the cluster can run a sweep, by running `probe` there as a job.

    Args:
        cluster: the cluster.
        file: the sweep file.
        out: the store's path in the cluster; None leaves it to the cluster's environment.
        remote: the remote of machines without a shared folder; None leaves it to the cluster's environment.

    Raises:
        InputError: the sweep cannot run there, or the cluster did not answer.
    """
    with packed(file) as folder:
        given = [*(["--out", out] if out else []), *(["--remote", remote] if remote else [])]
        command = ["python", "-m", "tensorrl.sweeps.submit.probe", _SENT, *given]
        job = cluster.start(shlex.join(command), folder, name="tensorrl-check", metadata={})
        log = cluster.wait(job, _PROBE_SECONDS)
    lines = [line for line in log.splitlines() if line.startswith(MARK)]
    if not lines:
        last = " | ".join([line for line in log.splitlines() if line.strip()][-3:])
        raise InputError(f"--address {cluster.address}: the cluster's check failed (job {job}): {last or 'no output'}")
    found: dict[str, Any] = json.loads(lines[-1].removeprefix(MARK))
    if "error" in found:
        raise InputError(f"in the cluster: {found['error']}")
    return found


def start_sweep(cluster: Cluster, file: Path, *, store: str | None, options: Sequence[str] = ()) -> str:
    """Starts a sweep as a job and returns the job's id.

    Args:
        cluster: the cluster.
        file: the sweep file.
        store: the store's path in the cluster; None leaves it to the cluster's environment.
        options: further options of `tensorrl sweep`.

    Raises:
        InputError: the file is not valid, or the cluster refuses the job.
    """
    spec = load_sweep(file)
    command = ["python", "-m", "tensorrl", "sweep", _SENT, *(["--out", store] if store else []), *options]
    metadata = {"sweep": spec.name, **({"store": store} if store else {})}
    with packed(file) as folder:
        return cluster.start(shlex.join(command), folder, name=f"tensorrl-{spec.name}", metadata=metadata)


@contextmanager
def packed(file: Path) -> Iterator[Path]:
    """Makes a folder with the files that a job needs: a copy of this package (about 1 MB) and the sweep file.

    The cluster therefore runs the same code that submits the job. It needs TensorRL's dependencies, not TensorRL.
    """
    with tempfile.TemporaryDirectory(prefix="tensorrl-job-") as name:
        folder = Path(name)
        source = Path(tensorrl.__file__).parent
        shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        shutil.copyfile(file, folder / _SENT)
        yield folder


def _commit() -> dict[str, str]:
    """Returns the commit of this source tree. The copy in the cluster cannot find it out."""
    from tensorrl import system

    found = system.commit()
    return {system.COMMIT_VARIABLE: found} if found else {}


def _line(error: BaseException) -> str:
    text = redact(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:299]}…"


def _refused(token: Token | None, error: BaseException) -> str:
    mode = os.environ.get(MODE_VARIABLE)
    if mode and mode.lower() != "token":
        return f"the cluster requires a token, but {MODE_VARIABLE}={mode} says to send none (allowed: token)"
    if mode or token:
        whose = f"it refuses the token of {token.place}: " if token else ""
        return f"no job API can be used there: {whose}{_line(error)}"
    return (
        "the cluster requires a token, but there is none in RAY_AUTH_TOKEN, in the file that RAY_AUTH_TOKEN_PATH "
        "names, or in ~/.ray/auth_token"
    )


def describe_job(spec: SweepSpec, cluster: Cluster, job: str) -> str:
    """Returns how to watch, stop and resume a job, as commands for the shell that this process runs in."""
    ray = "ray" if shutil.which("ray") else shlex.quote(str(Path(sys.executable).parent / "ray"))
    # Ray's own commands send a token only if the mode asks for it.
    command = f"{MODE_VARIABLE}=token {ray}" if cluster.token else ray
    address = redact_uri(cluster.address)
    return (
        f"sweep {spec.name} runs as job {job}\n"
        f"  follow: {command} job logs --address {address} --follow {job}\n"
        f"  stop:   {command} job stop --address {address} {job}   (its trials checkpoint first)\n"
        "  resume: give the same `tensorrl submit` command again"
    )
