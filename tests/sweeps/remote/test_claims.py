"""Claims of cells on a remote: one holder at a time, whoever dies, sleeps or asks at the same moment."""

from __future__ import annotations

import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tensorrl.errors import InputError
from tensorrl.sweeps.remote import claim
from tensorrl.sweeps.remote.claim import Claim
from tensorrl.sweeps.remote.driver_side import check_remote
from tensorrl.sweeps.remote.files import Remote
from tensorrl.sweeps.remote.kinds import Held
from tensorrl.sweeps.store.layout import open_store


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "STALE_SECONDS", 1.0)
    monkeypatch.setattr(claim, "BEAT_SECONDS", 0.4)


@pytest.mark.usefixtures("quick")
def test_a_claim_is_kept_lost_and_inherited(remote: Remote, stores: list[Path]) -> None:
    here, there = (Claim(remote, ".locks/k.json", store) for store in stores)
    assert here.take()

    def holder_lives(seconds: float) -> None:
        time.sleep(seconds)
        here.keep()

    assert not there.take(sleep=holder_lives)
    assert there.take()  # nobody kept it
    assert there.sure
    here.keep()
    assert here.lost
    here.release()  # of another's claim
    there.keep()
    assert not there.lost
    there.release()
    started = time.monotonic()
    assert Claim(remote, ".locks/k.json", stores[0]).take()
    assert Claim(remote, ".locks/k.json", stores[0]).take(), "whoever shares the store holds its lock"
    assert time.monotonic() - started < 1.0


class _Taken(Exception):
    """Somebody holds the claim, for which `take` would wait."""


def _would_wait(seconds: float) -> None:
    raise _Taken


def _contend(remote: Remote, name: str, stores: list[Path]) -> list[bool]:
    """Takes one claim from two machines, each of which has looked at it before the other writes."""
    looked, claims = threading.Barrier(len(stores)), [Claim(remote, name, store) for store in stores]

    def take(one: Claim) -> bool:
        look, first = one.remote.look, [True]

        def look_together(name: str) -> Held | None:
            found = look(name)
            if first.pop() if first else False:
                looked.wait(60)
            return found

        one.remote = Remote(remote.uri)
        one.remote.look = look_together  # type: ignore[method-assign]
        try:
            return one.take(sleep=_would_wait)
        except _Taken:
            return False

    with ThreadPoolExecutor(len(stores)) as pool:
        won = list(pool.map(take, claims))
    # Who won holds it, and nobody else thinks so.
    assert [claim.sure for claim in claims] == won
    assert [claim.renew() for claim in claims if claim.sure] == [True]
    return won


def test_of_two_claims_at_one_moment_one_wins_always(remote: Remote, stores: list[Path]) -> None:
    tries, wins = 200 if remote.uri.startswith("s3:") else 50, [0, 0]
    for number in range(tries):
        name = f".locks/{number}.json"
        # Every other cell was held before, by a process that let it go or by a dead one of an empty claim.
        if number % 2:
            remote.write(name, (b"{}", b"not even JSON", b"")[number % 3])
        won = _contend(remote, name, stores)
        assert sum(won) == 1, f"try {number}: {won}"
        wins[won.index(True)] += 1
    assert sum(wins) == tries


@pytest.mark.usefixtures("quick")
def test_of_two_that_take_a_dead_ones_claim_over_one_gets_it(
    remote: Remote, stores: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "STALE_SECONDS", 0.2)
    open_store(tmp_path / "third")
    for number in range(10):
        name = f".locks/{number}.json"
        assert Claim(remote, name, tmp_path / "third").take()
        claims = [Claim(remote, name, store) for store in stores]
        with ThreadPoolExecutor(2) as pool:
            won = list(pool.map(lambda one: one.take(sleep=lambda _: time.sleep(0.05)), claims))
        assert sum(won) == 1, f"try {number}: {won}"


def test_a_claim_whose_answer_was_lost_is_still_its_holders(remote: Remote, stores: list[Path]) -> None:
    one = Claim(remote, ".locks/k.json", stores[0])
    assert one.take()
    swap = remote.swap

    def lose_the_answer(name: str, content: bytes, held: Held | None) -> bool:
        swap(name, content, held)
        remote.swap = swap  # type: ignore[method-assign]
        raise OSError("no answer")

    remote.swap = lose_the_answer  # type: ignore[method-assign]
    one.keep()
    assert one.renew()
    assert one.sure


def test_a_holder_that_slept_too_long_sends_nothing_until_it_has_asked(
    remote: Remote, stores: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Claim(remote, ".locks/k.json", stores[0])
    assert one.take()
    assert one.sure
    now = claim._now()
    monkeypatch.setattr(claim, "_now", lambda: now + claim.STALE_SECONDS)
    assert not one.sure
    assert not one.lost
    assert one.renew()
    assert one.sure


@pytest.mark.parametrize("kind", ["zip", "memory"])
def test_what_has_no_conditional_writes_takes_no_claims(kind: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "remote.zip", "w"):
        pass
    uri = {"zip": f"zip://::file://{tmp_path}/remote.zip", "memory": "memory://x"}[kind]
    with pytest.raises(InputError, match=r"cannot be used: .*no claim there could be exact \(allowed"):
        check_remote(Remote(uri))
