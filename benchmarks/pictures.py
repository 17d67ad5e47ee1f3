"""Pictures for the pages.

    python -m benchmarks.pictures film RUN --out docs/figures/film.png [--step N] [--seed S] [--zoom Z]
    python -m benchmarks.pictures mlflow --out docs/figures/mlflow-view.png

`film` plays one game as `tensorrl evaluate RUN --episodes 1 --seed S --video FILE.mp4` does, and keeps the film's frame
of agent step N (the middle of the game where N is not given).

`mlflow` makes a synthetic store (no agent is trained), sends it to a real `mlflow server`, and photographs the charts
that `tensorrl` links to, in Chromium.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from PIL import Image

from benchmarks import mlflow_ui
from benchmarks.browser import chromium
from benchmarks.contest import ROOT
from tensorrl import files
from tensorrl.environments.atari import game_seed
from tensorrl.environments.screen import Screen
from tensorrl.tracking import find_link
from tensorrl.trial.evaluation import evaluate
from tensorrl.trial.film import Film
from tensorrl.trial.playback import load_network
from tensorrl.trial.settings import Settings


def main() -> None:
    options = parse()
    # So that servers, browsers and folders are cleared away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.picture == "mlflow":
        mlflow_view(options.out)
        print(f"{options.out}: {options.out.stat().st_size / 1000:.0f} kB")
        return
    step, score = film_frame(options.run, options.out, step=options.step, seed=options.seed, zoom=options.zoom)
    print(f"{options.out}: agent step {step:,}, score {score:g}, {options.out.stat().st_size / 1000:.0f} kB")


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    pictures = parser.add_subparsers(dest="picture", required=True)
    mlflow = pictures.add_parser("mlflow", help="MLflow's charts of a synthetic store")
    mlflow.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    film = pictures.add_parser("film", help="one frame of a film")
    film.add_argument("run", type=Path, help="a run's folder, or a checkpoint")
    film.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    film.add_argument("--step", type=int, help="agent step (default: the middle of the game)")
    film.add_argument("--seed", type=int, default=0, help="of the game (default: 0)")
    film.add_argument("--zoom", type=int, default=2, help="pixels to a pixel, each way (default: 2)")
    return parser.parse_args()


def film_frame(run: Path, out: Path, *, step: int | None, seed: int, zoom: int) -> tuple[int, float]:
    """Writes one frame of a film as PNG.

    Args:
        run: a run's folder, or a checkpoint.
        out: the file.
        step: agent step of the frame; None for the middle of the game.
        seed: of the evaluation, whose first game it is.
        zoom: pixels to a pixel, each way.

    Returns:
        The frame's agent step, and the score that it shows.

    Raises:
        InputError: there is no checkpoint.
        ValueError: the game has no such step.
    """
    network, about = load_network(run)
    epsilon = Settings.model_fields["evaluation_epsilon"].default
    if step is None:
        step = evaluate(network, about["game"], episodes=1, seed=seed, epsilon=epsilon)[0].steps // 2
    kept: dict[int, tuple[Screen, float]] = {}

    def keep(frame: Screen) -> None:
        if film.steps == step:
            kept[step] = frame, film.game.score

    film = Film(about["game"], game_seed(seed, 0), keep)
    try:
        evaluate(network, about["game"], episodes=1, seed=seed, epsilon=epsilon, watch=film)
        film.finish()
    finally:
        film.close()
    if step not in kept:
        raise ValueError(f"--step {step}: the game has {film.steps} agent steps")
    frame, score = kept[step]
    image = Image.fromarray(frame)
    save(image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST), out)
    return step, score


def mlflow_view(out: Path) -> None:
    """Writes a picture of the charts on which an experiment opens in MLflow.

    Args:
        out: the file.
    """
    # What makes the store and the server is shared with the tests, which are no package.
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "tracking")]
    from servers import free_port, mlflow_server
    from synthetic_store import PAPER_VARIANTS, make_sweep

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        store, port = Path(folder) / "runs", free_port()
        make_sweep(store, mlflow_ui.SWEEP, ["pong", "krull"], PAPER_VARIANTS, range(1))
        with mlflow_server(port, Path(folder)), chromium(width=1_500, height=900) as context:
            uri = f"http://127.0.0.1:{port}"
            mlflow_ui.send(store, uri)
            link = find_link(uri, mlflow_ui.SWEEP)
            if link is None or link.charts is None:
                sys.exit("pictures: MLflow shows no charts")
            page = context.new_page()
            mlflow_ui.open_charts(page, link.charts)
            shot = Path(folder) / "shot.png"
            mlflow_ui.photograph(page, shot)
            save(Image.open(shot).convert("RGB"), out)


def save(image: Image.Image, out: Path) -> None:
    """Writes a picture as a PNG of 256 colours."""
    with files.replacing(out, sync=False, keep_suffix=True) as draft:
        image.quantize(256, dither=Image.Dither.NONE).save(draft, optimize=True)


if __name__ == "__main__":
    main()
