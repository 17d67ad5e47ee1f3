"""The command `tensorrl`: thin over the library. Heavy imports wait until a command needs them."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tensorrl.cli import reports, results, sweeps
from tensorrl.cli.options import MOST_SEED, Json
from tensorrl.cli.options import print_json as _print_json
from tensorrl.cli.streams import finish, make_readable
from tensorrl.errors import InputError, one_line, shown
from tensorrl.uris import redact

# What a wrong option raises: of Typer's own copy of Click, or of Click itself, by version of Typer.
_ClickError: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Data-efficient Rainbow with few coefficients on Atari 100k.",
)


def _setting_fields() -> list[str]:
    from tensorrl.trial.settings import Settings

    return list(Settings.model_fields)


def _setting_names() -> list[str]:
    return [f"{name}=" for name in _setting_fields()]


Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting; may be repeated. `tensorrl settings` lists them.",
        autocompletion=_setting_names,
    ),
]


def main() -> None:
    """Runs the command line; bad input is one line on stderr and exit code 2."""
    make_readable()
    logging.basicConfig(level=logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Formatter())
    sys.exit(finish(_run()))


class _Formatter(logging.Formatter):
    """The bare message, also of a library, without passwords."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(record.getMessage())


def _run() -> int:
    """Returns the exit code; what is wrong is said in one line."""
    try:
        code = app(standalone_mode=False)
    except typer.Abort:
        return 1
    except _ClickError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
            return 2
        context = getattr(error, "ctx", None)
        place = context.command_path if context is not None else "tensorrl"
        said = one_line(f"{place}: {error.format_message()}")
    except InputError as error:
        said = f"tensorrl: {error}"
    except OSError as error:
        # What reads and writes files says better what is wrong where it can; a full disk can be anywhere.
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        said = one_line(f"tensorrl: {where}{error.strerror or error}")
    except MemoryError as error:
        said = one_line(f"tensorrl: not enough memory: {error}")
    else:
        return code if isinstance(code, int) else 0
    print(said, file=sys.stderr)
    return 2


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


@app.command("games")
def games_command(
    every: Annotated[bool, typer.Option("--all", help="Every game of ALE, not those of Atari 100k alone.")] = False,
    as_json: Json = False,
) -> None:
    """List the 26 games of Atari 100k, or all that can be played: actions, and a random agent's and a human's score."""
    from tensorrl import games

    rows = [
        {"name": g.name, "title": g.title, "actions": g.actions, "random": g.random, "human": g.human}
        for g in (games.ALE_GAMES if every else games.GAMES).values()
    ]
    if as_json:
        _print_json(rows)
        return
    from tensorrl.cli.tables import print_table

    print_table(rows)


@app.command("variants")
def variants_command(as_json: Json = False) -> None:
    """List the variants: what each changes about data-efficient Rainbow."""
    from tensorrl.trial.variants import VARIANTS

    rows = [{"name": v.name, "summary": v.summary, "settings": dict(v.changes)} for v in VARIANTS.values()]
    if as_json:
        _print_json(rows)
        return
    from tensorrl.cli.tables import print_table

    print_table([{"name": r["name"], "summary": r["summary"]} for r in rows])


