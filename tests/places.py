"""File systems for tests of places: one in memory that counts what it is asked for, and a web server with ranges."""

import contextlib
import functools
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem


class Counting(AbstractFileSystem):
    """counting://: objects under names, as in S3: complete or absent; requests of bytes are written down.

    wrong: of an operation (info, read, write), the error that it raises.
    """

    protocol = "counting"
    cachable = False
    objects: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[tuple[int, int]]] = []
    wrong: ClassVar[dict[str, Exception]] = {}

    @classmethod
    def empty(cls) -> None:
        for kept in (cls.objects, cls.asked, cls.wrong):
            kept.clear()

    def _fail(self, operation: str) -> None:
        if operation in self.wrong:
            raise self.wrong[operation]

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        self._fail("info")
        path = self._strip_protocol(path)
        if path in self.objects:
            return {"name": path, "size": len(self.objects[path]), "type": "file"}
        if any(name.startswith(f"{path}/") for name in self.objects):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def find(self, path: str, **options: Any) -> list[str]:
        self._fail("info")
        return sorted(name for name in self.objects if name.startswith(f"{path}/"))

    def _open(self, path: str, mode: str = "rb", **options: Any) -> AbstractBufferedFile:
        return _File(self, path, mode, **options)

    def rm_file(self, path: str) -> None:
        del self.objects[self._strip_protocol(path)]

    def mkdirs(self, path: str, exist_ok: bool = False) -> None:
        pass


class _File(AbstractBufferedFile):
    def _fetch_range(self, start: int, end: int) -> bytes:
        self.fs._fail("read")
        self.fs.asked.append((start, end))
        return bytes(self.fs.objects[self.path][start:end])

    def _initiate_upload(self) -> None:
        self.parts: list[bytes] = []

    def _upload_chunk(self, final: bool = False) -> bool:
        self.parts.append(self.buffer.getvalue())
        self.fs._fail("write")
        if final and self.autocommit:
            self.commit()
        return True

    def commit(self) -> None:
        self.fs.objects[self.path] = b"".join(self.parts)

    def discard(self) -> None:
        pass


def clean_memory() -> None:
    """Forget all of memory://."""
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


class Served:
    """What a web server was asked for."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.ranges: list[tuple[int, int]] = []  # of GET
        self.heads = 0
        self.failing = 0  # how many of the next GETs are answered by 503


@contextlib.contextmanager
def serve(folder: Path, ranges: bool | None = True, status: int = 200) -> Iterator[Served]:
    """Serve the files of a folder over HTTP, in parts if `ranges`; None: not, and it does not say so.

    status: another than 200 is the answer to all requests.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, folder, ranges, status))
    server.served = Served(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.served  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, folder: Path, ranges: bool | None, status: int, *rest: Any) -> None:
        self.folder, self.by_ranges, self.status = folder, ranges, status
        super().__init__(*rest)

    def log_message(self, *rest: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.server.served.heads += 1  # type: ignore[attr-defined]
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def _answer(self, body: bool) -> None:
        file = self.folder / self.path.partition("?")[0].lstrip("/")
        status = self.status if self.status != 200 or file.is_file() else 404
        if body and self.server.served.failing:  # type: ignore[attr-defined]
            self.server.served.failing -= 1  # type: ignore[attr-defined]
            status = 503
        data = file.read_bytes() if status == 200 else b""
        first, last, size = 0, len(data), len(data)
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if body and status == 200 and asked and self.by_ranges:
            first, last, status = int(asked[1]), min(int(asked[2]) + 1, size), 206
        if body and status in (200, 206):
            self.server.served.ranges.append((first, last))  # type: ignore[attr-defined]
        self.send_response(status)
        self.send_header("Content-Length", str(last - first))
        if self.by_ranges is not None:
            self.send_header("Accept-Ranges", "bytes" if self.by_ranges else "none")
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last - 1}/{size}")
        self.end_headers()
        if body:
            self.wfile.write(data[first:last])
