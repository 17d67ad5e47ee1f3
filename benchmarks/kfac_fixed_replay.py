"""Adam and K-FAC on one fixed replay: who fits it, who fits what was held out of it, and how each policy then plays.

    python -m benchmarks.kfac_fixed_replay RUN --json FILE [--variant trl-5x] [--updates 6000] [--games 20] [--seed 0]
                                           [--arm 'NAME:KEY=VALUE,KEY=VALUE' ...]
    python -m benchmarks.kfac_fixed_replay --table FILE [FILE ...]

The second form prints docs/kfac.md's tables from files that the first wrote. RUN is the folder of a finished or
stopped `tensorrl train`; its newest checkpoint holds the replay. An arm is a variant's settings with changes. All
arms start from the same network, and learn from the same transitions by the agent's own update. A tenth of the games
and a tenth of the other games' transitions are never sampled: a transition's neighbours are (their frames overlap), a
game's are not. Losses are unweighted means. "own" are against the arm's own double-Q targets; "common" against those
of RUN's network, alike for all arms.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tensorrl import games, system
from tensorrl.errors import InputError
from tensorrl.learning.agent import Agent
from tensorrl.learning.replay import Batch, Replay
from tensorrl.learning.schedules import linear
from tensorrl.networks.heads import categorical_losses, categorical_projection
from tensorrl.networks.qnetwork import QNetwork
from tensorrl.trial.diagnosis import StepProbe, restore
from tensorrl.trial.evaluation import evaluate
from tensorrl.trial.settings import Settings
from tensorrl.trial.training import build_agent
from tensorrl.trial.variants import resolve

SET = 512
"""Transitions of each set on which losses are taken."""
PROBES = 20
"""Updates at the end whose steps are looked at one by one."""
OBSERVED = 100
"""Updates at the end whose gradients Adam's moments are made of, for the lengths of its steps."""


class Sets(NamedTuple):
    """Slots of replay, by what is done with them."""

    sampled: Tensor
    transitions: Tensor
    games: Tensor


def load(run: Path) -> tuple[Replay, QNetwork, str]:
    """Replay and network of a run's newest checkpoint, and its game."""
    training = restore(run)
    if training.replay.writes > training.replay.capacity:
        raise InputError(f"{run}: its replay has gone round; name a run that keeps all of its transitions")
    return training.replay, training.agent.network.requires_grad_(False), training.game.game


def hold_out(replay: Replay, slots: Tensor, seed: int) -> Sets:
    """Takes a tenth of the games and a tenth of the other transitions out of what can be sampled of `slots`."""
    begins = replay.blank.int().diff(prepend=torch.zeros(1, dtype=torch.int32)).clamp(min=0)
    game = begins.cumsum(0)[slots]
    generator = torch.Generator().manual_seed(seed)
    of_games = game % 10 == 5
    of_transitions = ~of_games & (torch.rand(len(slots), generator=generator) < 0.1)
    replay.distribution.set(slots, 1.0)
    replay.distribution.set(slots[of_games | of_transitions], 0.0)
    replay.max_priority.fill_(1.0)
    return Sets(slots[~(of_games | of_transitions)], slots[of_transitions], slots[of_games])


def returns_that_followed(replay: Replay) -> Tensor:
    """Discounted clipped rewards to the end of the life, (slots,); NaN where the run stopped before it."""
    found = torch.full((replay.capacity,), float("nan"), dtype=torch.float64)
    priorities = replay.distribution.priorities.view(-1)
    for slot in reversed((priorities > 0).nonzero()[:, 0].tolist()):
        discount = float(replay.discounts[slot])
        rest = discount * found[int(replay.bootstraps[slot])] if discount else 0.0
        found[slot] = replay.returns[slot] + rest
    return found


class Judge:
    """Fixed sets of transitions, with what does not depend on the arm."""

    def __init__(self, replay: Replay, reference: QNetwork, sets: Sets, followed: Tensor, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed + 1)
        self.counts = torch.bincount(replay.actions[sets.sampled], minlength=reference.spec.actions)
        self.batches, self.common, self.followed = {}, {}, {}
        for name, slots in sets._asdict().items():
            chosen = slots[torch.randperm(len(slots), generator=generator)[:SET]]
            batch = replay.transitions(chosen)
            self.batches[name], self.followed[name] = batch, followed[chosen].float()
            self.common[name] = targets(reference, reference, batch)
        self.reference = reference

    @torch.no_grad()
    def judge(self, agent: Agent) -> dict[str, Any]:
        """Losses on every set, errors of Q, and figures of the network on states of held-out games."""
        found: dict[str, Any] = {}
        network = agent.network
        for name, batch in self.batches.items():
            rows = torch.arange(len(batch.actions))
            logits = network(batch.stacks)
            own = categorical_losses(logits[rows, batch.actions], targets(network, agent.target, batch))
            common = categorical_losses(logits[rows, batch.actions], self.common[name])
            values = network.q_values(logits)
            chosen, followed = values[rows, batch.actions], self.followed[name]
            known = followed.isfinite()
            found[name] = {
                "own": float(own.mean()),
                "common": float(common.mean()),
                "q": float(chosen.mean()),
                "return": float(followed[known].mean()),
                "q_error": float((chosen - followed)[known].square().mean().sqrt()),
                "q_correlation": float(torch.corrcoef(torch.stack((chosen[known], followed[known])))[0, 1]),
                "common_by_action": {
                    int(a): round(float(common[batch.actions == a].mean()), 4) for a in batch.actions.unique()
                },
            }
        stacks = self.batches["games"].stacks
        values = network.q_values(network(stacks))
        top = values.topk(2, 1).values
        greedy = values.argmax(1)
        found["network"] = {
            "value_spread": float(values.mean(1).std()),
            "advantage_spread": float((values - values.mean(1, keepdim=True)).std()),
            "action_gap": float((top[:, 0] - top[:, 1]).mean()),
            "greedy_as_reference": float(
                (greedy == self.reference.q_values(self.reference(stacks)).argmax(1)).float().mean()
            ),
            **units(network, stacks),
        }
        return found


