"""Hosts of one's own on one machine: a network namespace each, joined by a switch that nothing else is joined to.

The switch is a bridge in a namespace of its own. The machine's own namespace has no address on it, and its one route
to it says "unreachable", so nothing that a host listens on can be reached from outside, whatever it listens on, and no
request that is meant for a host leaves the machine by its default route.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Of the range kept for tests of network devices (RFC 2544), which no real network uses.
SUBNET = "198.18.77"
BRIDGE = "br0"
_GONE_SECONDS = 30.0


@dataclass(frozen=True)
class Host:
    """One host.

    Attributes:
        lab: the name of the laboratory it belongs to.
        name: its own name, one of `layout`'s.
        address: its IPv4 address on the switch.
    """

    lab: str
    name: str
    address: str

    @property
    def namespace(self) -> str:
        """The name of its network namespace."""
        return f"{self.lab}-{self.name}"

    @property
    def port(self) -> str:
        """The name of its cable's end at the switch."""
        return f"to-{self.name}"


def layout(lab: str, workers: int) -> dict[str, Host]:
    """Returns the hosts of a laboratory by name: head, mlflow, client, worker1 to worker`workers`."""
    names = ["head", "mlflow", "client", *(f"worker{number + 1}" for number in range(workers))]
    return {name: Host(lab, name, f"{SUBNET}.{number + 1}") for number, name in enumerate(names)}


def switch(lab: str) -> str:
    """Returns the name of the namespace that holds the laboratory's bridge."""
    return f"{lab}-switch"


def namespaces(lab: str) -> list[str]:
    """Returns the namespaces of a laboratory that exist now."""
    own = re.compile(rf"{re.escape(lab)}-(switch|head|mlflow|client|worker\d+)")
    return sorted(name for name in _all_namespaces() if own.fullmatch(name))


def create(lab: str, hosts: Sequence[Host]) -> None:
    """Makes the switch, the hosts' namespaces and the cables between them.

    Raises:
        subprocess.CalledProcessError: `ip` refused, as it does to all but root; its `stderr` says why.
    """
    _ip("netns", "add", switch(lab))
    _ip("-n", switch(lab), "link", "add", BRIDGE, "type", "bridge")
    _ip("-n", switch(lab), "link", "set", BRIDGE, "up")
    for host in hosts:
        _ip("netns", "add", host.namespace)
        _ip("-n", host.namespace, "link", "set", "lo", "up")
        # fmt: off
        _ip("-n", switch(lab), "link", "add", host.port, "type", "veth",
            "peer", "name", "eth0", "netns", host.namespace)
        # fmt: on
        _ip("-n", switch(lab), "link", "set", host.port, "master", BRIDGE, "up")
        _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
        _ip("-n", host.namespace, "link", "set", "eth0", "up")
    _ip("route", "replace", "unreachable", f"{SUBNET}.0/24")


def cut(host: Host) -> None:
    """Pulls a host's cable: its processes run on and reach nobody."""
    _ip("-n", switch(host.lab), "link", "set", host.port, "down")


def heal(host: Host) -> None:
    """Plugs a host's cable in again."""
    _ip("-n", switch(host.lab), "link", "set", host.port, "up")


def processes(namespace: str) -> list[int]:
    """Returns the processes that run in a namespace."""
    return [int(line) for line in _ip("netns", "pids", namespace).split()]


def kill(namespace: str) -> None:
    """Ends every process of a host at once, as a power cut would.

    Raises:
        TimeoutError: some were still there after half a minute.
    """
    deadline = time.monotonic() + _GONE_SECONDS
    while found := processes(namespace):
        for process in found:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > deadline:
            raise TimeoutError(f"{namespace}: processes {found} outlived SIGKILL")
        time.sleep(0.1)


def remove(lab: str) -> None:
    """Ends every process of the laboratory and takes its namespaces away; cables and bridge go with them."""
    for namespace in namespaces(lab):
        kill(namespace)
        _ip("netns", "delete", namespace)
    others = any(name.endswith("-switch") for name in _all_namespaces())
    if not others and _ip("route", "show", "type", "unreachable", "exact", f"{SUBNET}.0/24"):
        _ip("route", "delete", "unreachable", f"{SUBNET}.0/24")


def inside(host: Host, command: Sequence[str], *, temporary: Path) -> list[str]:
    """Returns `command` so that it runs on a host.

    Args:
        host: where.
        command: what, with its arguments.
        temporary: the folder that the host has as `/tmp/ray`, where Ray expects its own host's files only.
    """
    # `ip netns exec` has made a mount namespace of its own already, so the bind is seen by this command alone.
    script = 'mkdir -p /tmp/ray && mount --bind "$1" /tmp/ray && shift && exec "$@"'
    return ["ip", "netns", "exec", host.namespace, "sh", "-c", script, "sh", str(temporary), *command]


def _all_namespaces() -> list[str]:
    return [line.split()[0] for line in _ip("netns", "list").splitlines() if line]


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout
