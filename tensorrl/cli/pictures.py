"""The commands that plot trials and compare them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tensorrl.cli.options import MOST_SEED, Game, Json, print_json


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("curves")(curves_command)
    app.command("compare")(compare_command)
    app.command("spectrum")(spectrum_command)
    app.command("scattering")(scattering_command)


def curves_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.")],
    out: Annotated[Path, typer.Option(help="Draw the curves to FILE.png or FILE.svg.")],
    window: Annotated[int, typer.Option(min=1, max=100_000, help="Number of reports that each point averages.")] = 10,
) -> None:
    """Draw learning curves: returns of training and evaluation games over agent steps."""
    from tensorrl.analysis.curves import draw

    draw(runs, out, window=window)
    print(out)


def compare_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of two or more runs.")],
    out: Annotated[Path | None, typer.Option(help="Draw their learning curves to FILE.png or FILE.svg.")] = None,
    window: Annotated[int, typer.Option(min=1, max=100_000, help="Number of reports that each point averages.")] = 10,
    as_json: Json = False,
) -> None:
    """Compare runs: settings that differ, sizes, scores and speed; with --out, also their learning curves."""
    from tensorrl.analysis import comparison, curves

    found = comparison.compare(runs)
    if out is not None:
        curves.draw(runs, out, window=window)
    if as_json:
        print_json({**found.as_dict(), "picture": None if out is None else str(out)})
        return
    from tensorrl.cli.tables import print_table

    print_table(found.table(found.differing), title="differences")
    print_table(found.table(found.figures), title="results")
    if out is not None:
        print(f"curves: {out}")


def spectrum_command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of runs; runs of the same variant are pooled.")
    ],
    out: Annotated[Path, typer.Option(help="Write the histograms to FILE.png or FILE.svg.")],
    unfolding: Annotated[
        str, typer.Option(help="matrix (outputs × inputs), or mode_0, mode_1, … of the inputs.")
    ] = "matrix",
    as_json: Json = False,
) -> None:
    """Draw the singular values of the value stream's hidden layer over training, and the ranks that keep energy."""
    from tensorrl.analysis import pooled_spectra, spectrum_figure
    from tensorrl.trial.spectra import ENERGIES

    spectrum_figure.check_path(out)
    read = pooled_spectra.load_runs(runs)
    rows = pooled_spectra.rank_table(read, unfolding)
    spectrum_figure.draw(read, out, unfolding)
    if as_json:
        print_json({"picture": str(out), "layer": "value_hidden", "ranks": rows})
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


def scattering_command(
    game: Game,
    out: Annotated[Path, typer.Option(help="Draw to FILE.png, or to another format that Matplotlib writes.")],
    scale: Annotated[int, typer.Option("--J", min=1, max=6, help="Scale of the transform: 2^J pixels.")] = 2,
    orientations: Annotated[int, typer.Option("--L", min=1, max=16, help="Number of orientations.")] = 4,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of the game.")] = 0,
    steps: Annotated[
        int, typer.Option(min=0, max=100_000, help="Number of random agent steps before the frame.")
    ] = 100,
) -> None:
    """Draw a frame and its scattering coefficients: the input of an agent with a scattering stem."""
    from tensorrl.analysis.scattering_figure import draw_game

    draw_game(game, out, scale=scale, orientations=orientations, seed=seed, steps=steps)
    print(out)