@app.command("settings")
def settings_command(
    variant: Annotated[str, typer.Option(help="Show the values of this variant.")] = "rainbow", as_json: Json = False
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
        _print_json(rows)
        return
    from tensorrl.cli.tables import print_table

    print_table([{column: row[column] for column in ("name", "value", "allowed", "meaning")} for row in rows])


@app.command("coefficients")
def coefficients_command(
    game: Annotated[str | None, typer.Option(help="One game.")] = None,
    all_games: Annotated[bool, typer.Option("--all-games", help="All 26 games.")] = False,
    variant: Annotated[str | None, typer.Option(help="One variant; all otherwise.")] = None,
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
        _print_json(rows[0] if game is not None and variant else rows)
        return
    from tensorrl.cli.tables import print_table

    print_table(
        [
            {
                "game": row["game"],
                "actions": row["actions"],
                "variant": row["variant"],
                "coefficients": f"{row['coefficients']:,}",
                "ratio": f"{row['compression_ratio']:.2f}",
                "ranks": " ".join(f"{layer}={list(ranks)}" for layer, ranks in row["ranks"].items()),
            }
            for row in rows
        ]
    )


@app.command("train")
def train_command(
    game: Annotated[str, typer.Option(help="A game; see `tensorrl games`.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    variant: Annotated[str, typer.Option(help="A variant; see `tensorrl variants`.")] = "rainbow",
    seed: Annotated[int, typer.Option(help="Source of all randomness.")] = 0,
    steps: Annotated[int, typer.Option(help="Agent steps (4 frames each).")] = 100_000,
    checkpoint_every: Annotated[int | None, typer.Option(help="Agent steps between checkpoints.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    overrides: Set = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads; PyTorch's choice otherwise.")] = None,
    as_json: Json = False,
) -> None:
    """Train one agent in this process and evaluate it; a killed run goes on with --resume, to the same bits."""
    from tensorrl.cli.display import TrainingDisplay
    from tensorrl.files import is_full
    from tensorrl.tracking import MlflowRecord, tracking_uri_for
    from tensorrl.trial.run import Interrupted, make_spec, run_trial

    spec = make_spec(
        game=game,
        variant=variant,
        seed=seed,
        steps=steps,
        overrides=parse_overrides(overrides),
        device=device,
        threads=threads,
        checkpoint_every=checkpoint_every,
    )
    # What cannot be recorded is refused before anything is written.
    tracking_uri_for(out)
    try:
        with TrainingDisplay(spec.steps) as display:
            result = run_trial(spec, out, resume=resume, record=MlflowRecord, on_report=display.update)
    except (Interrupted, KeyboardInterrupt) as stop:
        print(f"tensorrl: {stop or 'interrupted'}; go on with --resume", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if isinstance(error, InputError) or not is_full(error):
            raise
        raise InputError(
            f"{out}: no space left on the device; what is finished is kept, and --resume goes on once there is space"
        ) from None
    if as_json:
        _print_json(result)
        return
    from tensorrl.cli.display import print_results

    print_results([result])


@app.command("evaluate")
def evaluate_command(
    checkpoint: Annotated[Path, typer.Argument(help="A run's folder, or one checkpoint in it.")],
    episodes: Annotated[int, typer.Option(min=1, max=10_000, help="Full games to play.")] = 10,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Of no-ops and random actions.")] = 0,
    video: Annotated[Path | None, typer.Option(help="Write the first game to FILE.mp4 or FILE.gif.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; PyTorch's choice otherwise.")] = None,
    as_json: Json = False,
) -> None:
    """Play full games with a trained agent, no noise, true rewards."""
    from tensorrl.trial.playback import evaluate_checkpoint

    result = evaluate_checkpoint(checkpoint, episodes=episodes, seed=seed, video=video, threads=threads)
    if as_json:
        _print_json(result)
        return
    from tensorrl.cli.tables import print_table

    print_table([{"episode": i + 1, **episode} for i, episode in enumerate(result["episodes"])])
    print(
        f"{result['variant']} on {result['game']} after {result['agent_steps']:,} agent steps: "
        f"mean {result['mean']:.1f}"
        + ("" if result["human_normalized"] is None else f", human-normalised {result['human_normalized']:.3f}")
    )


@app.command("curves")
def curves_command(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    out: Annotated[Path, typer.Option(help="FILE.png or FILE.svg.")],
    window: Annotated[int, typer.Option(min=1, max=100_000, help="Reports averaged.")] = 10,
) -> None:
    """Draw learning curves: returns of training games over agent steps, evaluation beside them."""
    from tensorrl.analysis.curves import draw

    draw(runs, out, window=window)
    print(out)


@app.command("spectrum")
def spectrum_command(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs; those of one variant are pooled.")],
    out: Annotated[Path, typer.Option(help="Write the histograms to FILE.png or FILE.svg.")],
    unfolding: Annotated[str, typer.Option(help="matrix (outputs × inputs), or mode_0 … of the inputs.")] = "matrix",
    as_json: Json = False,
) -> None:
    """Draw the singular values of the value stream's hidden layer over training, and the rank their energy needs."""
    from tensorrl.analysis import pooled_spectra, spectrum_figure
    from tensorrl.trial.spectra import ENERGIES

    spectrum_figure.check_path(out)
    read = pooled_spectra.load_runs(runs)
    rows = pooled_spectra.rank_table(read, unfolding)
    spectrum_figure.draw(read, out, unfolding)
    if as_json:
        _print_json({"picture": str(out), "layer": "value_hidden", "ranks": rows})
        return
    from tensorrl.cli.tables import print_table

    shares = {f"rank for {share:.0%}": f"rank_{share:.0%}".rstrip("%") for share in ENERGIES}
    print_table(
        [
            {name: row[name] for name in ("variant", "agent_steps", "runs", "size")}
            | {"largest σ": f"{row['largest']:.3f}"}
            | {title: "{mean:.1f} ({min} to {max})".format(**row[name]) for title, name in shares.items()}
            for row in rows
        ],
        title=f"rank of value_hidden ({unfolding}) that keeps a share of its energy Σσ²: mean (least to most) of runs",
    )
    print(f"{out}: {len(read)} run{'s' if len(read) > 1 else ''}")


@app.command("scattering")
def scattering_command(
    game: Annotated[str, typer.Option(help="A game; see `tensorrl games`.")],
    out: Annotated[Path, typer.Option(help="FILE.png, or another format of Matplotlib's.")],
    scale: Annotated[int, typer.Option("--J", min=1, max=6, help="Scale, 2^J pixels.")] = 2,
    orientations: Annotated[int, typer.Option("--L", min=1, max=16, help="Orientations.")] = 4,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Of the game.")] = 0,
    steps: Annotated[int, typer.Option(min=0, max=100_000, help="Random agent steps before the frame.")] = 100,
) -> None:
    """Draw a frame beside its scattering coefficients: what an agent with that stem sees."""
    from tensorrl.analysis.scattering_figure import draw_game

    draw_game(game, out, scale=scale, orientations=orientations, seed=seed, steps=steps)
    print(out)


reports.register(app)
results.register(app)
sweeps.register(app)
