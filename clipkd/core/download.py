"""Downloading one file whose checksum is known: resumable, and nothing at its place until it is right.

The bytes go into `<name>.part` beside the final path. An interrupted download goes on from there,
in the same process or a later one; a `.part` is never overwritten in place but thrown away and
begun again, and the checksum alone decides whether it becomes the file.
"""

from __future__ import annotations

import email.utils
import fcntl
import hashlib
import http.client
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from clipkd.core.disk import FULL, explained
from clipkd.core.environment import redacted
from clipkd.core.errors import DataError, InputError, MachineError
from clipkd.core.files import sync
from clipkd.core.progress import progress, say
from clipkd.core.version import __version__

TRIES = 5
"""Tries in a row that bring less than a piece, before we give up."""
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds between tries: doubled each time; a server's Retry-After is honoured up to the longest."""
TIMEOUT = (15.0, 30.0)
"""Seconds to wait for a connection, and for the next bytes."""
SLOW_SECONDS, LEAST_BYTES = 60.0, 60 << 10
"""A server that sends fewer bytes in so many seconds (1 KiB/s) is given up as one that is silent."""
MOST_BYTES = 64 << 30
"""Where a file's size is not known, no more of it is taken (64 GiB)."""
PIECE = 1 << 20
READ = 1 << 14
NUMBER = re.compile(r"\d{1,18}", re.ASCII)
TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Checksum:
    """What a file's bytes must give."""

    algorithm: Literal["md5", "sha256"]
    value: str
    size: int = MOST_BYTES
    """Bytes of the file; no more than these are taken. By default: a limit, for a file of unknown size."""

    def of(self, path: Path) -> str:
        """Return the file's checksum, in hex digits."""
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.new(self.algorithm, usedforsecurity=False)).hexdigest()


class Again(Exception):
    """A try failed in a way that another try may cure."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def download(url: str, path: Path, checksum: Checksum, offline: str) -> Path:
    """Bring the file at `url` to `path`, unless it is there already, and return `path`.

    Several processes may ask for the same file at once: one downloads, the others wait.

    Args:
        url: http or https; a redirect from https to http is refused.
        path: where the file goes.
        checksum: what its bytes must give.
        offline: what to do on a machine without internet; ends the error message.

    Raises:
        InputError: `url` is not a web address.
        MachineError: network or server fail; names url, status and number of tries.
        DataError: the server's file is another one than expected, or longer, twice.
    """
    if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
        raise InputError(f"'{redacted(url)}' is not a web address (http:// or https://)")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part_of(path) as part:
            return fetch_checked(url, path, part, checksum, offline)
    except OSError as error:
        where = f"can't write {path.parent}: {error.strerror or error}"
        reason = explained(error, path) if error.errno in FULL else where
        raise MachineError(f"{redacted(url)}: {reason}") from error


@contextmanager
def part_of(path: Path) -> Iterator[Path]:
    """Yield the unfinished file of `path`, which is ours alone until the block ends."""
    with open(path.with_name(f".{path.name}.lock"), "a", opener=no_link) as lock:
        if locked(lock, path.name):
            yield path.with_name(f"{path.name}.part")
            return
        # A file system without locks: an unfinished file that no other process knows, and not kept.
        part = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}.part")
        try:
            yield part
        finally:
            part.unlink(missing_ok=True)


def no_link(name: str, flags: int) -> int:
    """Open a file, never through a link: what lies in a folder that others can write must not lead elsewhere."""
    return os.open(name, flags | os.O_NOFOLLOW, 0o666)


def locked(lock: IO[str], name: str) -> bool:
    """Wait until `lock` is ours, for as long as it is open; return whether the file system has locks."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"another process is downloading {name}; waiting for it")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def fetch_checked(url: str, path: Path, part: Path, checksum: Checksum, offline: str) -> Path:
    """Download into `part` until the checksum fits, then move it to `path`."""
    if path.exists():
        if checksum.of(path) == checksum.value:
            return path
        say(f"{path} is damaged; downloading it again")
        path.unlink()
    for is_last in (False, True):
        fetch(url, part, checksum.size, offline)
        found = checksum.of(part)
        if found == checksum.value:
            sync(part)
            part.replace(path)
            sync(path.parent)
            return path
        size, is_page = part.stat().st_size, looks_like_page(part)
        length = f"more than {checksum.size:,}" if size > checksum.size else f"{size:,}"
        part.unlink()
        if not is_last:
            say(f"{redacted(url)}: {checksum.algorithm} {found}, expected {checksum.value}; once more from the start")
    page = "; it is a web page, perhaps a login or an error page" if is_page else ""
    raise DataError(
        f"{redacted(url)} is not the expected file ({length} bytes{page}): "
        f"{checksum.algorithm} expected {checksum.value}, actual {found}. {offline}"
    )


