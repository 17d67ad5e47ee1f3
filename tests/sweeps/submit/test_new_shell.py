"""The pages' lines for a cluster of one machine, in a new shell: no variable of Ray's, no activated environment."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tensorrl.sweeps import sweep_status

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
DEBUG = "tune_jobs/debug.yaml"
SMALL = """
name: NAME
games: [breakout]
variants: [VARIANT]
seeds: 1
steps: 80
settings: {learning_starts: 60}
evaluation: {final_episodes: 1, epsilon: 1.0}
"""


def lines_for_one_machine() -> list[str]:
    """The commands of the pages' block that starts a head; every page that has one has the same."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    blocks = {
        block
        for page in pages
        for block in re.findall(r"```\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        if "ray start --head" in block
    }
    (block,) = blocks
    return [line.split("   #")[0].strip() for line in block.splitlines() if line.strip()]


def free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()


class Shell:
    """A shell as it is after a login: HOME and a PATH of the system's, nothing else."""

    def __init__(self, home: Path, *, activated: bool) -> None:
        self.home = home
        gcs, self.dashboard, agent, agent_grpc, client = free_ports(5)
        # A Unix socket's path has 107 letters at most, less than pytest's folders leave.
        self.temporary = Path(f"/tmp/tensorrl-shell-{os.getpid()}-{gcs}")
        # What lets several heads live on one machine, and nothing else.
        self.apart = (
            f"--node-ip-address=127.0.0.1 --port={gcs} --dashboard-port={self.dashboard} "
            f"--dashboard-agent-listen-port={agent} --dashboard-agent-grpc-port={agent_grpc} "
            f"--ray-client-server-port={client} --object-store-memory=100000000 --num-cpus=2 "
            f"--temp-dir={self.temporary}"
        )
        self.path = f"{BIN}:/usr/bin:/bin" if activated else "/usr/bin:/bin"

    def run(self, line: str, file: Path) -> str:
        line = line.replace(".venv/bin/", f"{shlex.quote(str(BIN))}/").replace(DEBUG, str(file))
        line = line.replace("127.0.0.1:8265", f"127.0.0.1:{self.dashboard}")
        line = line.replace("ray start --head", f"ray start --head {self.apart}")
        done = subprocess.run(
            ["bash", "-c", line], env={"HOME": str(self.home), "PATH": self.path},
            cwd=ROOT, capture_output=True, text=True, timeout=1_800,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout[-3_000:]}{done.stderr[-3_000:]}"
        return done.stdout + done.stderr

    def end(self) -> None:
        """What `ray stop` does, to the processes of this head only."""
        mine = [p for p in psutil.process_iter(["cmdline"]) if str(self.temporary) in " ".join(p.info["cmdline"] or ())]
        below = [child for process in mine for child in process.children(recursive=True)]
        for process in {*mine, *below}:
            process.terminate()
        for process in psutil.wait_procs([*mine, *below], timeout=20)[1]:
            process.kill()
        shutil.rmtree(self.temporary, ignore_errors=True)


@pytest.fixture(params=[False, True], ids=["plain", "activated"])
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shell]:
    made = Shell(tmp_path, activated=request.param)
    try:
        yield made
    finally:
        made.end()


@pytest.mark.slow
def test_the_lines_for_one_machine_start_a_head_submit_by_both_ways_and_watch(shell: Shell, tmp_path: Path) -> None:
    ours, rays = tmp_path / "ours.yaml", tmp_path / "rays.yaml"
    ours.write_text(SMALL.replace("NAME", "ours").replace("VARIANT", "denoised"))
    rays.write_text(SMALL.replace("NAME", "rays").replace("VARIANT", "rainbow"))
    said = {}
    for line in lines_for_one_machine():
        if "ray stop" not in line:
            file = rays if "ray job submit" in line else ours
            said[line] = shell.run(line.replace("status debug", "status ours"), file)
    (by_ours,) = [text for line, text in said.items() if "tensorrl submit" in line]
    (by_ray,) = [text for line, text in said.items() if "ray job submit" in line]
    (watched,) = [text for line, text in said.items() if "tensorrl status" in line]
    assert re.search(r"job tensorrl-ours-\S+: SUCCEEDED", by_ours)
    assert f"the cluster requires a token: sending the one from {tmp_path}/.ray/auth_token" in by_ours
    assert "succeeded" in by_ray
    assert "1 of 1 cells finished" in watched
    for name in ("ours", "rays"):
        assert [row.state for row in sweep_status(tmp_path / "runs", name).rows] == ["finished"]
    assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o077 == 0
