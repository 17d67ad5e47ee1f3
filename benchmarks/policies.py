"""Exported policies: the size of the file and the time for one action, beside dense `rainbow`.

    python -m benchmarks.policies [--game pong] [--variants rainbow trl-10x scattering] [--repeats 500]

Each variant's greedy policy is exported as `tensorrl export-policy` exports it, and run by onnxruntime with one thread.
The weights are fresh: neither size nor time depends on training. Policies are asked in turn for one action each, round
after round, so that what else the machine does touches all alike. Times are medians, ratios the medians of each
round's ratio. It prints the table of docs/train.md.
"""

from __future__ import annotations

import argparse
import statistics
import time

from benchmarks.contest import busy_seconds
from benchmarks.contest import ratio as ratio_of
from tensorrl import games, system
from tensorrl.networks.qnetwork import QNetwork
from tensorrl.trial import policy_export, variants
from tensorrl.trial.settings import network_spec

DENSE = "rainbow"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", default="pong", help="whose actions the networks have")
    parser.add_argument("--variants", nargs="+", default=["rainbow", "trl-10x", "scattering"])
    parser.add_argument("--repeats", type=int, default=500, help="actions of each")
    options = parser.parse_args()
    game = games.get(options.game)
    specs = {
        name: network_spec(variants.resolve(name), game.actions) for name in dict.fromkeys([DENSE, *options.variants])
    }
    models = {name: policy_export.to_onnx(QNetwork(spec)) for name, spec in specs.items()}
    policy_export.time_actions(list(models.values()), 20)  # warms up
    busy, own, start = busy_seconds(), time.process_time(), time.perf_counter()
    times = dict(zip(models, policy_export.time_actions(list(models.values()), options.repeats), strict=True))
    own, elapsed, after = time.process_time() - own, time.perf_counter() - start, busy_seconds()

    print("| policy | kB | of dense | ms for one action | of dense |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, model in models.items():
        size, spread = len(model) / len(models[DENSE]), ratio_of(times[name], times[DENSE])
        milliseconds = statistics.median(times[name])
        print(f"| `{name}` | {len(model) / 1e3:,.0f} | {size:.2f} | {milliseconds:.2f} | {spread.median:.2f} |")
    machine = system.machine()
    print(f"\n{game.name}, {machine['cpu']}, {machine['cores']} cores, commit {(system.commit() or 'unknown')[:12]}.")
    if busy is not None and after is not None:
        print(f"Other processes kept {(after - busy - own) / elapsed:.1f} cores busy meanwhile.")


if __name__ == "__main__":
    main()
