"""Downloads against a real server on this machine that cuts, stalls, lies and redirects; killed: tests/faults."""

from __future__ import annotations

import email.utils
import hashlib
import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import requests

from clipkd.core import download as module
from clipkd.core.download import Checksum, Courier, download
from clipkd.core.errors import DataError, InputError, MachineError
from tests.data.servers import Fault, Site

FILE = np.random.default_rng(0).bytes(3_000_000)
RIGHT = Checksum("sha256", hashlib.sha256(FILE).hexdigest())
ADVICE = "Give a local file instead."


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, which are not slept."""
    slept: list[float] = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    return slept


@pytest.fixture
def served(site: Site) -> Site:
    site.files["/file.bin"] = FILE
    return site


def bring(site: Site, folder: Path, checksum: Checksum = RIGHT) -> Path:
    return download(f"{site.url}/file.bin", folder / "file.bin", checksum, ADVICE)


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_file_arrives_once(served: Site, tmp_path: Path) -> None:
    for _ in range(2):
        assert bring(served, tmp_path).read_bytes() == FILE
    assert served.requests == [("/file.bin", None)]
    assert visible(tmp_path) == ["file.bin"]


def test_md5_serves_too(served: Site, tmp_path: Path) -> None:
    assert bring(served, tmp_path, Checksum("md5", hashlib.md5(FILE).hexdigest())).read_bytes() == FILE


def test_cut_download_goes_on_where_it_stopped(served: Site, tmp_path: Path, waits: list[float]) -> None:
    served.faults["/file.bin"] += [Fault(cut_after=1_000_000), Fault(cut_after=500_000)]
    assert bring(served, tmp_path).read_bytes() == FILE
    ranges = [int(asked.removeprefix("bytes=").rstrip("-")) for _, asked in served.requests if asked]
    assert len(ranges) == 2
    # At most a buffer of 16 KiB is lost at each cut.
    assert 1_000_000 - 16_384 <= ranges[0] <= 1_000_000
    assert ranges[0] + 500_000 - 16_384 <= ranges[1] <= ranges[0] + 500_000
    assert waits == [1.0, 2.0]


def test_unfinished_download_of_an_earlier_process_goes_on(served: Site, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(FILE[:1_234_567])
    assert bring(served, tmp_path).read_bytes() == FILE
    assert served.requests == [("/file.bin", "bytes=1234567-")]
    assert visible(tmp_path) == ["file.bin"]


def test_server_without_ranges(served: Site, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(b"x" * 1000)
    served.always = Fault(ignore_range=True)
    assert bring(served, tmp_path).read_bytes() == FILE
    assert len(served.requests) == 1


def test_wrong_content_range_starts_anew(served: Site, tmp_path: Path, waits: list[float]) -> None:
    (tmp_path / "file.bin.part").write_bytes(FILE[:1000])
    served.faults["/file.bin"].append(Fault(headers={"Content-Range": "bytes 5-2999999/3000000"}))
    assert bring(served, tmp_path).read_bytes() == FILE
    assert [asked for _, asked in served.requests] == ["bytes=1000-", None]


@pytest.mark.parametrize(
    ("part", "requests_made"),
    [
        pytest.param(FILE, ["bytes=3000000-"], id="complete"),
        pytest.param(FILE + b"more", ["bytes=3000004-", None], id="too long"),
        pytest.param(b"another file" * 1000, ["bytes=12000-", None], id="of another file"),
    ],
)
def test_leftover_part(served: Site, tmp_path: Path, part: bytes, requests_made: list[str | None]) -> None:
    (tmp_path / "file.bin.part").write_bytes(part)
    assert bring(served, tmp_path).read_bytes() == FILE
    assert [asked for _, asked in served.requests] == requests_made
    assert visible(tmp_path) == ["file.bin"]


def test_damaged_file_is_replaced(served: Site, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(FILE[:-1] + b"?")
    assert bring(served, tmp_path).read_bytes() == FILE


@pytest.mark.parametrize("status", [403, 404])
def test_refusal_is_not_tried_again(served: Site, tmp_path: Path, waits: list[float], status: int) -> None:
    served.always = Fault(status=status)
    with pytest.raises(MachineError, match=f"{served.url}/file.bin: status {status}.*1 try.*{ADVICE}"):
        bring(served, tmp_path)
    assert len(served.requests) == 1
    assert waits == []
    assert visible(tmp_path) == []


@pytest.mark.parametrize("status", [429, 500, 503])
def test_busy_server_is_tried_again(served: Site, tmp_path: Path, waits: list[float], status: int) -> None:
    served.faults["/file.bin"] += [Fault(status=status)] * 3
    assert bring(served, tmp_path).read_bytes() == FILE
    assert waits == [1.0, 2.0, 4.0]


def test_tries_are_bounded(served: Site, tmp_path: Path, waits: list[float]) -> None:
    served.always = Fault(status=503)
    with pytest.raises(MachineError, match=f"{served.url}/file.bin: status 503, after 5 tries. {ADVICE}"):
        bring(served, tmp_path)
    assert len(served.requests) == 5
    assert waits == [1.0, 2.0, 4.0, 8.0]
    assert visible(tmp_path) == []


def test_slow_progress_is_no_failure(
    served: Site, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE", 200_000)
    served.faults["/file.bin"] += [Fault(cut_after=300_000)] * 8  # more cuts than tries, each after a good piece
    assert bring(served, tmp_path).read_bytes() == FILE


def test_retry_after_is_honoured_and_capped(served: Site, tmp_path: Path, waits: list[float]) -> None:
    in_half_a_minute = email.utils.formatdate(time.time() + 30, usegmt=True)
    served.faults["/file.bin"] += [
        Fault(status=503, headers={"Retry-After": asked}) for asked in ("7", "86400", in_half_a_minute, "soon")
    ]
    assert bring(served, tmp_path).read_bytes() == FILE
    assert waits[0] == 7
    assert waits[1] == 60
    assert 25 < waits[2] <= 30
    assert waits[3] == 8


def test_stalled_server(served: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", (1.0, 0.3))
    monkeypatch.setattr(module, "FIRST_WAIT", 0.01)
    served.faults["/file.bin"] += [Fault(stall_after=100_000), Fault(stall_after=0)]
    assert bring(served, tmp_path).read_bytes() == FILE


def test_wrong_bytes_are_fetched_once_more_then_refused(served: Site, tmp_path: Path) -> None:
    flipped = bytearray(FILE)
    flipped[1_500_000] ^= 1
    served.files["/file.bin"] = bytes(flipped)
    with pytest.raises(DataError) as raised:
        bring(served, tmp_path)
    assert f"sha256 expected {RIGHT.value}, actual {hashlib.sha256(flipped).hexdigest()}" in str(raised.value)
    assert [asked for _, asked in served.requests] == [None, None]
    assert visible(tmp_path) == []


def test_wrong_bytes_once(served: Site, tmp_path: Path) -> None:
    served.faults["/file.bin"].append(Fault(body=b"x" * len(FILE)))
    assert bring(served, tmp_path).read_bytes() == FILE


def test_login_page_is_no_archive(served: Site, tmp_path: Path) -> None:
    served.always = Fault(body=b"<!DOCTYPE html><html>Please log in</html>", headers={"Content-Type": "text/html"})
    with pytest.raises(DataError, match=f"web page.*{ADVICE}"):
        bring(served, tmp_path)
    assert visible(tmp_path) == []


def test_gzip_encoding_is_not_undone(served: Site, tmp_path: Path) -> None:
    # Some servers label a .tar.gz as a gzip-encoded tar; the checksum is that of the file as it lies there.
    served.always = Fault(headers={"Content-Encoding": "gzip"})
    assert bring(served, tmp_path).read_bytes() == FILE


def test_redirects(served: Site, tmp_path: Path, waits: list[float]) -> None:
    served.faults["/moved"].append(Fault(status=302, headers={"Location": "/file.bin"}))
    assert download(f"{served.url}/moved", tmp_path / "file.bin", RIGHT, ADVICE).read_bytes() == FILE
    served.always = Fault(status=302, headers={"Location": "/loop"})
    with pytest.raises(MachineError, match="too many redirects"):
        download(f"{served.url}/loop", tmp_path / "other.bin", RIGHT, ADVICE)


@pytest.mark.parametrize(
    ("here", "location", "allowed"),
    [
        ("https://a.example/x", "http://a.example/x", False),
        ("https://a.example/x", "ftp://a.example/x", False),
        ("https://a.example/x", "//b.example/x", True),
        ("https://a.example/x", "/y", True),
        ("http://a.example/x", "https://a.example/x", True),
    ],
)
def test_no_way_down_from_https(here: str, location: str, allowed: bool) -> None:
    response = requests.Response()
    response.url, response.status_code = here, 302
    response.headers["Location"] = location
    with Courier() as courier:
        if allowed:
            assert courier.get_redirect_target(response) == location
        else:
            with pytest.raises(requests.RequestException, match="redirected from https"):
                courier.get_redirect_target(response)


def test_https(served: Site, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    secure = Site()
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        secure.server.socket = context.wrap_socket(secure.server.socket, server_side=True)
        url = secure.url.replace("http:", "https:")
        secure.files["/file.bin"] = FILE
        with pytest.raises(MachineError, match="TLS"):  # an unknown certificate
            download(f"{url}/file.bin", tmp_path / "a.bin", RIGHT, ADVICE)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        assert download(f"{url}/file.bin", tmp_path / "b.bin", RIGHT, ADVICE).read_bytes() == FILE
        secure.always = Fault(status=301, headers={"Location": f"{served.url}/file.bin"})
        with pytest.raises(MachineError, match="redirected from https to http"):
            download(f"{url}/file.bin", tmp_path / "c.bin", RIGHT, ADVICE)
    finally:
        secure.close()
    assert served.requests == []
    assert waits == []


def test_nobody_there(tmp_path: Path, waits: list[float]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/file.bin"
        with pytest.raises(MachineError, match=f"{url}: no connection, after 5 tries. {ADVICE}"):
            download(url, tmp_path / "file.bin", RIGHT, ADVICE)


def test_secrets_of_an_address_are_not_shown(served: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served.always = Fault(status=404)
    url = served.url.replace("http://", "http://me:canary1@") + "/file.bin?token=canary2"
    with pytest.raises(MachineError) as raised:
        download(url, tmp_path / "file.bin", RIGHT, ADVICE)
    assert "canary" not in str(raised.value) + "".join(capsys.readouterr())
    assert served.requests[0][0] == "/file.bin?token=canary2"


@pytest.mark.parametrize("url", ["ftp://a.example/x", "file:///etc/passwd", "x", "http://"])
def test_no_web_address(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError, match="not a web address"):
        download(url, tmp_path / "file.bin", RIGHT, ADVICE)


def test_unwritable_place(served: Site, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where a folder is needed")
    with pytest.raises(MachineError, match="can't write"):
        bring(served, tmp_path / "taken")