def fetch(url: str, part: Path, most: int, offline: str) -> None:
    """Bring the whole of `url` into `part`, going on from what is there, in as many tries as it takes.

    Of a file longer than `most` bytes one byte more is taken: enough to see that it is another one.
    """
    failures, wait = 0, FIRST_WAIT
    with Courier() as courier:
        while True:
            before = size_of(part)
            try:
                courier.bring(url, part, most)
                return
            except Again as again:
                reason, asked = str(again), again.wait
            except requests.RequestException as error:
                raise MachineError(f"{redacted(url)}: {in_words(error)}, 1 try. {offline}") from None
            if size_of(part) - before >= PIECE:  # a bad line, but one that brings us on
                failures, wait = 0, FIRST_WAIT
            failures += 1
            if failures == TRIES:
                raise MachineError(f"{redacted(url)}: {reason}, after {TRIES} tries. {offline}")
            pause = min(LONGEST_WAIT, wait if asked is None else max(wait, asked))
            say(f"{redacted(url)}: {reason}; try {failures + 1} of {TRIES} in {pause:.0f} s")
            time.sleep(pause)
            wait *= 2


class Courier(requests.Session):
    """An HTTP session that never follows a redirect from https to http."""

    def __init__(self) -> None:
        super().__init__()
        # "identity": an archive that is sent as a gzip-encoded one would be unpacked on the way.
        self.headers.update({"User-Agent": f"clipkd/{__version__}", "Accept-Encoding": "identity"})

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        try:
            goal = urljoin(resp.url, target or "")
        except ValueError:
            raise requests.exceptions.InvalidSchema("redirected to something that is not an address") from None
        if urlsplit(resp.url).scheme == "https" and urlsplit(goal).scheme != "https":
            raise requests.exceptions.InvalidSchema(f"redirected from https to {redacted(goal)}: refused")
        return target

    def bring(self, url: str, part: Path, most: int) -> None:
        """Bring what `part` still lacks of `url`, in one request; raise Again where it stops early."""
        offset = size_of(part)
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        try:
            with self.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
                self.take(response, part, offset, most)
        except requests.exceptions.SSLError:
            raise  # a subclass of ConnectionError, but trying again cures no certificate
        except (requests.ConnectionError, requests.Timeout) as error:
            raise Again(in_words(error)) from None
        except urllib3.exceptions.HTTPError as error:
            raise Again(f"the connection broke after {size_of(part)} bytes ({type(error).__name__})") from None

    def take(self, response: requests.Response, part: Path, offset: int, most: int) -> None:
        """Write a response's body to `part`, until that is longer than `most` bytes."""
        status = response.status_code
        if status in TRY_AGAIN:
            raise Again(f"status {status}", retry_after(response))
        if status == 416 and offset:  # nothing beyond what we have: the checksum decides whether it is the file
            return
        if status not in {200, 206}:
            raise requests.HTTPError(f"status {status} {response.reason or ''}".strip(), response=response)
        if status == 206 and begin_of(response) != offset:
            part.unlink(missing_ok=True)
            raise Again("the server sent another part than was asked for; from the start")
        if status == 200:  # from the start, asked for or not
            part.unlink(missing_ok=True)
            offset = 0
        announced = announced_bytes(response)
        what = f"downloading {part.name.removesuffix('.part').removeprefix('.')}"
        with open(part, "ab", opener=no_link) as stream:
            pieces = written(response, stream, most + 1 - offset)
            for _ in progress(pieces, -(-min(announced or 0, most) // PIECE), what, "MiB"):
                pass
        if announced is not None and size_of(part) not in {offset + announced, most + 1}:
            raise Again(f"cut after {size_of(part)} of {offset + announced} bytes")


def written(response: requests.Response, stream: IO[bytes], most: int) -> Iterator[None]:
    """Write a body to `stream` as it comes, `most` bytes of it; yield once for each MiB, the last one perhaps smaller.

    Raises:
        Again: fewer than LEAST_BYTES came in SLOW_SECONDS.
    """
    pending = lately = 0
    begin = time.monotonic()
    # read1: what has come, be it a single byte. Other reads wait for a full buffer, however long it takes.
    while data := response.raw.read1(min(READ, most), decode_content=False):
        size = stream.write(data)
        most, pending, lately = most - size, pending + size, lately + size
        if pending >= PIECE:
            pending -= PIECE
            yield
        now = time.monotonic()
        if now - begin >= SLOW_SECONDS:
            if lately < LEAST_BYTES:
                raise Again(f"too slow: {lately:,} bytes in {now - begin:.0f} s")
            begin, lately = now, 0
    if pending:
        yield


def announced_bytes(response: requests.Response) -> int | None:
    """Return the length of a body that the server announces; None where it announces none."""
    text = response.headers.get("Content-Length")
    if text is not None and not NUMBER.fullmatch(text.strip()):
        raise Again(f"the server's Content-Length is not a number of bytes: '{text[:40]}'")
    return None if text is None else int(text)


def begin_of(response: requests.Response) -> int:
    """Return the first byte of the part of the file that the server sends."""
    text = response.headers.get("Content-Range", "")
    found = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", text.strip(), re.ASCII)
    if found is None:
        raise Again(f"the server's Content-Range does not say which bytes it sends: '{text[:40]}'")
    return int(found[1])


def size_of(path: Path) -> int:
    """Return a file's size in bytes; 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def looks_like_page(path: Path) -> bool:
    """Return whether a file begins as HTML or XML does."""
    with path.open("rb") as stream:
        return stream.read(512).lstrip().startswith(b"<")


def retry_after(response: requests.Response) -> float | None:
    """Return the seconds that a server asks us to wait, given as a number or as a date; None where it is neither."""
    text = response.headers.get("Retry-After", "").strip()
    if NUMBER.fullmatch(text):
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):  # no date; a date of no calendar
        return None


def in_words(error: requests.RequestException) -> str:
    """Return what went wrong, without the address and its secrets that requests repeats in full."""
    if isinstance(error, requests.exceptions.SSLError):
        return "no trustworthy encrypted connection (TLS)"
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {TIMEOUT[0]:.0f} s"
    if isinstance(error, requests.Timeout):
        return f"no answer within {TIMEOUT[1]:.0f} s"
    if isinstance(error, requests.ConnectionError):
        return no_connection(error)
    if isinstance(error, requests.exceptions.InvalidHeader):
        return "the headers of the server's answer contradict each other"
    if isinstance(error, requests.TooManyRedirects):
        return "too many redirects"
    if isinstance(error, requests.HTTPError | requests.exceptions.InvalidSchema):
        return str(error)
    return f"the request failed ({type(error).__name__})"


def no_connection(error: requests.ConnectionError) -> str:
    """Return what went wrong with a connection: there is none, or what comes over it is not HTTP."""
    causes = [part for cause in error.args if isinstance(cause, Exception) for part in cause.args]
    broken = [cause for cause in causes if isinstance(cause, http.client.HTTPException)]
    if broken and not isinstance(broken[0], http.client.RemoteDisconnected):
        return f"the server's answer is not valid HTTP ({type(broken[0]).__name__})"
    return "no connection"
