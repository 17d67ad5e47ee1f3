"""Completion in Bash, which takes `KEY=VALUE` apart."""

from __future__ import annotations

import pytest

from tensorrl.cli.options import complete_settings, join_bash_words


@pytest.mark.parametrize(
    ("words", "at", "joined", "key"),
    [
        ("tensorrl train --set factorization =", 4, "tensorrl train --set", "factorization"),
        ("tensorrl train --set factorization = t", 5, "tensorrl train --set t", "factorization"),
        ("tensorrl train --set n_step = 3 --set noisy = f", 9, "tensorrl train --set n_step=3 --set f", "noisy"),
        ("tensorrl train --set factor", 3, "tensorrl train --set factor", None),
        ("tensorrl train --device = c", 4, "tensorrl train --device c", None),
        ("tensorrl train", 2, "tensorrl train", None),
    ],
)
def test_pairs_are_joined_and_the_key_at_the_cursor_is_kept(words: str, at: int, joined: str, key: str | None) -> None:
    environment = {"_TENSORRL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(at)}
    join_bash_words(environment)
    assert environment["COMP_WORDS"] == joined
    assert environment.get("TENSORRL_COMPLETED_KEY") == key
    whole = at < len(words.split()) and not words.endswith("=")
    assert int(environment["COMP_CWORD"]) == len(joined.split()) - whole


def test_other_shells_are_left_alone() -> None:
    environment = {"_TENSORRL_COMPLETE": "complete_zsh", "COMP_WORDS": "tensorrl a = b", "COMP_CWORD": "3"}
    before = dict(environment)
    join_bash_words(environment)
    assert environment == before


def test_after_the_sign_bash_gets_the_values_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "factorization=tucker" in complete_settings("factorization=")
    monkeypatch.setenv("TENSORRL_COMPLETED_KEY", "factorization")
    assert complete_settings("") == ["none", "tucker", "cp", "tt"]
    monkeypatch.setenv("TENSORRL_COMPLETED_KEY", "nonsense")
    assert complete_settings("") == []


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("kfac_d", ["kfac_damping=", "kfac_damping_end=", "kfac_damping_decay="]),
        ("optimi", ["optimizer=adam", "optimizer=kfac"]),
        # Two candidates each, so that no shell puts a space after the sign.
        ("lear", ["learning_rate=", "learning_starts="]),
        ("learning_r", ["learning_rate=", "learning_rate=0.0001"]),
        ("compr", ["compression=", "compression=null"]),
        ("nonsense", []),
        ("discount=", ["discount=0.99"]),
    ],
)
def test_a_name_is_completed_up_to_its_sign(typed: str, offered: list[str]) -> None:
    assert complete_settings(typed) == offered
