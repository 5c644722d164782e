"""Places: local paths, and URLs that fsspec knows (s3://, gs://, hf://, https://, memory://).

Files at URLs are read in parts and written whole. fsspec (https://filesystem-spec.readthedocs.io) comes with torch and
Lightning; most services want a package of their own beside it, which says how it takes credentials. None of them is
imported for local paths.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

PACKAGES = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub", "http": "aiohttp",
    "https": "aiohttp", "abfs": "adlfs", "az": "adlfs", "sftp": "paramiko", "ssh": "paramiko",
}  # fmt: skip
AGAIN = 1.0, 4.0  # seconds until a web server that fails is asked again; packages of other services do so themselves
# File systems with connections, which are never closed: a forked process that did would make its parent, with which it
# shares what tells that data has come, wait for ever.
_kept = dict[int, Any]()
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(::[A-Za-z][A-Za-z0-9+.-]+)*://")
_SECRET = re.compile(r"(?<=://)[^/\s'\"]*@|(?<=[^\s'\"?#])[?#][^\s'\"]*")  # of a URL: user and password; query
_NO_PARTS = (
    "expected a server that sends parts of a file (HTTP range requests) and says its size, got another; copy the file "
    "here and give its path"
)
_IN_TEXT = re.compile(rf"{_URL.pattern}[^\s'\"]*")


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a URL and no local one."""
    return isinstance(path, str) and _URL.match(path) is not None


