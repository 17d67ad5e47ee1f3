"""What the parts of the command line share."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

MOST_SEED = 2**31 - 1
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def print_json(value: Any) -> None:
    """Prints a value as JSON."""
    print(json.dumps(value, indent=2))
