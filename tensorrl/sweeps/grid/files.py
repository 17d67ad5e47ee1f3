"""Reads sweep files: a YAML file becomes a checked sweep, or an error in one clear line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tensorrl.errors import InputError, shown, unknown
from tensorrl.sweeps.grid.cells import cells
from tensorrl.sweeps.grid.spec import Axis, Evaluation, Resources, Scheduler, SweepSpec, Tracking
from tensorrl.trial.allowed import allowed
from tensorrl.trial.yaml_input import read_yaml

SHORT_FORMS = ("cpus",)
_SIZE = "bytes, or a size such as 1.5GiB, 16TiB at most"
_ALLOWED = {
    "name": "letters, digits and . _ - , the first a letter or digit, 100 at most",
    "settings": "a mapping of settings to values",
    "variant_settings": "a mapping of variants to settings",
    "axes": "a mapping of settings to lists of values",
    "resources.gpus": "a number from 0 to 64, or the word auto",
    "resources.memory": _SIZE,
    "tracking.uri": "an MLflow tracking URI, 2,000 letters at most",
    "tracking.experiment": "a name, 250 letters at most",
}
_PARTS: dict[str, type[BaseModel]] = {
    "evaluation": Evaluation,
    "resources": Resources,
    "tracking": Tracking,
    "scheduler": Scheduler,
}


def load_sweep(path: Path) -> SweepSpec:
    """Reads a sweep file and checks all of it, every trial's settings included.

    Args:
        path: a YAML file with the fields of `SweepSpec`.

    Raises:
        InputError: the file is not valid. One line names the file, the field, its value, what is allowed, and the
            nearest valid name.
    """
    return make_sweep(_read(path), where=str(path))


def make_sweep(content: Mapping[Any, Any], *, where: str) -> SweepSpec:
    """Checks a sweep's fields, every trial's settings included.

    Raises:
        InputError: a field is not valid. The message is one line that begins with `where`.
    """
    fields = [*SweepSpec.model_fields, *SHORT_FORMS]
    for field in content:
        if field not in fields:
            raise unknown("field", str(field), fields, where=where)
    for name, model in _PARTS.items():
        for field in content[name] if isinstance(content.get(name), Mapping) else ():
            if field not in model.model_fields:
                raise unknown("field", str(field), model.model_fields, where=f"{where}: {name}")
    try:
        spec = SweepSpec.model_validate(content)
        cells(spec)
    except ValidationError as error:
        first, *more = error.errors()
        others = f" (and {len(more)} more)" if more else ""
        raise InputError(f"{where}: {_explain(first)}{others}") from None
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return spec


def sweep_yaml(spec: SweepSpec) -> str:
    """Returns the text of a sweep file with every field written out."""
    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read(path: Path) -> dict[str, Any]:
    content = read_yaml(path, what="a sweep's YAML file")
    if not isinstance(content, dict):
        fields = ", ".join(SweepSpec.model_fields)
        raise InputError(f"{path}: contains no fields (allowed: {fields})")
    return content


def _explain(error: ErrorDetails) -> str:
    """Rewrites one of pydantic's errors: the field, its value, what is allowed."""
    # pydantic appends the member of a union to the field; it is not part of the field's name.
    parts = [str(part) for part in error["loc"] if not str(part).startswith(("constrained-", "literal[", "function-"))]
    where = ".".join(part for part in parts if part not in ("float", "int", "str", "tuple"))
    if error["type"] == "missing":
        required = ", ".join(name for name, field in SweepSpec.model_fields.items() if field.is_required())
        return f"{where}: missing (required: {'values' if parts[0] == 'axes' else required})"
    context: Mapping[str, Any] = error.get("ctx", {})
    own = context.get("error")
    if isinstance(own, InputError):
        return f"{where}: {own}" if where else str(own)
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown field (allowed: {', '.join(Axis.model_fields)})"
    if error["type"] == "model_type" and where in _PARTS:
        return f"{where}: {shown(error['input'])} (allowed: a mapping with {', '.join(_PARTS[where].model_fields)})"
    return f"{where}: {shown(error['input'])} (allowed: {_allowed(where)})"


def _allowed(where: str) -> str:
    """Returns in words which values the field `where` allows."""
    name, _, inner = where.partition(".")
    said = _ALLOWED.get(where) or _ALLOWED.get(name)
    if said is None and name in _PARTS and inner in _PARTS[name].model_fields:
        said = allowed(_PARTS[name], inner).text
    return said or allowed(SweepSpec, name).text
