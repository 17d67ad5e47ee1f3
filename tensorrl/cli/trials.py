"""The commands that train one agent, evaluate it and export it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from tensorrl.cli.options import MOST_SEED, Device, Game, Json, Set, Threads, Variant, parse_overrides, print_json
from tensorrl.errors import InputError


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("train")(train_command)
    app.command("evaluate")(evaluate_command)
    app.command("export-policy")(export_policy_command)


def train_command(
    game: Game,
    out: Annotated[Path, typer.Option(help="The folder of the run.")],
    variant: Variant = "rainbow",
    seed: Annotated[int, typer.Option(help="The seed of all random numbers.")] = 0,
    steps: Annotated[int, typer.Option(help="Length in agent steps (of 4 frames each).")] = 100_000,
    checkpoint_every: Annotated[int | None, typer.Option(help="Agent steps between checkpoints.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder.")] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard event files into the run's folder.")
    ] = False,
    overrides: Set = None,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Train one agent in this process and evaluate it. --resume continues a killed run, to the same bits."""
    import torch

    from tensorrl.cli.progress import TrainingDisplay
    from tensorrl.files import is_full
    from tensorrl.system import memory_is_short
    from tensorrl.tracking import (
        EventFiles,
        MlflowRecord,
        Records,
        add_event_files,
        require_tensorboard,
        tracking_uri_for,
    )
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
    # A run that cannot be recorded is refused before anything is written.
    tracking_uri_for(out)
    if tensorboard:
        require_tensorboard()
    records: list[MlflowRecord] = []

    def record(folder: Path) -> Records:
        events = [EventFiles(folder)] if tensorboard else []
        records.append(MlflowRecord(folder))
        return Records([*events, *records])

    try:
        with TrainingDisplay(spec.steps, spec.settings.final_episodes) as display:
            result = run_trial(spec, out, resume=resume, record=record, on_report=display.update)
        if tensorboard:
            add_event_files(out)
    except (Interrupted, KeyboardInterrupt) as stop:
        print(f"tensorrl: {stop or 'interrupted'}; continue with --resume", file=sys.stderr)
        sys.exit(130)
    except torch.OutOfMemoryError as error:
        raise InputError(memory_is_short(error)) from None
    except Exception as error:
        if isinstance(error, InputError) or not is_full(error):
            raise
        raise InputError(
            f"{out}: no space left on the device; finished work is kept; free some space and continue with --resume"
        ) from None
    if as_json:
        print_json(result)
        return
    from tensorrl.cli.next_steps import after_training
    from tensorrl.cli.tables import print_results
    from tensorrl.tracking import find_link

    print_results([result])
    found = [find_link(kept.tracking_uri, kept.experiment, experiment_id=kept.experiment_id) for kept in records]
    link = found[0] if found else None
    print(after_training(out, result, link))


def evaluate_command(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="RUN|CHECKPOINT", help="A run's folder, or one checkpoint in it.")
    ],
    episodes: Annotated[int, typer.Option(min=1, max=10_000, help="Number of whole games to play.")] = 10,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="The seed of the games and of random actions.")] = 0,
    video: Annotated[Path | None, typer.Option(help="Film the first game in FILE.mp4 or FILE.gif.")] = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Play whole games with a trained agent, without noise and with unclipped rewards."""
    from tensorrl.cli.progress import GamesDisplay
    from tensorrl.trial.playback import evaluate_checkpoint

    with _clearing_up_after_sigterm(), GamesDisplay(episodes) as display:
        result = evaluate_checkpoint(
            checkpoint, episodes=episodes, seed=seed, video=video, threads=threads, on_episode=display.update
        )
    if as_json:
        print_json(result)
        return
    from tensorrl.cli.next_steps import after_evaluation
    from tensorrl.cli.tables import print_table

    print_table([{"episode": i + 1, **episode} for i, episode in enumerate(result["episodes"])])
    print(
        f"{result['variant']} on {result['game']} after {result['agent_steps']:,} agent steps:\n"
        f"mean {result['mean']:.1f}"
        + ("" if result["human_normalized"] is None else f", human-normalised {result['human_normalized']:.3f}")
    )
    print(after_evaluation(checkpoint, video))


@contextmanager
def _clearing_up_after_sigterm() -> Iterator[None]:
    """Ends on SIGTERM as on Ctrl-C, so that no half-written film is left."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def export_policy_command(
    run: Annotated[Path, typer.Argument(metavar="RUN|CHECKPOINT", help="A run's folder, or one checkpoint in it.")],
    out: Annotated[Path, typer.Option(help="Write the policy to FILE.onnx.")],
    mlflow_model: Annotated[
        Path | None, typer.Option(help="Also save an MLflow model, for `mlflow.pyfunc.load_model`, in this new folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the greedy policy as an ONNX model: a stack of frames in, the action and Q-values out."""
    from tensorrl.trial.policy_export import export_policy

    if mlflow_model is not None and mlflow_model.exists():
        raise InputError(f"--mlflow-model {mlflow_model}: already exists (allowed: a new folder)")
    if mlflow_model is not None and not mlflow_model.parent.is_dir():
        raise InputError(f"--mlflow-model {mlflow_model}: its parent folder does not exist")
    found = export_policy(run, out)
    if mlflow_model is not None:
        from tensorrl import games
        from tensorrl.tracking.model import save_policy

        save_policy(out.read_bytes(), mlflow_model, actions=games.get(found["game"]).actions)
    if as_json:
        print_json(found)
        return
    from tensorrl.cli.tables import print_table

    print_table(
        [
            {"policy": name, "kB": f"{found[size]:,.0f}", "ms for one action": f"{found[time]:.2f}"}
            for name, size, time in (
                (found["variant"], "kilobytes", "milliseconds"),
                ("dense, as denoised", "dense_kilobytes", "dense_milliseconds"),
            )
        ]
    )
    steps = found["agent_steps"]
    print(f"{out}: {found['variant']} on {found['game']} after {steps:,} agent steps; one core, onnxruntime")
