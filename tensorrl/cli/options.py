"""What the parts of the command line share: options, their completion, and how settings are read from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from tensorrl.errors import InputError, shown

MOST_SEED = 2**31 - 1
SWEEP_FILES = ("*.yaml", "*.yml", "tune_jobs/*.yaml")


def _setting_fields() -> dict[str, Any]:
    from tensorrl.trial.settings import Settings

    return dict(Settings.model_fields)


def complete_settings(incomplete: str) -> list[str]:
    """Names of settings, and after `=` the values of those that have a few."""
    name, equals, _ = incomplete.partition("=")
    fields = _setting_fields()
    if not equals:
        return [f"{each}=" for each in fields]
    return [f"{name}={value}" for value in allowed_values(fields[name].annotation)] if name in fields else []


def allowed_values(annotation: Any) -> list[str]:
    """The values of a setting that has a few: of a choice, true and false, or null where it may be unset."""
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    if annotation is bool:
        return ["true", "false"]
    parts = get_args(annotation)
    return [*dict.fromkeys(each for part in parts for each in allowed_values(part))] + (
        ["null"] if type(None) in parts else []
    )


def complete_games(incomplete: str) -> list[str]:
    """Names of games."""
    from tensorrl import games

    found = [name for name in games.ALE_GAMES if name.startswith(incomplete.lower())]
    # Those of Atari 100k first: the others are looked for where none of them is meant.
    return sorted(found, key=lambda name: name not in games.GAMES)


def complete_variants(incomplete: str) -> list[str]:
    """Names of variants."""
    from tensorrl.trial.variants import VARIANTS

    return [name for name in VARIANTS if name.startswith(incomplete)]


def complete_sweep_files(incomplete: str) -> list[str]:
    """Sweep files here and in `tune_jobs`."""
    found = (str(path) for pattern in SWEEP_FILES for path in sorted(Path().glob(pattern)))
    return [name for name in found if name.startswith(incomplete)]


def complete_sweeps(incomplete: str) -> list[str]:
    """Names of the sweeps of the store that is used by default, then sweep files."""
    return [*(name for name in _sweeps_of_store() if name.startswith(incomplete)), *complete_sweep_files(incomplete)]


def _sweeps_of_store() -> list[str]:
    from tensorrl.sweeps.store.layout import store_path, sweep_names

    return sweep_names(store_path(None))


def complete_devices(incomplete: str) -> list[str]:
    """Devices."""
    return [name for name in ("auto", "cpu", "cuda") if name.startswith(incomplete)]


Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
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
Threads = Annotated[int | None, typer.Option(help="CPU threads; PyTorch's choice otherwise.")]
SweepFile = Annotated[Path, typer.Argument(help="A sweep file (YAML).", autocompletion=complete_sweep_files)]
Sweep = Annotated[
    str,
    typer.Argument(
        metavar="NAME|FILE",
        help="A sweep that was run in the store, or its file.",
        autocompletion=complete_sweeps,
    ),
]


def print_json(value: Any) -> None:
    """Prints a value as JSON."""
    print(json.dumps(value, indent=2))


def parse_overrides(pairs: list[str] | None) -> dict[str, Any]:
    """Turns `key=value` pairs into settings; values are YAML, dotted keys reach into `ranks`.

    Raises:
        InputError: a pair without "=", a value that is no YAML, or a key given twice.
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