def local(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """A path unchanged, but file:// and local:// URLs as what they name here."""
    text = os.fspath(path)
    return text.partition("://")[2] if re.match(r"(?i)(file|local)://", text) else path


def named(path: str | os.PathLike[str]) -> str | Path:
    """A path as people may see it: of a URL neither user and password nor query, which may hold a key."""
    return _SECRET.sub("", str(path)) if is_url(path) else Path(path)


def check_plain(path: str | os.PathLike[str]) -> None:
    """Raise ValueError for a URL with user, password or query, which a run's configuration would keep."""
    if is_url(path) and str(named(path)) != path:
        raise ValueError(
            f"expected a URL without a password or a query, got one with them for {named(path)}, and the run's "
            "configuration would keep it; give credentials in the environment"
        )


def harmless(text: str) -> str:
    """A text, such as a library's error, in which URLs are as `named` shows them."""
    return _IN_TEXT.sub(lambda found: _SECRET.sub("", found[0]), text)


def join(place: str, name: str) -> str:
    """The URL of something below a URL."""
    start, mark, query = place.partition("?")
    return f"{start.rstrip('/')}/{name}{mark}{query}"


def name_of(place: str) -> str:
    """The last part of a URL's path. Raises ValueError for a URL without one."""
    name = str(named(place)).partition("://")[2].rstrip("/").rpartition("/")[2]
    if name in ("", ".", "..") or "\\" in name:
        raise ValueError(f"expected a URL that ends in a name, got {named(place)}; give one, as in s3://bucket/NAME")
    return name


def opened(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file to be read at random; of a URL each `read` is one request of exactly its bytes.

    Raises OSError, FileNotFoundError, PermissionError, or ValueError where a package is missing.
    """
    path = local(path)
    if not is_url(path):
        return open(path, "rb")
    url = str(path)
    with _explained(url):
        fs, inner = _system(url)
        file = fs.open(inner, "rb", cache_type="none")  # no reading ahead: chunks are far apart
        try:
            file.seek(1)
        except ValueError as error:
            raise OSError(f"{named(url)}: {_NO_PARTS}") from error
        file.seek(0)
    return cast(BinaryIO, _Remote(file, url))


class _Remote:
    """An open file of fsspec whose errors are those of `opened`."""

    def __init__(self, file: Any, url: str) -> None:
        self._file, self._url = file, url

    def read(self, size: int) -> bytes:
        if not size:
            return b""
        with _explained(self._url):
            for pause in AGAIN if self._url.lower().startswith("http") else ():
                try:
                    return bytes(self._file.read(size))
                except Exception as error:
                    refused = 400 <= getattr(error, "status", 0) < 500
                    if refused or isinstance(error, ValueError | FileNotFoundError):
                        raise
                    time.sleep(pause)
            return bytes(self._file.read(size))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with _explained(self._url):
            return int(self._file.seek(offset, whence))

    def __enter__(self) -> _Remote:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def kind_of(url: str) -> str:
    """What is at a URL: "file", "directory", or "" for nothing. Raises as `opened` does."""
    with _explained(url):
        fs, inner = _system(url)
        fs.invalidate_cache()  # of listings from before
        try:
            return str(fs.info(inner)["type"])
        except FileNotFoundError as error:
            if _status(error) & {401, 403}:
                raise
            return ""


def check_new(url: str, overwrite: bool = False) -> None:
    """Raise for a URL at which nothing can or must be written: now, not after minutes of work."""
    name_of(url)
    if url.partition(":")[0].lower() in ("http", "https"):
        raise ValueError(f"{named(url)}: expected a place that can be written, got a web server; give another output=")
    kind = kind_of(url)
    if kind and (kind != "file" or not overwrite):
        remedy = "" if kind != "file" else ", or overwrite=true to replace it"
        raise FileExistsError(f"{named(url)}: expected a new {kind}, got one that exists; give another name{remedy}")


def fetch(url: str, target: Path, wanted: Callable[[str], bool] = lambda _: True) -> Path:
    """Copy a file, or all files below a folder, to the local path `target`, which it returns.

    wanted: of names below a folder, whether the bytes are of interest; of others there is an empty file. Raises as
    `opened` does, and ValueError for names that would lie elsewhere.
    """
    with _explained(url):
        fs, inner = _system(url)
        if fs.info(inner)["type"] == "file":
            fs.get_file(inner, str(target))
            return target
        top = inner.rstrip("/") + "/"
        names = sorted(path.removeprefix(top) for path in fs.find(inner) if path.startswith(top))
    if not names:
        raise FileNotFoundError(f"{named(url)}: expected a file or a folder with files, got none; check the URL")
    for name in names:
        if any(part in ("", ".", "..") for part in name.split("/")) or "\\" in name or "\0" in name:
            raise ValueError(f"{named(url)}: expected names that stay below it, got {name[:200]!r}; rename that object")
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if wanted(name):
            with _explained(join(url, name)):
                fs.get_file(top + name, str(path))
        else:
            path.touch()
    return target


def fetch_beside(url: str, target: Path) -> None:
    """Copy the files beside one whose names begin with its own, as NAME.vectors.npy does, beside the local `target`.

    Of a place that does not list its files, nothing is copied. Raises as `fetch` does.
    """
    found = list[str]()
    with contextlib.suppress(Exception):
        fs, inner = _system(url)
        found = fs.ls(inner.rpartition("/")[0], detail=False)
    for path in found:
        start, _, name = path.rpartition("/")
        if path.startswith(f"{inner}.") and "\\" not in name:
            with _explained(join(start, name)):
                fs.get_file(path, str(target.with_name(name)))


def of_run(name: str) -> bool:
    """Whether a file of a run's folder is of what codes: neither a checkpoint nor TensorBoard's events."""
    return "/" not in name and Path(name).suffix in (".yaml", ".pt", ".safetensors", ".txt", ".md")


def put(source: Path, url: str) -> None:
    """Copy a local file, or all files of a folder, to a URL.

    Each object is complete or absent, and one that is there stays until then; of a folder all arrive or none. Raises
    OSError after moving what could not be copied to a new local folder, which the message names.
    """
    files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else []
    done = list[str]()
    try:
        with _explained(url):
            fs, inner = _system(url)
            with fs.transaction:  # where uploads are not complete or absent of themselves
                if not source.is_dir():
                    fs.put_file(str(source), inner)
                for path in files:
                    name = f"{inner.rstrip('/')}/{path.relative_to(source).as_posix()}"
                    done.append(name)
                    fs.put_file(str(path), name)
            fs.invalidate_cache()
    except BaseException as error:
        with contextlib.suppress(Exception):
            for name in done:
                with contextlib.suppress(FileNotFoundError):
                    fs.rm_file(name)
        if not isinstance(error, OSError | ValueError):
            raise
        kept = Path(tempfile.mkdtemp(prefix="toolkit-")) / name_of(url)
        shutil.move(source, kept)
        raise OSError(f"{error}; what was made is kept here: {kept}") from error


def _system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    from fsspec.core import url_to_fs

    fs, inner = url_to_fs(url)
    if getattr(fs, "async_impl", False):
        _kept[id(fs)] = fs
    return fs, str(inner)


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
    """What went wrong at a URL, whatever library says so, as an error of ours that holds no credentials."""
    place, scheme = named(url), url.partition("://")[0].rpartition("::")[2].lower()
    try:
        yield
    except ImportError as error:
        package = PACKAGES.get(scheme, "")
        raise ValueError(
            f"{place}: expected the package {package or 'of this kind of place'}, got none installed"
            f"{'' if package else f' ({harmless(str(error))})'}; do: pip install {package or '...'}"
        ) from None
    except Exception as error:
        raise _error(place, scheme, error) from None


def _error(place: str | Path, scheme: str, error: Exception) -> Exception:
    text, kind = harmless(" ".join(str(error).split()))[:300], type(error).__name__
    if text.startswith(f"{place}: "):  # one of ours
        return type(error)(text) if type(error) in (ValueError, OSError, FileNotFoundError) else error
    if isinstance(error, PermissionError) or _status(error) & {401, 403} or "Credential" in kind or "Gated" in kind:
        how = f"as the package {PACKAGES[scheme]} takes them, in the environment say" if scheme in PACKAGES else ""
        return PermissionError(
            f"{place}: expected permission, got none ({kind}); do: ask for it, or give credentials {how}".rstrip()
        )
    cause = error.__cause__
    if (
        isinstance(error, FileNotFoundError)
        and scheme in ("http", "https")
        and not isinstance(cause, FileNotFoundError)
    ):
        # fsspec says so whatever the server answers, and if there is none.
        error = cause if isinstance(cause, Exception) and not _status(cause) & {404, 410} else error
        text, kind = harmless(" ".join(str(error).split()))[:300], type(error).__name__
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"{place}: expected a file, folder or bucket that exists, got none; check the URL")
    if isinstance(error, ValueError) and "range requests" in text:  # of a server that does not say so before
        return OSError(f"{place}: {_NO_PARTS}")
    if isinstance(error, ValueError) and "protocol" in text.lower():
        return ValueError(f"{place}: expected a URL of a kind that fsspec knows, got {scheme}://; give another")
    return OSError(f"{place}: expected to read or write it, got {kind}: {text}; check the network, and try again")


def _status(error: Exception) -> set[Any]:
    """Numbers by which servers say what went wrong."""
    numbers = (getattr(found, "status", None) or getattr(found, "code", None) for found in (error, error.__cause__))
    return {number for number in numbers if isinstance(number, int)}
