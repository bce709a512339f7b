"""A real web server on 127.0.0.1 that fails in the ways servers fail, and small archives in CIFAR's real format."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import time
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler

import numpy as np

from clipkd.plugins.datasets.cifar import Cifar
from tests.loopback import Loopback


@dataclass(frozen=True)
class Fault:
    """How one request is answered; without any of these, properly."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """Sent in place of the file, with status 200."""
    cut_after: int | None = None
    """Bytes of the answer after which the connection is closed."""
    stall_after: int | None = None
    """Bytes of the answer after which nothing more comes, for `stall` seconds."""
    stall: float = 2.0
    ignore_range: bool = False
    is_endless: bool = False
    """The body comes again and again, without an announced length."""


class Site(Loopback):
    """Files under paths, faults to come for each path, and the requests that came."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, deque[Fault]] = defaultdict(deque)
        self.always: Fault | None = None
        self.bytes_per_second: float | None = None
        self.requests: list[tuple[str, str | None]] = []
        """Path and Range header of each request."""
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.requests.append((self.path, self.headers.get("Range")))
                path = self.path.partition("?")[0]
                fault = site.faults[path].popleft() if site.faults[path] else site.always or Fault()
                try:
                    site.answer(self, path, fault)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def do_HEAD(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

        self.serve(Handler)

    def answer(self, handler: BaseHTTPRequestHandler, path: str, fault: Fault) -> None:
        body, headers, status = self.files.get(path), dict(fault.headers), 200
        if fault.status is not None or (body is None and fault.body is None):
            body, status = b"no", fault.status or 404
        elif fault.body is not None:
            body = fault.body
        else:
            asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range") or "")
            if asked and not fault.ignore_range:
                start, total = int(asked[1]), len(body)
                if start >= total:
                    body, status, headers["Content-Range"] = b"", 416, f"bytes */{total}"
                else:
                    body, status = body[start:], 206
                    headers.setdefault("Content-Range", f"bytes {start}-{total - 1}/{total}")
        handler.send_response(status)
        announced = {} if fault.is_endless else {"Content-Length": str(len(body))}
        for name, value in (announced | headers).items():
            handler.send_header(name, value)
        handler.end_headers()
        while fault.is_endless:
            self.send(handler, body)
        stop = min(x for x in (fault.cut_after, fault.stall_after, len(body)) if x is not None)
        self.send(handler, body[:stop])
        if fault.stall_after is not None:
            time.sleep(fault.stall)
        if stop < len(body):
            handler.close_connection = True

    def send(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        if self.bytes_per_second is None:
            handler.wfile.write(body)
            return
        step = max(1, int(self.bytes_per_second / 50))
        for start in range(0, len(body), step):
            handler.wfile.write(body[start : start + step])
            time.sleep(0.02)


@dataclass
class SmallCifar:
    """A CIFAR archive with few records, and what it was made of."""

    spec: Cifar
    archive: bytes
    images: dict[str, np.ndarray]
    """Split -> pixels [N, 32, 32, 3]."""
    labels: dict[str, np.ndarray]
    names: list[str]


Member = tuple[str, bytes]


def small_cifar(spec: Cifar, per_batch: int, test: int, seed: int = 0) -> SmallCifar:
    """Return an archive as `spec` describes it, with `per_batch` records in each training member."""
    generator = np.random.default_rng(seed)
    counts = {"train": per_batch * len(spec.train_members), "test": test}
    # The class of a record goes round, so that every class is there.
    labels = {part: np.arange(count) % spec.classes for part, count in counts.items()}
    images = {part: generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8) for part, count in counts.items()}
    names = [f"class{number}" for number in range(spec.classes)]
    members: list[Member] = [(spec.names_member, ("\n".join(names) + "\n\n").encode())]
    for batch, member in enumerate(spec.train_members):
        rows = slice(batch * per_batch, (batch + 1) * per_batch)
        members.append((member, record_bytes(images["train"][rows], labels["train"][rows], spec.label_bytes)))
    members.append((spec.test_member, record_bytes(images["test"], labels["test"], spec.label_bytes)))
    members.append((f"{spec.test_member.partition('/')[0]}/readme.html", b"<html></html>"))
    archive = tar_gz(members)
    small = replace(
        spec,
        md5=hashlib.md5(archive).hexdigest(),
        archive_bytes=len(archive),
        train_records=counts["train"],
        test_records=test,
    )
    return SmallCifar(small, archive, images, labels, names)


def record_bytes(images: np.ndarray, labels: np.ndarray, label_bytes: int) -> bytes:
    """Return records, written plainly: labels (a coarse one first where there are two), then R, G and B rows."""
    out = bytearray()
    for image, label in zip(images, labels, strict=True):
        out += bytes([label // 5, label] if label_bytes == 2 else [label])
        for channel in range(3):
            for row in range(32):
                out += bytes(image[row, :, channel])
    return bytes(out)


def tar_gz(members: Iterable[Member]) -> bytes:
    """Return a .tar.gz of regular files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def untar(archive: bytes) -> list[Member]:
    """Return an archive's regular files."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
