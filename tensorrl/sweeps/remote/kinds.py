"""Kinds of storage behind a remote: a bucket, a folder that machines mount, or anything else that can be read.

Each kind reads, writes and lists files by checked names. One operation makes claims exact: `swap` writes a file only if
it has not changed since it was looked at.
"""

from __future__ import annotations

import os
import re
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from tensorrl import files
from tensorrl.errors import InputError
from tensorrl.trial.names import inner_path

if TYPE_CHECKING:
    from collections.abc import Iterator

_BUCKETS = ("s3", "gs", "gcs", "az", "abfs", "abfss")
_ALLOWED = (
    "a URI such as s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX "
)
_ALLOWED += "or file:///FOLDER"
_ONLY_READ = f"is only read, because no claim there could be exact (allowed for a sweep: {_ALLOWED})"
_NO_BUCKET = re.compile("NoSuchBucket|ContainerNotFound|bucket does not exist")
_OPTIONS = ("endpoint_override", "region", "scheme")
_LOCK = ".lock"
_MOST_BYTES = 256 << 20
_MOST_OF_STATE = 4 << 30
# No retries here: the caller retries as long as that makes sense.
_CLIENT: Any = {"timeout": "120s", "connect_timeout": "10s", "allow_http": True}
_RETRIES: Any = {"max_retries": 2}


class Held(NamedTuple):
    """The state of a file at one moment: its content, and a tag that distinguishes this write from all others."""

    content: bytes
    e_tag: str | None


class Kind(Protocol):
    """Files by their names. Each method raises OSError if the storage does not answer or refuses."""

    def check(self) -> None:
        """Checks that the storage (a bucket, say) exists.

        Raises:
            FileNotFoundError: it does not exist.
        """

    def look(self, name: str) -> Held | None:
        """Returns a file, or None if it does not exist."""

    def write(self, name: str, content: bytes) -> None:
        """Writes a file atomically."""

    def swap(self, name: str, content: bytes, held: Held | None) -> bool:
        """Writes a file if its state is still `held` (None: it does not exist); returns whether it was written."""

    def remove(self, name: str) -> None:
        """Removes a file, if it exists."""

    def names(self, below: str) -> list[str]:
        """Returns the names of all files below a folder, in any order; `below` may be empty."""


def open_kind(uri: str) -> Kind:
    """Opens the storage that a remote's URI names.

    Raises:
        InputError: the kind of URI is unknown.
    """
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        # The message omits the URI, because a password in it cannot be found and hidden.
        raise InputError(f"remote: is not a URI: {error} (allowed: {_ALLOWED})") from None
    if not parts.scheme or "://" not in uri:
        raise InputError(f"remote {uri!r}: is not a URI (allowed: {_ALLOWED})")
    if parts.scheme == "file":
        folder = Path(unquote(parts.path))
        if parts.netloc or not folder.is_absolute():
            raise InputError(f"remote {uri}: names no absolute folder (allowed: {_ALLOWED})")
        return _Folder(folder)
    if parts.scheme in _BUCKETS:
        if not parts.netloc:
            raise InputError(f"remote {uri}: names no bucket (allowed: {_ALLOWED})")
        return _Bucket(uri)
    return _Readable(uri)


