"""The commands that list games, variants, settings and coefficients."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tensorrl.cli.options import Json, Set, complete_games, complete_variants, parse_overrides, print_json
from tensorrl.errors import InputError


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("games")(games_command)
    app.command("variants")(variants_command)
    app.command("settings")(settings_command)
    app.command("coefficients")(coefficients_command)


def games_command(
    every: Annotated[bool, typer.Option("--all", help="List every game of ALE, not only those of Atari 100k.")] = False,
    as_json: Json = False,
) -> None:
    """List games with their actions, random score and human score: the 26 of Atari 100k, or all of ALE."""
    from tensorrl import games

    rows = [
        {"name": g.name, "title": g.title, "actions": g.actions, "random": g.random, "human": g.human}
        for g in (games.ALE_GAMES if every else games.GAMES).values()
    ]
    if as_json:
        print_json(rows)
        return
    from tensorrl.cli.tables import print_table

    print_table(rows)


def variants_command(as_json: Json = False) -> None:
    """List the variants: what each changes about data-efficient Rainbow."""
    from tensorrl.trial.variants import VARIANTS

    rows = [{"name": v.name, "summary": v.summary, "settings": dict(v.changes)} for v in VARIANTS.values()]
    if as_json:
        print_json(rows)
        return
    from tensorrl.cli.tables import print_table

    print_table([{"name": r["name"], "summary": r["summary"]} for r in rows])


def settings_command(
    variant: Annotated[
        str, typer.Option(help="Show the values of this variant.", autocompletion=complete_variants)
    ] = "rainbow",
    as_json: Json = False,
) -> None:
    """List every setting that --set takes, with its value, what is allowed, and its meaning."""
    from tensorrl.trial import variants
    from tensorrl.trial.allowed import allowed
    from tensorrl.trial.settings import Settings

    values = variants.resolve(variant).model_dump(mode="json")
    rows = [
        {"name": name, "value": values[name], **allowed(Settings, name).description(), "meaning": field.description}
        for name, field in Settings.model_fields.items()
    ]
    if as_json:
        print_json(rows)
        return
    from tensorrl.cli.tables import print_table

    print_table([{column: row[column] for column in ("name", "value", "allowed", "meaning")} for row in rows])


def coefficients_command(
    game: Annotated[str | None, typer.Option(help="One game.", autocompletion=complete_games)] = None,
    all_games: Annotated[bool, typer.Option("--all-games", help="All 26 games of Atari 100k.")] = False,
    variant: Annotated[
        str | None, typer.Option(help="One variant (default: all).", autocompletion=complete_variants)
    ] = None,
    overrides: Set = None,
    as_json: Json = False,
) -> None:
    """Count learned coefficients, layer by layer, without building a network."""
    from tensorrl import games
    from tensorrl.trial import variants
    from tensorrl.trial.coefficients import count

    if all_games == (game is not None):
        raise InputError("coefficients: give either --game NAME or --all-games")
    named = [games.get(game)] if game is not None else list(games.GAMES.values())
    changes = parse_overrides(overrides)
    chosen = [variant] if variant else list(variants.VARIANTS)
    rows = [count(g, name, changes) for g in named for name in chosen]
    if as_json:
        print_json(rows[0] if game is not None and variant else rows)
    elif len(rows) == 1:
        _print_layers(rows[0])
    else:
        _print_counts(rows)


def _print_layers(row: dict[str, Any]) -> None:
    """Prints one network, one line per layer."""
    from tensorrl.cli.tables import print_table

    lines = [
        {
            "layer": layer,
            "coefficients": f"{number:,}",
            "share": f"{number / row['coefficients']:.1%}",
            "ranks": " × ".join(map(str, row["ranks"].get(layer, ()))),
        }
        for layer, number in row["layers"].items()
    ]
    print_table(lines)
    print(
        f"{row['variant']} on {row['game']} ({row['actions']} actions): {row['coefficients']:,} learned coefficients, "
        f"compression ratio {row['compression_ratio']:.2f}"
    )


def _print_counts(rows: list[dict[str, Any]]) -> None:
    """Prints many networks, one line per network and one column per layer."""
    from tensorrl.cli.tables import print_table

    layers = list(dict.fromkeys(layer for row in rows for layer in row["layers"]))
    print_table(
        [
            {
                "game": row["game"],
                "actions": row["actions"],
                "variant": row["variant"],
                "coefficients": f"{row['coefficients']:,}",
                "ratio": f"{row['compression_ratio']:.2f}",
                **{layer: f"{row['layers'][layer]:,}" if layer in row["layers"] else "" for layer in layers},
            }
            for row in rows
        ]
    )
    print("For the ranks, name one --game and one --variant, or use --json.")
