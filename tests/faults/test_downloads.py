"""Rows D01 to D04: downloads from servers that fail in every way, cut off at every moment, by several at once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import close_session, get_session

from clipkd.core import download as downloads
from clipkd.core import hub_client, hub_limits
from clipkd.core.download import Checksum, download
from clipkd.core.errors import ClipkdError, DataError, MachineError
from clipkd.core.vision import torchvision
from clipkd.plugins import datasets, teachers
from clipkd.plugins.datasets import torchvision_source
from tests.data.servers import Fault, Site
from tests.faults.checks import FULL, amount, fault, nothing, replaced
from tests.faults.processes import (
    FAULTS,
    Disk,
    count_calls,
    forked,
    killed,
    no_file_beyond,
    outcome,
    striking,
    waited,
)

FILE = bytes(range(256)) * 800
SHA = Checksum("sha256", hashlib.sha256(FILE).hexdigest())


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    site.files["/file.bin"] = FILE
    yield site
    site.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for moments where a person's machine waits for a minute."""
    monkeypatch.setattr(downloads, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(downloads, "LONGEST_WAIT", 0.01)
    monkeypatch.setattr(downloads, "TIMEOUT", (0.5, 0.2))


def bring(site: Site, folder: Path) -> Path:
    return download(f"{site.url}/file.bin", folder / "file.bin", SHA, "Fetch it elsewhere.")


def seen(folder: Path) -> list[str]:
    """Return what lies in a folder, locks and unfinished files aside."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith((".lock", ".part")))


FLIPPED = bytearray(FILE)
FLIPPED[100_000] ^= 4
MODES = {
    "cut": Fault(cut_after=900, ignore_range=True),
    "stall": Fault(stall_after=900, stall=0.6),
    "403": Fault(status=403),
    "404": Fault(status=404),
    "429": Fault(status=429, headers={"Retry-After": "9999"}),
    "500": Fault(status=500),
    "503": Fault(status=503, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    "redirect loop": Fault(status=302, headers={"Location": "/file.bin"}),
    "flipped byte": Fault(body=bytes(FLIPPED), ignore_range=True),
    "login page": Fault(body=b"<html>please log in</html>"),
    "too short": Fault(body=FILE[:-1]),
    "too long": Fault(body=FILE + b"x"),
    "other range": Fault(status=206, headers={"Content-Range": "bytes 7-9/10"}),
    "nothing": Fault(body=b""),
}


def unchecked(self: Checksum, path: Path) -> str:
    return self.value


@pytest.mark.slow
@fault("D01", "D02", **{"the-checksum": replaced("clipkd.core.download.Checksum.of", unchecked)})
def test_a_bad_server_gives_an_error_and_no_file(site: Site, quick: None, tmp_path: Path, record_property: Any) -> None:
    """Each mode in turn: nothing at the final path, an error that names the address, and a good server mends it."""
    for name, mode in MODES.items():
        folder = tmp_path / name
        folder.mkdir()
        site.always = mode
        asked = len(site.requests)
        with pytest.raises((MachineError, DataError)) as caught:
            bring(site, folder)
        assert f"{site.url}/file.bin" in str(caught.value), name
        assert "Fetch it elsewhere." in str(caught.value), name
        assert seen(folder) == [], name
        # A redirect loop costs 30 requests a try at most; everything else a bounded number of tries.
        assert len(site.requests) - asked <= 40, name
        if mode.status is not None and mode.status != 206 and mode.status != 302:
            assert f"status {mode.status}" in str(caught.value), name
        site.always = None
        assert bring(site, folder).read_bytes() == FILE, name
    record_property("bad-server modes, archive", len(MODES))


SIZED = Checksum("sha256", SHA.value, len(FILE))
TAKEN: list[int] = []
"""Bytes of the unfinished file when it was looked at."""


def weighed(self: Checksum, path: Path) -> str:
    TAKEN.append(path.stat().st_size)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def without_a_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: ten times as much is taken."""
    take = downloads.Courier.take
    monkeypatch.setattr(downloads.Courier, "take", lambda self, *given: take(self, *given[:3], 10 * given[3]))


@fault("D16", **{"the-cap": without_a_cap})
def test_no_more_is_taken_than_the_file_has(site: Site, quick: None, tmp_path: Path) -> None:
    """Servers that send more, announced or without end: one byte too many is enough to know."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checksum, "of", weighed)
        for mode in (Fault(body=FILE + FILE), Fault(is_endless=True)):
            site.always = mode
            TAKEN.clear()
            with pytest.raises(DataError, match=f"more than {len(FILE):,} bytes.*Fetch it elsewhere"):
                download(f"{site.url}/file.bin", tmp_path / "file.bin", SIZED, "Fetch it elsewhere.")
            assert [len(FILE) + 1] * 2 == TAKEN
    assert seen(tmp_path) == []
    site.always = None
    assert download(f"{site.url}/file.bin", tmp_path / "file.bin", SIZED, "").read_bytes() == FILE


def test_d16_a_file_of_unknown_size_has_a_limit(
    site: Site, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert SHA.size == downloads.MOST_BYTES
    site.always = Fault(is_endless=True)
    with pytest.raises(DataError, match="more than 300,000 bytes"):
        download(f"{site.url}/file.bin", tmp_path / "file.bin", Checksum("sha256", SHA.value, 300_000), "")


@pytest.fixture
def hasty(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the speed often."""
    monkeypatch.setattr(downloads, "SLOW_SECONDS", 0.2)
    monkeypatch.setattr(downloads, "LEAST_BYTES", 10_000)
    monkeypatch.setattr(downloads, "TRIES", 2)


@fault("D16", **{"the-least-speed": lambda monkeypatch: monkeypatch.setattr(downloads, "LEAST_BYTES", 0)})
def test_a_server_that_drips_is_given_up(site: Site, hasty: None, tmp_path: Path) -> None:
    """A byte now and then never lets a time limit of the connection run out."""
    site.bytes_per_second = 2_000
    site.files["/file.bin"] = FILE[:2_000]
    with pytest.raises(MachineError, match=r"too slow: .* bytes in 0 s, after 2 tries. Fetch it elsewhere"):
        bring(site, tmp_path)
    assert seen(tmp_path) == []
    site.bytes_per_second = None
    site.files["/file.bin"] = FILE
    assert bring(site, tmp_path).read_bytes() == FILE


@pytest.mark.parametrize("is_limited", [True, False], ids=["limited", "control"])
def test_d16_the_hub_s_downloads_have_the_same_limits(
    is_limited: bool, site: Site, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What drips is given up by huggingface_hub's own client, and so is what does not end."""
    if not is_limited:
        monkeypatch.setattr(hub_limits, "limit_downloads", nothing)
    site.files["/file.bin"] = FILE[:2_000]
    close_session()  # the client that other tests have used
    wanted = teachers.get("vit-b16-in21k")

    def answer(bytes_per_second: int | None, most: int) -> str:
        site.bytes_per_second = bytes_per_second
        monkeypatch.setattr(downloads, "MOST_BYTES", most)
        try:
            with hub_client.hub_errors(wanted, "its weights"):
                return get_session().get(f"{site.url}/file.bin", timeout=10).reason_phrase
        except MachineError as error:
            return str(error)

    assert answer(None, 2_000) == "OK"
    assert ("can't be reached (TooSlow)" in answer(2_000, 2_000)) == is_limited
    assert ("can't be reached (TooLong)" in answer(None, 1_999)) == is_limited
    close_session()


def test_d16_a_slow_server_that_is_fast_enough_is_waited_for(site: Site, hasty: None, tmp_path: Path) -> None:
    site.bytes_per_second = 400_000
    assert bring(site, tmp_path).read_bytes() == FILE
    assert len(site.requests) == 1


@fault("D16", **{"the-limit": replaced("clipkd.plugins.datasets.torchvision_source.SILENCE", None)})
def test_a_silent_server_ends_torchvisions_download(site: Site, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if torchvision_source.SILENCE:
            patch.setattr(torchvision_source, "SILENCE", 0.2)
        patch.setattr(torchvision.datasets.MNIST, "mirrors", [f"{site.url}/"])
        site.always = Fault(body=FILE, stall_after=1000, stall=1.0)
        with pytest.raises(MachineError, match="timed out; is there a network"):
            datasets.get("mnist", "torchvision:MNIST").read(None, tmp_path)


LENGTH, RANGE, AGAIN = "Content-Length", "Content-Range", "Retry-After"
NONSENSE = {
    (200, LENGTH, "many"): "Content-Length is not a number of bytes: 'many'",
    (200, LENGTH, "-5"): "Content-Length is not a number of bytes: '-5'",
    (200, LENGTH, "9" * 5000): "Content-Length is not a number of bytes: '999",
    (200, LENGTH, "7, 8"): "headers of the server's answer contradict each other",
    (206, RANGE, "bytes"): "Content-Range does not say which bytes it sends: 'bytes'",
    (206, RANGE, "bytes x-y/z"): "Content-Range does not say which bytes it sends: 'bytes x-y/z'",
    (206, RANGE, "bytes " + "9" * 5000 + "-9/9"): "Content-Range does not say which bytes it sends: 'bytes 999",
    (503, AGAIN, "soon"): "status 503",
    (503, AGAIN, "9" * 5000): "status 503",
    (503, AGAIN, "Wed, 21 Oct 99999999999999999999 07:28:00 GMT"): "status 503",
    (302, "Location", "http://[what"): "redirected to something that is not an address",
    (302, "Location", "http://"): "too many redirects",
    (200, "x" * 70_000, "x"): "not valid HTTP",
}


def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: numbers of headers are taken as they come."""
    monkeypatch.setattr(downloads, "announced_bytes", lambda response: int(response.headers[LENGTH]))
    monkeypatch.setattr(downloads, "retry_after", lambda response: float(int(response.headers[AGAIN])))


@fault("D16", **{"no-check": lambda monkeypatch: (trusting(monkeypatch), monkeypatch.setattr(downloads, "TRIES", 2))})
def test_nonsense_in_a_header_is_an_error_in_words(site: Site, quick: None, tmp_path: Path) -> None:
    for (status, name, value), told in NONSENSE.items():
        body = FILE if status == 200 else None
        site.always = Fault(status=None if body else status, body=body, headers={name: value})
        try:
            bring(site, tmp_path)
        except MachineError as error:
            assert told in str(error), (name, value[:40])
            assert len(str(error)) < 300, (name, value[:40])
        except ValueError as error:
            pytest.fail(f"{name}: {value[:40]}: {error}")
        else:
            pytest.fail(f"{name}: {value[:40]}: taken")
        assert seen(tmp_path) == []


@fault(
    "D01",
    **{
        "the-rule": lambda monkeypatch: monkeypatch.setattr(
            downloads.Courier, "get_redirect_target", downloads.requests.Session.get_redirect_target
        )
    },
)
def test_never_from_https_to_http(tmp_path: Path) -> None:
    """Asked of the session itself, which decides for every redirect."""
    response = downloads.requests.Response()
    response.status_code, response.url = 302, "https://example.org/file.bin"
    response.headers["Location"] = "http://example.org/file.bin"
    with pytest.raises(downloads.requests.exceptions.InvalidSchema, match="refused"):
        downloads.Courier().get_redirect_target(response)


def test_d01_no_trust_without_tls(site: Site, quick: None, tmp_path: Path) -> None:
    """A server that speaks no TLS where TLS is asked for is no server."""
    with pytest.raises(MachineError, match="TLS"):
        download(site.url.replace("http:", "https:") + "/file.bin", tmp_path / "file.bin", SHA, "")
    assert seen(tmp_path) == []


def in_place(url: str, path: Path, part: Path, checksum: Checksum, offline: str) -> Path:
    """The mutant: download to the final path itself."""
    if not path.exists():
        downloads.fetch(url, path, checksum.size, offline)
    return path


def has_come(folder: Path, size: int) -> bool:
    """Return whether so many bytes of the file are on the disk."""
    try:
        return any(path.stat().st_size >= size for path in folder.glob("file.bin*"))
    except FileNotFoundError:  # it has just taken its place
        return True


@fault(
    "D03",
    "R02",
    **{"the-part-file": replaced("clipkd.core.download.fetch_checked", in_place)},
)
def test_killed_at_any_moment(site: Site, tmp_path: Path, record_property: Any) -> None:
    """SIGKILL at random moments: at the final path lies the file or nothing, and it is brought at last."""
    tries, hit, draw = amount(5, 50), 0, random.Random(0)
    site.bytes_per_second = 1_000_000
    for number in range(tries):
        folder = tmp_path / str(number)
        folder.mkdir()
        is_time = partial(has_come, folder, draw.randrange(3 * len(FILE) // 4))
        hit += killed(partial(bring, site, folder), draw.uniform(0, 0.02), is_time)
        if (folder / "file.bin").exists():
            assert (folder / "file.bin").read_bytes() == FILE
        assert bring(site, folder).read_bytes() == FILE
        assert sorted(path.name for path in folder.iterdir()) == [".file.bin.lock", "file.bin"]
    assert hit > 0
    record_property("kills", hit)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@fault("D03", **{"the-flush": replaced("clipkd.core.download.sync", nothing)})
def test_a_download_is_on_the_disk_before_it_takes_its_place(site: Site, disk: Disk, tmp_path: Path) -> None:
    bring(site, tmp_path)
    assert (disk.renamed, disk.too_early, disk.open_folders) == (1, [], set())


@fault("D04", **{"the-lock": replaced("clipkd.core.download.fcntl.flock", nothing)})
def test_eight_at_once(site: Site, tmp_path: Path, record_property: Any) -> None:
    """Eight processes ask for one file: one downloads it, all have it."""
    rounds = amount(1, 50)
    site.bytes_per_second = 2_000_000  # half a second, in which all have begun also on a busy machine
    for number in range(rounds):
        folder = tmp_path / str(number)
        folder.mkdir()
        site.requests.clear()
        children = [forked(lambda folder=folder: bring(site, folder)) for _ in range(8)]  # type: ignore[misc]
        assert [waited(child) for child in children] == [0] * 8
        assert (folder / "file.bin").read_bytes() == FILE
        assert len(site.requests) == 1
    record_property("races of 8 processes", rounds)


def test_d04_a_file_system_without_locks(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where flock says that it is none, everyone brings the file, and it is right."""

    def no_lock(*arguments: object) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(downloads.fcntl, "flock", no_lock)
    children = [forked(lambda: bring(site, tmp_path)) for _ in range(8)]
    assert [waited(child) for child in children] == [0] * 8
    assert (tmp_path / "file.bin").read_bytes() == FILE
    assert seen(tmp_path) == ["file.bin"]


@pytest.mark.slow
@fault(
    "R02",
    "D03",
    **{"the-part-file": replaced("clipkd.core.download.fetch_checked", in_place)},
)
def test_every_call_of_a_download_fails_once(site: Site, tmp_path: Path, record_property: Any) -> None:
    """ENOSPC, EIO and SIGKILL at each call that changes the disk, and a disk that is full at byte k."""

    def fresh(name: str) -> Path:
        folder = tmp_path / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def check(folder: Path) -> None:
        if (folder / "file.bin").exists():
            assert (folder / "file.bin").read_bytes() == FILE
        assert bring(site, folder).read_bytes() == FILE

    struck = 0
    calls = count_calls(lambda: bring(site, fresh("counted")))
    assert calls >= 3
    for at in range(1, calls + 1):
        for found in FAULTS:
            folder = fresh(f"{at}-{found.name}")
            code = outcome(lambda folder=folder: bring(site, folder), striking(at, found.strike))  # type: ignore[misc]
            assert code in {0, 3, -signal.SIGKILL}, (at, found.name, code)
            check(folder)
            struck += 1
    for size in range(0, len(FILE), len(FILE) // amount(3, 40)):
        folder = fresh(f"full-{size}")
        assert outcome(lambda folder=folder: bring(site, folder), no_file_beyond(size)) == 3  # type: ignore[misc]
        assert not (folder / "file.bin").exists()
        check(folder)
        struck += 1
    record_property("struck calls", struck)


@fault(
    "X03",
    **{"no-link": replaced("clipkd.core.download.no_link", lambda name, flags: os.open(name, flags, 0o666))},
)
def test_no_write_through_a_link(site: Site, quick: None, tmp_path: Path) -> None:
    """An unfinished file that is a link to a file elsewhere: refused, and that file stays as it was."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    folder = tmp_path / "downloads"
    folder.mkdir()
    (folder / "file.bin.part").symlink_to(outside)
    (folder / ".file.bin.lock").symlink_to(tmp_path / "created")
    with contextlib.suppress(ClipkdError):
        bring(site, folder)
    assert outside.read_bytes() == b"mine"
    assert not (tmp_path / "created").exists()


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_d09_without_any_network(tmp_path: Path, digits_folder: Path) -> None:
    """In a network namespace of its own: what is there works, what is not says what to run where there is internet."""
    if subprocess.run(["unshare", "-rn", "true"], check=False).returncode:
        pytest.skip("this kernel lets nobody unshare")
    clipkd = [*("unshare", "-rn"), sys.executable, "-m", "clipkd"]
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    more = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "timeout": 120}
    there = subprocess.run([*clipkd, "download", "digits", "--data", str(digits_folder)], **more, check=False)  # type: ignore[call-overload]
    assert there.returncode == 0, there.stderr
    wanted = {
        ("fetch", "vit-b16-in21k"): "clipkd fetch vit-b16-in21k",
        ("download", "cifar10"): "clipkd download cifar10 --dataset-source",
    }
    for arguments, told in wanted.items() if FULL else ():  # both try for a quarter of a minute
        absent = subprocess.run([*clipkd, *arguments], **more, check=False)  # type: ignore[call-overload]
        assert absent.returncode == 4, absent.stderr
        assert told in absent.stderr
        assert "Traceback" not in absent.stderr