class _Folder:
    """A folder that all machines mount. A file lock makes `swap` exact; it must work between the machines."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def check(self) -> None: ...

    def look(self, name: str) -> Held | None:
        try:
            with files.open_plain(self._path(name)) as file:
                _check_size(name, os.fstat(file.fileno()).st_size)
                return Held(file.read(), None)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, content: bytes) -> None:
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(path, content)

    def swap(self, name: str, content: bytes, held: Held | None) -> bool:
        lock = self._path(f"{name}{_LOCK}")
        lock.parent.mkdir(parents=True, exist_ok=True)
        with files.file_lock(lock):
            if self.look(name) != held:
                return False
            self.write(name, content)
        return True

    def remove(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def names(self, below: str) -> list[str]:
        found = [path for path in (self._folder / below).rglob("*") if path.is_file() and not files.is_draft(path)]
        return [path.relative_to(self._folder).as_posix() for path in found if path.suffix != _LOCK]

    def _path(self, name: str) -> Path:
        return inner_path(self._folder, name, where=str(self._folder))


class _Bucket:
    """A bucket of S3 (or a compatible store), Google or Azure, by obstore: its conditional `put` makes `swap` exact."""

    def __init__(self, uri: str) -> None:
        import obstore.store

        self._bucket = urlsplit(uri).netloc.partition("@")[0]
        where = urlsplit(uri)._replace(query="", scheme=re.sub("^gcs$", "gs", urlsplit(uri).scheme)).geturl()
        try:
            login = _s3_login(uri) if where.startswith("s3:") else {}
            self._store = obstore.store.from_url(where, client_options=_CLIENT, retry_config=_RETRIES, **login)
        except InputError as error:
            raise InputError(f"remote {uri}: {error}") from None
        except Exception as error:  # obstore and boto3 have no error in common
            raise InputError(f"remote {uri}: {_first_line(error)} (allowed: {_ALLOWED})") from None

    def check(self) -> None:
        try:
            self.look("tensorrl")
        except OSError as error:
            if _NO_BUCKET.search(str(error)):
                raise FileNotFoundError(f"there is no bucket {self._bucket}") from None
            raise

    def look(self, name: str) -> Held | None:
        import obstore

        try:
            with _as_os_error():
                found = obstore.get(self._store, name)
                _check_size(name, found.meta["size"])
                return Held(bytes(found.bytes()), found.meta["e_tag"])
        except FileNotFoundError as error:
            if _NO_BUCKET.search(str(error)):
                raise OSError(*error.args) from None
            return None

    def write(self, name: str, content: bytes) -> None:
        import obstore

        with _as_os_error():
            obstore.put(self._store, name, content)

    def swap(self, name: str, content: bytes, held: Held | None) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: Any = "create"
        if held is not None:
            if held.e_tag is None:
                raise OSError(f"{name}: has no e-tag, without which two machines could hold one cell")
            mode = {"e_tag": held.e_tag}
        with _as_os_error():
            try:
                obstore.put(self._store, name, content, mode=mode)
            except (AlreadyExistsError, PreconditionError, FileNotFoundError):
                return False
        return True

    def remove(self, name: str) -> None:
        import obstore

        with _as_os_error(), suppress(FileNotFoundError):
            obstore.delete(self._store, name)

    def names(self, below: str) -> list[str]:
        import obstore

        with _as_os_error():
            found = {each["path"]: each["size"] for page in obstore.list(self._store, below or None) for each in page}
        # Arrow, with which Tune writes, creates empty objects in place of folders.
        above = {"", *(name[:at] for name in found for at, letter in enumerate(name) if letter == "/")}
        return [name for name, size in found.items() if size or name not in above]


class _Readable:
    """Storage that fsspec can read, such as an archive. It is read-only, because claims on it could not be exact."""

    def __init__(self, uri: str) -> None:
        import fsspec

        try:
            self._files, root = fsspec.core.url_to_fs(uri)
        except Exception as error:  # each of its many file systems fails in its own way
            raise InputError(f"remote {uri}: {_first_line(error)} (allowed: {_ALLOWED})") from None
        self._root = str(root).rstrip("/")
        self._lock = threading.Lock()  # an archive is one open file

    def check(self) -> None: ...

    def look(self, name: str) -> Held | None:
        try:
            with _as_os_error(), self._lock:
                path = f"{self._root}/{name}" if self._root else name
                # What it will be once it is unpacked. Some file systems do not know a size.
                _check_size(name, self._files.info(path).get("size") or 0)
                return Held(self._files.cat_file(path), None)
        except (FileNotFoundError, IsADirectoryError):
            return None

    def write(self, name: str, content: bytes) -> None:
        raise OSError(_ONLY_READ)

    def swap(self, name: str, content: bytes, held: Held | None) -> bool:
        raise OSError(_ONLY_READ)

    def remove(self, name: str) -> None: ...

    def names(self, below: str) -> list[str]:
        start = "/".join(part for part in (self._root, below) if part)
        above = len(self._root) + 1 if self._root else 0
        with _as_os_error(), self._lock:
            return [str(path)[above:] for path in self._files.find(start)]


def _s3_login(uri: str) -> dict[str, Any]:
    """Returns the settings that obstore does not find itself: Arrow's URI options, profiles, and a bucket's region.

    Raises:
        InputError: an option of the URI is unknown.
    """
    options = dict(parse_qsl(urlsplit(uri).query))
    for name in options:
        if name not in _OPTIONS:
            raise InputError(f"unknown option {name!r} (allowed: {', '.join(_OPTIONS)})")
    found: dict[str, Any] = {}
    if "endpoint_override" in options:
        found["endpoint"] = f"{options.get('scheme', 'https')}://{options['endpoint_override']}"
    region = options.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if "AWS_ACCESS_KEY_ID" not in os.environ and os.environ.get("AWS_SKIP_SIGNATURE", "").lower() != "true":
        # Profiles, single sign-on and instance roles, found in the same way as by Amazon's own tools.
        import boto3
        from obstore.auth.boto3 import Boto3CredentialProvider

        session = boto3.Session()
        found["credential_provider"] = Boto3CredentialProvider(session)
        region = region or session.region_name
    if region:
        found["region"] = region
    return found


def _check_size(name: str, size: int) -> None:
    """Refuses a file that is too large to be one of a store's. Files are read as a whole.

    Raises:
        InputError: it is larger than any file that this program writes.
    """
    most = _MOST_OF_STATE if name.endswith((".safetensors", ".zst")) else _MOST_BYTES
    if size > most:
        raise InputError(f"{name}: has {size:,} bytes (allowed: {most:,} at most)")


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Turns errors of obstore and fsspec into OSError, which callers retry or report."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(_first_line(error)) from None
    except (OSError, InputError):
        raise
    except Exception as error:  # obstore, zipfile and fsspec's many others have no error in common
        raise OSError(_first_line(error)) from None


def _first_line(error: Exception) -> str:
    """Returns an error's message without obstore's dump of its data structures and without XML tags."""
    said = str(error).partition("\n\nDebug source")[0]
    return " ".join(re.sub(r"<\?.*?\?>|<[^<>]*>", " ", said).split()) or type(error).__name__
