"""The resources that a trial reserves in Ray, and the checks of them before anything runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tensorrl.errors import InputError
from tensorrl.sweeps.driver.estimate import Machine, cell_memory, this_machine, trials_per_gpu
from tensorrl.sweeps.driver.speeds import Device
from tensorrl.sweeps.grid.spec import SweepSpec

_GIB = 2**30
# Ray counts GPUs in ten-thousandths.
_GPU_GRAIN = 10_000


def machines() -> list[Machine]:
    """Returns the machines of the Ray that this process is connected to.

    Ray does not know how much memory a GPU has, so it is known of this machine's only.
    """
    import ray

    here = ray.get_runtime_context().get_node_id()
    return [
        Machine(
            name=f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})",
            cpus=node["Resources"].get("CPU", 0.0),
            gpus=node["Resources"].get("GPU", 0.0),
            memory=node["Resources"].get("memory", 0.0),
            gpu_memory=this_machine().gpu_memory if node["NodeID"] == here else None,
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def train_on(there: Sequence[Machine]) -> bool:
    """Returns whether any of these machines runs trials. An autoscaling cluster may only have a head, without cores."""
    return any(machine.cpus for machine in there)


def await_machine(spec: SweepSpec, say: Callable[[str], None], pause: Callable[[], None]) -> None:
    """Waits for the first machine that runs trials, if there is none, and asks Ray's autoscaler for one.

    Only then is it known what each trial reserves (`gpus: auto`). More machines start while trials wait for them.

    Args:
        spec: the sweep.
        say: prints a line for the user.
        pause: waits about a second, or raises if the user wants to stop.
    """
    if train_on(machines()):
        return
    from ray.autoscaler.sdk import request_resources

    say("no machine of the cluster can run trials yet: waiting for one (an autoscaler has been asked)")
    asked = {"CPU": spec.resources.cpus}
    if spec.resources.gpus != "auto" and spec.resources.gpus:
        asked["GPU"] = math.ceil(spec.resources.gpus)
    request_resources(bundles=[asked])
    try:
        while not train_on(machines()):
            pause()
    finally:
        # Otherwise the autoscaler would keep the machine after the sweep has ended.
        request_resources(bundles=[])


def trial_resources(spec: SweepSpec) -> tuple[dict[str, float], Device]:
    """Returns the resources that Ray reserves for each trial, and the device it trains on.

    Raises:
        InputError: no machine of this Ray has that much.
    """
    return fit(spec, machines())


def fit(spec: SweepSpec, there: Sequence[Machine]) -> tuple[dict[str, float], Device]:
    """Returns the resources that each trial reserves on these machines, and the device it trains on.

    Raises:
        InputError: none of them has that much.
    """
    asked = spec.resources
    most_cpus = max((machine.cpus for machine in there), default=0.0)
    most_gpus = max((machine.gpus for machine in there), default=0.0)
    if asked.cpus > most_cpus:
        raise InputError(
            f"cpus: each trial needs {asked.cpus}, more than any machine has (allowed: 1 to {most_cpus:.0f})"
        )
    gpus = asked.gpus
    if gpus == "auto":
        share = max((trials_per_gpu(spec, machine) for machine in there), default=0)
        gpus = _GPU_GRAIN // share / _GPU_GRAIN if share else 0.0
    if gpus and not most_gpus:
        raise InputError(f"gpus: each trial needs {gpus:g}, but no machine has a GPU (allowed: 0, or auto)")
    if gpus > most_gpus:
        raise InputError(f"gpus: each trial needs {gpus:g}, more than any machine has (allowed: 0 to {most_gpus:g})")
    memory = float(asked.memory or cell_memory(spec, "cuda" if gpus else "cpu"))
    fitting = [m for m in there if m.cpus >= asked.cpus and m.gpus >= gpus]
    if not any(machine.memory >= memory for machine in fitting):
        most = max((machine.memory for machine in fitting), default=0.0)
        raise InputError(
            f"memory: each trial needs {memory / _GIB:.2f} GiB, more than any machine can give (allowed: "
            f"{most / _GIB:.2f} GiB; set resources.memory if a trial needs less)"
        )
    return {"cpu": float(asked.cpus), "gpu": gpus, "memory": memory}, "cuda" if gpus else "cpu"
