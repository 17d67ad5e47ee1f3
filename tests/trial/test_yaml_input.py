from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import yaml

from tensorrl.errors import MOST_OF_A_VALUE, InputError, one_line, shown
from tensorrl.trial.yaml_input import MOST_BYTES, MOST_DEPTH, parse_yaml, read_regular, read_yaml


def test_what_settings_need_is_read_as_pyyaml_reads_it() -> None:
    text = """
    a: [1, -2, 0x1f, 1_000, 1.5, .5, true, off, null, ~, text, 'quoted 1', "tab\\t", 1e-4, 1.0e-4]
    b: {inner: &shared {x: 1, y: 2}, again: *shared, merged: {<<: *shared, y: 3}, several: {<<: [*shared, {z: 4}]}}
    c: |
      two
      lines
    ? d
    : []
    """
    assert parse_yaml(text, where="x") == yaml.safe_load(text)
    assert parse_yaml("", where="x") is None
    assert parse_yaml("# nothing\n", where="x") is None


@pytest.mark.parametrize("text", ["2026-02-30", "2026-02-03", "2026-02-03T10:00:00Z", "1:30", "1:30.5", "=", "'5'"])
def test_what_only_yaml_1_1_takes_for_a_date_or_a_number_in_base_60_is_text(text: str) -> None:
    assert parse_yaml(text, where="x") == text.strip("'")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: !!float abc", "line 1: not valid YAML: the tag '!!float' (allowed: values without tags)"),
        ("a: !!set {b}", "the tag '!!set'"),
        ("a:\n - !!binary 'x'", "line 2: not valid YAML: the tag '!!binary'"),
        ("!!python/object/apply:os.getcwd []", "the tag '!!python/object/apply:os.getcwd'"),
        ("a: !mine 1", "the tag '!mine'"),
        ("[" * 5_000, f"nested deeper than {MOST_DEPTH} levels"),
        ("{a: " * 5_000, f"nested deeper than {MOST_DEPTH} levels"),
        ("- " * 5_000 + "x", f"nested deeper than {MOST_DEPTH} levels"),
        ("a: " + "7" * 4_999, "a whole number of 4,999 digits"),
        ("a: &a [*a]", "unknown alias 'a'"),
        ("a: *b", "unknown alias 'b'"),
        ("a: 1\nb: 2\na: 3", "line 3: not valid YAML: 'a' is given twice"),
        ("{<<: 5}", "<< takes a mapping or a list of mappings"),
        ("? [a, b]\n: 1", "a key is a list or mapping"),
        ("a: 1\n---\nb: 2", "a second document"),
        ("a: [1", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
        ("a: \udcff", "is not UTF-8 text"),
    ],
)
def test_what_is_not_taken_is_one_short_line(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_yaml(text, where="x")
    message = str(caught.value)
    assert message.startswith("x: ")
    assert said in message
    assert message.isprintable()
    assert len(message) < 300


def test_bombs_are_refused_at_once() -> None:
    aliases = "a0: &a0 [" + "x," * 9 + "]\n"
    merges = "m0: &m0 {k: 1}\n"
    for i in range(1, 40):
        aliases += f"a{i}: &a{i} [" + f"*a{i - 1}," * 9 + "]\n"
        merges += f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}], k{i}: 1}}\n"
    begin = time.process_time()
    for bomb in (aliases, merges):
        with pytest.raises(InputError, match="more than 250,000 values"):
            parse_yaml(bomb, where="x")
    assert time.process_time() - begin < 2


def test_time_grows_with_the_length_and_not_with_its_square() -> None:
    def seconds(count: int) -> float:
        text = (
            "s: [" + ", ".join(map(str, range(count))) + "]\nm: {" + ", ".join(f"k{i}: 1" for i in range(count)) + "}"
        )
        begin = time.process_time()
        parsed = parse_yaml(text, where="x")
        assert len(parsed["s"]) == len(parsed["m"]) == count
        return time.process_time() - begin

    seconds(1_000)
    # Eight times as many: eight times the time, where a square would be 64 times.
    assert seconds(40_000) / seconds(5_000) < 24


def test_only_a_regular_file_of_bounded_size_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"#" * (MOST_BYTES + 1))
    (tmp_path / "latin").write_bytes(b"a: \xe9\n")
    (tmp_path / "mark").write_bytes(b"\xef\xbb\xbfa: \xce\xb5\n")
    (tmp_path / "link").symlink_to("mark")
    assert read_yaml(tmp_path / "link", what="a file") == {"a": "ε"}
    for path, said in {
        tmp_path / "pipe": "is not a regular file",
        Path("/dev/zero"): "is not a regular file",
        tmp_path: "cannot be read: Is a directory",
        tmp_path / "none": "cannot be read: No such file",
        tmp_path / ("n" * 5_000): "cannot be read: File name too long",
        tmp_path / "a\0b": "is not a valid name of a file",
        tmp_path / "large": "is larger than 4 MiB",
        tmp_path / "latin": "is not UTF-8 text",
    }.items():
        with pytest.raises(InputError) as caught:
            read_yaml(path, what="a file")
        assert said in str(caught.value)
        assert str(caught.value).isprintable()
    assert len(read_regular(tmp_path / "large", 5 << 20, what="a file")) == MOST_BYTES + 1


def test_a_message_is_printable_and_short_whatever_it_quotes() -> None:
    message = str(InputError("a\x1b[31m\nb\u202e" + "c" * 100_000 + "\udcff"))
    assert message.startswith("a\\x1b[31m\\nb\\u202eccc")
    assert message.endswith("c\\udcff")
    assert len(message) < 300
    assert len(str(InputError("c " * 100_000))) < 2_000
    assert str(InputError(message)) == message
    nested: list[object] = ["x" * 1_000] * 1_000
    for _ in range(6):
        nested = [nested] * 1_000
    for value in ("y" * 10_000, nested, dict.fromkeys(range(10_000)), 10**6_000, b"\xff" * 10_000):
        assert len(shown(value)) <= MOST_OF_A_VALUE
    assert one_line("ε ÷ 漢字") == "ε ÷ 漢字"