@torch.no_grad()
def targets(network: QNetwork, target: QNetwork, batch: Batch) -> Tensor:
    """Double-Q target distributions (batch, atoms)."""
    rows = torch.arange(len(batch.actions))
    choices = network.q_values(network(batch.next_stacks)).argmax(1)
    bootstraps = target(batch.next_stacks)[rows, choices].softmax(1)
    return categorical_projection(bootstraps, batch.returns, batch.discounts, target.support)


@torch.no_grad()
def units(network: QNetwork, stacks: Tensor) -> dict[str, float]:
    """Share of hidden units that are 0 on all states, and directions that hold 99 % of the features' energy."""
    kept: dict[str, Tensor] = {}
    layers = {name: getattr(network, name) for name in ("value_hidden", "advantage_hidden")}
    handles = [
        layer.register_forward_hook(lambda _layer, _inputs, output, name=name: kept.update({name: output.relu()}))
        for name, layer in layers.items()
    ]
    network(stacks)
    for handle in handles:
        handle.remove()
    found = {}
    for name, features in kept.items():
        features = features.flatten(1)
        found[f"dead_{name}"] = float((features == 0).all(0).float().mean())
        energy = torch.linalg.svdvals(features).square().cumsum(0)
        found[f"rank_{name}"] = int((energy < 0.99 * energy[-1]).sum()) + 1
    return found


def relative_distance(network: nn.Module, start: dict[str, Tensor]) -> dict[str, float]:
    """‖θ − θ₀‖ / ‖θ₀‖ of every parameter."""
    return {
        name: round(float((p.detach() - start[name]).norm() / start[name].norm()), 4)
        for name, p in network.named_parameters()
    }


class Arm:
    """One optimizer on the fixed replay."""

    def __init__(self, settings: Settings, replay: Replay, game: str, updates: int, seed: int) -> None:
        self.agent = build_agent(settings, games.get(game).actions, seed, torch.device("cpu"))
        self.replay, self.settings, self.updates = replay, settings, updates
        self.start = {name: p.detach().clone() for name, p in self.agent.network.named_parameters()}

    def update(self) -> Batch:
        """Makes one update of the agent; returns what it learned from."""
        s, done = self.settings, self.agent.updates
        beta = linear(s.beta_start, s.beta_end, done, begin=0, duration=self.updates)
        batch = self.replay.sample(s.batch_size, beta, self.agent.generator)
        self.replay.update_priorities(batch.slots, self.agent.update(batch))
        return batch

    def probe(self, others: Tensor) -> dict[str, Any]:
        """Looks at the steps of further updates; see `StepProbe`."""
        probe = StepProbe(self.agent, others, self.replay, self.settings.adam_epsilon)
        for k in range(OBSERVED):
            generator = self.agent.generator.get_state()
            batch = self.replay.sample(self.settings.batch_size, 1.0, self.agent.generator)
            self.agent.generator.set_state(generator)
            probe.before(batch, looking=k >= OBSERVED - PROBES)
            self.update()
            probe.after(batch)
        return probe.summary()


