"""YAML from outside: sweep files and the values of `--set`. Everything that reads YAML reads it here.

It accepts the part of YAML that settings need: mappings, lists, text, numbers, true, false and null, with anchors,
aliases and merge keys. A date is text, as in YAML 1.2. Tags are refused, so no input can name a type. Depth, size and
the expansion of aliases are limited *before* anything is built, so a small file cannot make a large value.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tensorrl.errors import InputError, shown
from tensorrl.files import open_plain

MOST_BYTES = 4 << 20
"""Bytes of a file."""
MOST_VALUES = 250_000
"""Values of a document, those that aliases repeat counted again."""
MOST_DEPTH = 32
"""Collections inside one another."""
_MOST_DIGITS = 100
_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"


def read_yaml(path: Path, *, what: str) -> Any:
    """Reads a YAML file.

    Args:
        path: a regular file of UTF-8 text, with or without a byte order mark.
        what: what should lie there, for errors, e.g. "a sweep's YAML file".

    Raises:
        InputError: it cannot be read, or is no YAML of the kind that is taken; in one line, with file and line.
    """
    content = read_regular(path, MOST_BYTES, what=what)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text (allowed: {what})") from None
    return parse_yaml(text, where=str(path))


def parse_yaml(text: str, *, where: str) -> Any:
    """Returns the value of a YAML document; None for an empty one.

    Raises:
        InputError: the text is no YAML of the kind that is taken; in one line that begins with `where`.
    """
    try:
        return _Builder(where).build(yaml.parse(text, Loader=_PARSER))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or error).split()
        raise _invalid(where, mark, " ".join(problem)) from None
    except UnicodeEncodeError:
        # A surrogate: bytes of the command line that are no text.
        raise InputError(f"{where}: is not UTF-8 text (allowed: YAML)") from None


def read_regular(path: Path, most: int, *, what: str) -> bytes:
    """Reads a regular file of at most `most` bytes: no folder, no device, no pipe that may never end.

    Raises:
        InputError: it is another kind of file, larger, or cannot be read.
    """
    try:
        with open_plain(path) as file:
            content = file.read(most + 1)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise InputError(f"{path}: is not a regular file (allowed: {what})") from None
        raise InputError(f"{path}: cannot be read: {error.strerror} (allowed: {what})") from None
    except ValueError:
        raise InputError(f"{path}: is not a valid name of a file (allowed: {what})") from None
    if len(content) > most:
        raise InputError(f"{path}: is larger than {most >> 20} MiB (allowed: {what})")
    return content


@dataclass
class _Collection:
    """A list or mapping whose end has not come yet."""

    value: list[Any] | dict[Any, Any]
    anchor: str | None
    mark: Any
    key: Any = None
    awaits_value: bool = False
    size: int = 1
    merged: list[dict[Any, Any]] = field(default_factory=list)


class _Merge:
    """The key `<<`, whose value is a mapping, or a list of some, to take entries from."""


@dataclass(frozen=True)
class _Anchored:
    value: Any
    size: int


class _Builder:
    """Builds the value of a document from its events, one after another: no recursion, nothing built twice."""

    def __init__(self, where: str) -> None:
        self._where = where
        # Resolves and converts plain scalars, no more: what it would construct by a tag never comes to it.
        self._scalars: Any = yaml.SafeLoader("")
        self._open: list[_Collection] = []
        self._anchors: dict[str, _Anchored] = {}
        self._values = 0
        self._documents: list[Any] = []

    def build(self, events: Iterator[yaml.Event]) -> Any:
        for event in events:
            self._take(event)
        return self._documents[0] if self._documents else None

    def _take(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.DocumentStartEvent) and self._documents:
            raise _invalid(self._where, event.start_mark, "a second document (allowed: one)")
        if isinstance(event, yaml.ScalarEvent):
            self._add(self._scalar(event), 1, event, event.anchor)
        elif isinstance(event, yaml.AliasEvent):
            known = self._anchors.get(event.anchor or "")
            if known is None:
                raise _invalid(self._where, event.start_mark, f"unknown alias {shown(event.anchor)}")
            self._add(known.value, known.size, event, None)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._check_tag(event)
            if len(self._open) == MOST_DEPTH:
                raise _invalid(self._where, event.start_mark, f"nested deeper than {MOST_DEPTH} levels")
            mapping = isinstance(event, yaml.MappingStartEvent)
            self._open.append(_Collection({} if mapping else [], event.anchor, event.start_mark))
        elif isinstance(event, yaml.CollectionEndEvent):
            done = self._open.pop()
            for source in done.merged:
                assert isinstance(done.value, dict)
                for key, value in source.items():
                    done.value.setdefault(key, value)
            self._add(done.value, done.size, event, done.anchor, counted=done.size - 1, mark=done.mark)

    def _add(
        self, value: Any, size: int, event: yaml.Event, anchor: str | None, *, counted: int = 0, mark: Any = None
    ) -> None:
        """Puts a finished value where it belongs; `counted` of its `size` values have been counted before."""
        mark = mark or event.start_mark
        self._values += size - counted
        if self._values > MOST_VALUES:
            raise _invalid(self._where, mark, f"more than {MOST_VALUES:,} values, those that aliases repeat counted")
        if anchor is not None:
            self._anchors[anchor] = _Anchored(value, size)
        if not self._open:
            self._documents.append(None if value is _Merge else value)
            return
        parent = self._open[-1]
        parent.size += size
        if isinstance(parent.value, list):
            parent.value.append("<<" if value is _Merge else value)
        elif parent.awaits_value:
            self._set(parent, value, mark)
        else:
            if isinstance(value, list | dict):
                raise _invalid(self._where, mark, "a key is a list or mapping (allowed: text)")
            if value is not _Merge and value in parent.value:
                raise _invalid(self._where, mark, f"{shown(value)} is given twice")
            parent.key, parent.awaits_value = value, True

    def _set(self, parent: _Collection, value: Any, mark: Any) -> None:
        parent.awaits_value = False
        assert isinstance(parent.value, dict)
        if parent.key is not _Merge:
            parent.value[parent.key] = "<<" if value is _Merge else value
            return
        sources = value if isinstance(value, list) else [value]
        if not all(isinstance(source, dict) for source in sources):
            raise _invalid(self._where, mark, "<< takes a mapping or a list of mappings")
        parent.merged += sources

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        self._check_tag(event)
        if not event.implicit[0]:
            return event.value
        kind = self._scalars.resolve(yaml.ScalarNode, event.value, (True, False)).removeprefix(_TAG)
        if kind == "merge":
            return _Merge
        node = yaml.ScalarNode(kind, event.value)
        if kind == "int":
            # The text of a number in base 60 ("1:30") is text, as in YAML 1.2.
            if ":" in event.value:
                return event.value
            if len(event.value) > _MOST_DIGITS:
                raise _invalid(self._where, event.start_mark, f"a whole number of {len(event.value):,} digits")
            return self._scalars.construct_yaml_int(node)
        if kind == "float":
            return event.value if ":" in event.value else self._scalars.construct_yaml_float(node)
        if kind == "bool":
            return self._scalars.construct_yaml_bool(node)
        return None if kind == "null" else event.value

    def _check_tag(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
        if event.tag is not None:
            tag = event.tag.replace(_TAG, "!!")
            raise _invalid(self._where, event.start_mark, f"the tag {shown(tag)} (allowed: values without tags)")


def _invalid(where: str, mark: Any, problem: str) -> InputError:
    line = f" line {mark.line + 1}:" if mark is not None else ""
    return InputError(f"{where}:{line} not valid YAML: {problem}")
