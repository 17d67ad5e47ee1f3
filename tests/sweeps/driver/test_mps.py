"""MPS is started and ended by its protocol. No card is here: a script stands in for NVIDIA's control program."""

import os

import pytest

from tensorrl.errors import InputError
from tensorrl.sweeps.driver import mps

SCRIPT = """#!/bin/sh
echo "$CUDA_MPS_PIPE_DIRECTORY|$CUDA_MPS_LOG_DIRECTORY|$*|$([ "$1" = -d ] || cat)" >> {log}
exit {code}
"""


@pytest.fixture
def control(tmp_path, monkeypatch):
    def install(code=0):
        program = tmp_path / mps.CONTROL
        program.write_text(SCRIPT.format(log=tmp_path / "calls", code=code))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        for name in mps.VARIABLES:
            monkeypatch.delenv(name, raising=False)
        return tmp_path / "calls"

    return install


def test_a_daemon_lives_as_long_as_the_block_in_a_folder_of_its_own(control):
    calls = control()
    with mps.daemon() as folder:
        assert [os.environ[name] for name in mps.VARIABLES] == [str(folder / "pipe"), str(folder / "log")]
        assert (folder / "pipe").stat().st_mode & 0o777 == 0o700
        assert folder.stat().st_mode & 0o777 == 0o700
        # A socket `control` must fit below it.
        assert len(str(folder / "pipe" / "control")) < 100
    assert calls.read_text().splitlines() == [
        f"{folder}/pipe|{folder}/log|-d|",
        f"{folder}/pipe|{folder}/log||quit",
    ]
    assert not any(name in os.environ for name in mps.VARIABLES)
    assert not folder.exists()


def test_a_daemon_ends_where_the_block_raises_and_one_that_does_not_start_is_one_line(control):
    calls = control()
    with pytest.raises(KeyError), mps.daemon():
        raise KeyError
    assert calls.read_text().splitlines()[-1].endswith("|quit")
    control(code=1)
    with pytest.raises(InputError, match=r"resources.mps: .* does not start"), mps.daemon():
        pass
    assert not any(name in os.environ for name in mps.VARIABLES)


@pytest.mark.parametrize(
    ("wanted", "gpus", "joins", "starts"),
    [("off", 1, False, False), ("auto", 1, False, True), ("auto", 0, False, False), ("auto", 1, True, False),
     ("on", 1, False, True)],
)  # fmt: skip
def test_a_sweep_starts_it_where_it_is_allowed_and_there(control, wanted, gpus, joins, starts):
    control()
    assert mps.is_wanted(wanted, gpus=gpus, joins_ray=joins) is starts


def test_on_is_refused_where_there_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"resources\.mps: on, but this machine has no GPU"):
        mps.is_wanted("on", gpus=0, joins_ray=False)
    with pytest.raises(InputError, match="is not on the PATH"):
        mps.is_wanted("on", gpus=1, joins_ray=False)
    assert not mps.is_wanted("auto", gpus=1, joins_ray=False)
