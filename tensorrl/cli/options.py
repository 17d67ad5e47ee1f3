"""Options that several commands share, their completion, and the parser of `--set`."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import MutableMapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from tensorrl.errors import InputError, shown

MOST_SEED = 2**31 - 1
SWEEP_FILES = ("*.yaml", "*.yml", "tune_jobs/*.yaml")


def _setting_fields() -> dict[str, Any]:
    from tensorrl.trial.settings import Settings

    return dict(Settings.model_fields)


def join_bash_words(environment: MutableMapping[str, str]) -> None:
    """Prepares completion in Bash, which splits `--set KEY=VALUE` into three words and completes the last one alone.

    The words of each pair are joined again. For the pair at the cursor, `complete_settings` gets the key from
    `TENSORRL_COMPLETED_KEY` and offers values alone.

    Args:
        environment: the process's environment, with what Bash says of the command line; it is changed.
    """
    if environment.get("_TENSORRL_COMPLETE") != "complete_bash" or not environment.get("COMP_CWORD", "").isdigit():
        return
    words, at = environment.get("COMP_WORDS", "").split(), int(environment["COMP_CWORD"])
    before, current = words[:at], words[at] if at < len(words) else ""
    if current == "=":
        before, current = [*before, "="], ""
    joined: list[str] = []
    for word in before:
        if joined and (word == "=" or joined[-1].endswith("=")):
            joined[-1] += word
        else:
            joined.append(word)
    if joined and joined[-1].endswith("="):
        key = joined.pop().removesuffix("=")
        if key.startswith("-"):
            joined.append(key)
        else:
            environment["TENSORRL_COMPLETED_KEY"] = key
    environment["COMP_WORDS"] = shlex.join([*joined, current]) if current else shlex.join(joined)
    environment["COMP_CWORD"] = str(len(joined))


def complete_settings(incomplete: str) -> list[str]:
    """Completes names of settings; after `=`, completes a setting's values, or offers its default if it has no list."""
    fields = _setting_fields()
    key = os.environ.get("TENSORRL_COMPLETED_KEY")
    if key is not None:
        return _offered(fields[key]) if key in fields else []
    name, equals, _ = incomplete.partition("=")
    if equals:
        return [f"{name}={value}" for value in _offered(fields[name])] if name in fields else []
    found = [each for each in fields if each.startswith(incomplete)]
    if len(found) != 1:
        return [f"{each}=" for each in found]
    # A shell adds a space after the only candidate, so there are always two that begin with `NAME=`.
    values = _offered(fields[found[0]])
    return [f"{found[0]}={value}" for value in (values if len(values) > 1 else ["", *values])]


def _offered(field: Any) -> list[str]:
    default = [] if field.default in (None, {}) else [f"{field.default}"]
    return allowed_values(field.annotation) or default


def allowed_values(annotation: Any) -> list[str]:
    """Returns the values of a setting with few of them: its choices, true and false, null if it may be unset."""
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    if annotation is bool:
        return ["true", "false"]
    parts = get_args(annotation)
    return [*dict.fromkeys(each for part in parts for each in allowed_values(part))] + (
        ["null"] if type(None) in parts else []
    )


def complete_games(incomplete: str) -> list[str]:
    """Completes names of games."""
    from tensorrl import games

    found = [name for name in games.ALE_GAMES if name.startswith(incomplete.lower())]
    # The games of Atari 100k come first; the others are only offered if none of these matches.
    return sorted(found, key=lambda name: name not in games.GAMES)


def complete_variants(incomplete: str) -> list[str]:
    """Completes names of variants."""
    from tensorrl.trial.variants import VARIANTS

    return [name for name in VARIANTS if name.startswith(incomplete)]


def complete_sweep_files(incomplete: str) -> list[str]:
    """Completes sweep files in this folder and in `tune_jobs`."""
    found = (str(path) for pattern in SWEEP_FILES for path in sorted(Path().glob(pattern)))
    return [name for name in found if name.startswith(incomplete)]


def complete_sweeps(incomplete: str) -> list[str]:
    """Completes names of sweeps in the default store, then sweep files."""
    return [*(name for name in _sweeps_of_store() if name.startswith(incomplete)), *complete_sweep_files(incomplete)]


def _sweeps_of_store() -> list[str]:
    from tensorrl.sweeps.store.layout import store_path, sweep_names

    return sweep_names(store_path(None))


def complete_devices(incomplete: str) -> list[str]:
    """Devices."""
    return [name for name in ("auto", "cpu", "cuda") if name.startswith(incomplete)]


Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting; may be repeated. `tensorrl settings` lists them.",
        autocompletion=complete_settings,
    ),
]
Game = Annotated[
    str, typer.Option(help="A game, e.g. pong or ALE/Pong-v5; see `tensorrl games`.", autocompletion=complete_games)
]
Variant = Annotated[str, typer.Option(help="A variant; see `tensorrl variants`.", autocompletion=complete_variants)]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.", autocompletion=complete_devices)]
Threads = Annotated[int | None, typer.Option(help="CPU threads (default: PyTorch's choice).")]
SweepFile = Annotated[Path, typer.Argument(help="A sweep file (YAML).", autocompletion=complete_sweep_files)]
Sweep = Annotated[
    str,
    typer.Argument(
        metavar="NAME|FILE",
        help="The name of a sweep in the store, or its file.",
        autocompletion=complete_sweeps,
    ),
]


def print_json(value: Any) -> None:
    """Prints a value as JSON."""
    print(json.dumps(value, indent=2))


def parse_overrides(pairs: list[str] | None) -> dict[str, Any]:
    """Turns `key=value` pairs into settings. Values are YAML; a dotted key sets one entry of `ranks`.

    Raises:
        InputError: a pair has no "=", a value is not valid YAML, or a key is given twice.
    """
    from tensorrl.trial.yaml_input import parse_yaml

    overrides: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise InputError(f"--set {shown(pair)}: expected KEY=VALUE, e.g. --set compression=7.5")
        value = parse_yaml(text, where=f"--set {shown(pair)}")
        flat = key.replace(".", "_").lower()
        name, _, inner = (flat, "", "") if flat in _setting_fields() else key.partition(".")
        target = overrides.setdefault(name, {}) if inner else overrides
        leaf = inner or name
        if not isinstance(target, dict) or leaf in target:
            raise InputError(f"--set {shown(pair)}: {key} is given twice")
        target[leaf] = value
    return overrides