def run_arm(
    name: str, settings: Settings, options: argparse.Namespace, replay: Replay, judge: Judge, game: str
) -> dict[str, Any]:
    """Trains one arm from scratch and returns its figures."""
    arm = Arm(settings, replay, game, options.updates, options.seed)
    points = [options.updates // 4, options.updates // 2, options.updates]
    found: dict[str, Any] = {"settings": settings.model_dump(mode="json", exclude_defaults=True), "points": []}
    start = time.process_time()
    for update in range(1, options.updates + 1):
        arm.update()
        if update not in points:
            continue
        point = {"updates": update, **judge.judge(arm.agent)}
        if update != points[0]:
            played = evaluate(arm.agent.network, game, episodes=options.games, seed=2**31 + options.seed, epsilon=0.001)
            scores = [episode.score for episode in played]
            point["play"] = {
                "mean": float(np.mean(scores)),
                "error": float(np.std(scores) / len(scores) ** 0.5),
                "scores": scores,
            }
        point["distance"] = relative_distance(arm.agent.network, arm.start)
        figures = getattr(arm.agent.optimizer, "figures", None)
        if figures:
            point["optimizer"] = figures()
        found["points"].append(point)
        line = "  ".join(f"{key} {point[key]['own']:.3f}/{point[key]['common']:.3f}" for key in Sets._fields)
        print(f"{name:24} {update:6}  {line}  play {point.get('play', {}).get('mean', float('nan')):.1f}", flush=True)
    found["probe"] = arm.probe(judge.batches["games"].slots[:256])
    found["cpu_seconds"] = time.process_time() - start
    return found


def parse_arm(text: str, variant: str) -> tuple[str, Settings]:
    """NAME:KEY=VALUE,... as a name and settings of the variant with these changes."""
    name, _, changes = text.partition(":")
    pairs = [part.partition("=") for part in changes.split(",") if part]
    return name, resolve(variant, {key: parse_value(value) for key, _, value in pairs})


def parse_value(text: str) -> Any:
    """A number, true or false, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


_FITS = (
    "game", "arm", "updates", "sampled", "transitions held out", "games held out", "games − sampled",
    "to common targets", "Q and return, sampled, games", "plays (error)",
)  # fmt: skip
_STEPS = (
    "game", "arm", "KL on the batch, on other states", "greedy actions changed by an update",
    "step over Adam's, least to most by parameter", "moved from the start: conv2, 3×3 factor",
    "dead hidden units: value, advantage", "directions in features", "spread of values, of advantages",
)  # fmt: skip


def tables(paths: list[Path]) -> str:
    """The figures of files in two Markdown tables: losses and scores, and what an update does."""
    fits, steps = ([f"| {' | '.join(names)} |", "|" + " --- |" * len(names)] for names in (_FITS, _STEPS))
    for path in paths:
        content = json.loads(path.read_text())
        for name, arm in content["arms"].items():
            head = f"| {content['game']} | {name} |"
            for point in arm["points"][1:]:
                sets, played = [point[key] for key in Sets._fields], point["play"]
                own = " | ".join(f"{one['own']:.2f}" for one in sets)
                gaps = (sets[2][key] - sets[0][key] for key in ("own", "common"))
                fits.append(
                    f"{head} {point['updates']:,} | {own} | {' | '.join(f'{gap:+.2f}' for gap in gaps)} | "
                    f"{sets[0]['q_correlation']:.2f}, {sets[2]['q_correlation']:.2f} | "
                    f"{played['mean']:,.0f} ({played['error']:,.0f}) |"
                )
            network, probe, moved = arm["points"][-1]["network"], arm["probe"], arm["points"][-1]["distance"]
            lengths = probe["length_over_adams"].values()
            streams = ("value", "advantage")
            steps.append(
                f"{head} {probe['kl_batch']:.1e}, {probe['kl_others']:.1e} | {probe['churn']:.1%} | "
                f"{min(lengths):.2g} to {max(lengths):.3g} | "
                f"{moved['torso.conv2.weight']:.2f}, {moved['value_hidden.factor_1']:.2f} | "
                f"{', '.join(format(network[f'dead_{stream}_hidden'], '.2f') for stream in streams)} | "
                f"{', '.join(str(network[f'rank_{stream}_hidden']) for stream in streams)} | "
                f"{network['value_spread']:.2f}, {network['advantage_spread']:.2f} |"
            )
    return "\n".join([*fits, "", *steps])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--table", type=Path, nargs="+", metavar="FILE", help="only print tables of these files")
    parser.add_argument("--json", type=Path, help="file for the figures; arms already in it are kept")
    parser.add_argument("--variant", default="trl-5x")
    parser.add_argument("--updates", type=int, default=6_000)
    parser.add_argument("--games", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arm", action="append", metavar="NAME:KEY=VALUE,...")
    options = parser.parse_args()
    if options.table:
        print(tables(options.table))
        return
    if not (options.run and options.json and options.arm):
        parser.error("RUN, --json and an --arm or more are needed, or --table")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    system.keep_freed_memory()
    arms = [parse_arm(text, options.variant) for text in options.arm]
    replay, reference, game = load(options.run)
    followed = returns_that_followed(replay)
    slots = (replay.distribution.priorities.view(-1) > 0).nonzero()[:, 0]
    sets = hold_out(replay, slots, options.seed)
    judge = Judge(replay, reference, sets, followed, options.seed)
    about = {
        "game": game,
        "variant": options.variant,
        "updates": options.updates,
        "seed": options.seed,
        "transitions": {name: len(slots) for name, slots in sets._asdict().items()},
        "actions": judge.counts.tolist(),
        "commit": system.commit(),
    }
    print(json.dumps(about), flush=True)
    for name, settings in arms:
        hold_out(replay, slots, options.seed)
        figures = run_arm(name, settings, options, replay, judge, game)
        kept = json.loads(options.json.read_text()) if options.json.exists() else {"arms": {}}
        kept = {**about, "arms": {**kept["arms"], name: figures}}
        options.json.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"kfac_fixed_replay: {error}")
