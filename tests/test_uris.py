"""Passwords of URIs are shown nowhere, and are there for whoever connects."""

from __future__ import annotations

import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorrl.errors import InputError, shown
from tensorrl.uris import holds_secret, redact, redact_uri, split_login, whole


@pytest.mark.parametrize(
    ("uri", "seen"),
    [
        ("http://user:pw@host:5000/x?y=1", "http://user:***@host:5000/x?y=1"),
        ("https://user:p%40%3A%2Fw@host", "https://user:***@host"),
        ("http://user:p@s:s@host/a", "http://user:***@host/a"),
        ("HTTPS://TOKEN@host/a", "HTTPS://***@host/a"),
        ("http://user:1234@host/a", "http://user:***@host/a"),
        ("http://token:@host", "http://***:***@host"),
        (f"http://{'t' * 1_500}@host/a", "http://***@host/a"),
        ("http://user:pw@[::1]:5000/x", "http://user:***@[::1]:5000/x"),
        ("http://user%3Apw@host", "http://***@host"),
        ("http://me@example.org:pw@host/x", "http://***@example.org:***@host/x"),
        ("postgresql://me@example.org:pw@host/db", "postgresql://me@example.org:***@host/db"),
        ("mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Dpw%3BX%3D1", "mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3D***%3BX%3D1"),
        ("postgresql+psycopg2://user:p/w#1?@host:5432/db", "postgresql+psycopg2://user:***@host:5432/db"),
        ("mysql://user:12/34@host/db", "mysql://user:***@host/db"),
        ("s3://key:secret@bucket/prefix?region=eu", "s3://key:***@bucket/prefix?region=eu"),
        ("https://host/x?a=1&token=t0&b=2", "https://host/x?a=1&token=***&b=2"),
        ("https://host/x?X-Amz-Credential=AK%2Fus&X-Amz-Signature=0af", "https://host/x?X-Amz-Credential=***&X-Amz-Signature=***"),
        ("https://acc.blob.core.windows.net/c?sv=1&sig=a%2Fb&se=2", "https://acc.blob.core.windows.net/c?sv=1&sig=***&se=2"),
        ("remote https://host/x?token=t.0: no answer.", "remote https://host/x?token=***: no answer."),
        ("http://host?api_key=k;auth=z", "http://host?api_key=***;auth=***"),
        ("no answer of 'http://a:b@c/' nor \"http://d:e@f\"", "no answer of 'http://a:***@c/' nor \"http://d:***@f\""),
        ("failed: host=h password=pw dbname=d", "failed: host=h password=*** dbname=d"),
    ],
)  # fmt: skip
def test_a_password_is_hidden_and_the_rest_is_shown(uri: str, seen: str) -> None:
    assert redact(uri) == seen
    assert redact(seen) == seen
    assert holds_secret(uri)


@pytest.mark.parametrize(
    "text",
    [
        "http://host:5000/a@b", "http://[::1]:5000/a@b", "http://127.0.0.1:5000", "postgresql://mlflow@host/db", "s3://bucket/a/b@v2?region=eu",
        "abfs://container@account.dfs.core.windows.net/x",
        "abfss://container@host:443/a@b", "file:///tmp/a:b@c", "sqlite:////tmp/mlflow.db",
        "zip://::file:///tmp/x.zip", "key=1 of seed=2, design=3, monkey: 4@5", "me@example.org: 3 of 4",
    ],
)  # fmt: skip
def test_what_is_no_password_stays(text: str) -> None:
    assert redact(text) == text
    assert not holds_secret(text)


UNQUOTED = ["it's", "pa ss", 'q"<z>', "tab\tnew\nline"]


@pytest.mark.parametrize(
    ("scheme", "password"),
    [
        *(
            (scheme, pw)
            for scheme in ("http://", "HTTPS://", "postgresql://", "s3://")
            for pw in (*UNQUOTED, "p:w://x")
        ),
        # Without a scheme a slash is the start of a path.
        *(("", pw) for pw in UNQUOTED),
    ],
)
def test_a_password_that_was_not_quoted_is_hidden_where_the_uri_is_known(
    scheme: str, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, seen = f"{scheme}user:{password}@host:5000/x", f"{scheme}user:***@host:5000/x"
    assert redact_uri(uri) == seen
    assert redact_uri(seen) == seen
    assert holds_secret(uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert whole(seen, "MLFLOW_TRACKING_URI") == uri
    # No end of the password can be seen in this text, but this process knows the URI.
    assert redact(f"no answer of {uri}/api: refused") == f"no answer of {seen}/api: refused"


def test_a_long_text_takes_a_time_linear_in_its_length() -> None:
    begin = time.process_time()
    for text in ("http://", "http://a", "x://a:b", "a:b@", "%3Btoken", "http://a:"):
        redact(text * 20_000)
        redact_uri(text * 20_000)
    assert time.process_time() - begin < 5


@given(
    user=st.text("ab%_-", max_size=5),
    password=st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=4),
)
def test_no_password_gets_through(user: str, password: str) -> None:
    password = f"~{password}"  # what no other part of the message holds
    for scheme in ("http", "postgresql", "s3"):
        said = redact(f"cannot reach {scheme}://{user}:{quote(password, safe='')}@host/x: refused")
        assert said == f"cannot reach {scheme}://{user}:***@host/x: refused"


def test_errors_show_no_password_however_long_they_are() -> None:
    uri = f"http://user:{'s3cret' * 40}@host/{'x' * 5_000}"
    for error in (
        InputError(f"MLflow at {uri}: refused"),
        InputError(shown(uri)),
        InputError(shown([uri, {"a": uri}])),
    ):
        assert "s3c" not in str(error)
        assert "user:***@host" in str(error)


def test_a_whole_uri_comes_back_only_out_of_this_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELD", "http://user:pw@host/x")
    assert whole("http://user:***@host/x", "HELD") == "http://user:pw@host/x"
    for other in ("http://user:***@elsewhere/x", "http://host/x", "sqlite:///x.db"):
        assert whole(other, "HELD") == other
    monkeypatch.delenv("HELD")
    assert whole("http://user:***@host/x", "HELD") == "http://user:***@host/x"


def test_a_login_is_split_off_as_it_was_before_it_was_quoted() -> None:
    assert split_login("http://us%40er:p%3A%2F%40@host:1/x?y=1") == (
        "http://host:1/x?y=1", {"user": "us@er", "password": "p:/@"},
    )  # fmt: skip
    # A parser takes these for the end of the host's name.
    assert split_login("http://user:p/w?x#y@host:1/x") == (
        "http://host:1/x", {"user": "user", "password": "p/w?x#y"},
    )  # fmt: skip
    assert split_login("http://host:1/x") == ("http://host:1/x", {})
