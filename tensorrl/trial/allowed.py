"""The allowed values of a field of a typed description, read from its declaration: a list, or two bounds."""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo

_LIMITS = {
    "ge": "minimum",
    "gt": "minimum",
    "le": "maximum",
    "lt": "maximum",
    "min_length": "minimum",
    "max_length": "maximum",
}
_OPEN = {"gt": "open_below", "lt": "open_above"}


@dataclass(frozen=True)
class Allowed:
    """The values that a field allows.

    Attributes:
        kind: "choice", "whole number", "number", "text", "true or false" or "mapping".
        choices: its values, where they are listed.
        minimum: the smallest number, or the fewest characters or entries; None where there is no bound.
        maximum: the largest, or the most.
        open_below: whether `minimum` itself is not allowed.
        open_above: whether `maximum` itself is not allowed.
        optional: whether it may be left out (null).
    """

    kind: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    open_below: bool = False
    open_above: bool = False
    optional: bool = False

    @property
    def bounded(self) -> bool:
        """Whether the field has listed values, or bounds on both sides."""
        return bool(self.choices) or (self.minimum is not None and self.maximum is not None)

    @property
    def text(self) -> str:
        """The allowed values in words, e.g. "a whole number from 1 to 4,096"."""
        if self.choices:
            said = ", ".join(self.choices)
        elif self.kind == "mapping":
            said = "a list of whole numbers for each layer, such as [16, 3, 3, 24]"
        elif self.maximum is None:
            said = f"a {self.kind}" if self.kind != "text" else self.kind
        elif self.kind == "text":
            said = f"text of {_number(self.minimum or 0)} to {_number(self.maximum)} characters"
        else:
            said = f"a {self.kind} {self._range(self.minimum or 0, self.maximum)}"
        return f"{said}; or null" if self.optional else said

    def _range(self, least: float, most: float) -> str:
        if self.kind == "whole number":
            return f"from {_number(least + self.open_below)} to {_number(most - self.open_above)}"
        if not self.open_below and not self.open_above:
            return f"from {_number(least)} to {_number(most)}"
        low, high = "above" if self.open_below else "of at least", "below" if self.open_above else "at most"
        return f"{low} {_number(least)} and {high} {_number(most)}"

    def description(self) -> dict[str, Any]:
        """For machines: `allowed` in words, then `kind`, `choices` or `minimum` and `maximum`."""
        limits = {"minimum": self.minimum, "maximum": self.maximum} if not self.choices else {}
        choices = {"choices": list(self.choices)} if self.choices else {}
        open_ends = {name: True for name in ("open_below", "open_above", "optional") if getattr(self, name)}
        return {"allowed": self.text, "kind": self.kind, **choices, **limits, **open_ends}


def allowed(model: type[BaseModel], name: str) -> Allowed:
    """Returns the values that a field allows.

    Args:
        model: the description's class.
        name: the field's name.
    """
    field = model.model_fields[name]
    kind, optional, metadata = _kind(field.annotation, field.metadata)
    if typing.get_origin(kind) is Literal:
        return Allowed("choice", choices=tuple(map(str, typing.get_args(kind))), optional=optional)
    if kind is bool:
        return Allowed("true or false", choices=("true", "false"), optional=optional)
    named = {int: "whole number", float: "number", str: "text"}.get(kind, "mapping")
    found: dict[str, Any] = {}
    for bound in metadata:
        for limit, end in _LIMITS.items():
            value = getattr(bound, limit, None)
            if value is not None:
                found[end] = value
                if limit in _OPEN:
                    found[_OPEN[limit]] = True
    if named == "mapping":
        found.setdefault("minimum", 0)
    return Allowed(named, optional=optional, **found)


def _kind(annotation: Any, metadata: list[Any]) -> tuple[Any, bool, list[Any]]:
    """Returns a type without what is wrapped around it, whether null is one of its values, and all its metadata."""
    if typing.get_origin(annotation) is Annotated:
        inner, *around = typing.get_args(annotation)
        unpacked = [part for each in around for part in (each.metadata if isinstance(each, FieldInfo) else [each])]
        return _kind(inner, [*metadata, *unpacked])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        kinds = [part for part in typing.get_args(annotation) if part is not type(None)]
        if len(kinds) == 1:
            kind, _, metadata = _kind(kinds[0], metadata)
            return kind, True, metadata
    return annotation, False, metadata


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) and value < 1e10 else f"{value:g}"
