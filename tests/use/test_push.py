"""`clipkd push` as a process, against a server that takes uploads as the hub does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import clipkd as package
from clipkd.export import formats as exports
from clipkd.export.write import export
from tests.use.upload_server import COMMIT, Upload

TOKEN = "hf_canary0123456789"


@pytest.fixture
def hub() -> Iterator[Upload]:
    started = Upload(TOKEN)
    yield started
    started.close()


@pytest.fixture(scope="module")
def folder(run_folder, digits_folder, tmp_path_factory) -> Path:
    return export(run_folder, exports.get("hf"), tmp_path_factory.mktemp("hf") / "out", digits_folder, "mit")


@pytest.fixture
def push(clipkd, hub, tmp_path):
    def run(*arguments, token: str | None = TOKEN, url: str = ""):
        environment = {"HF_ENDPOINT": url or hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
        environment |= {"HF_TOKEN": token} if token else {"HF_TOKEN": ""}
        answer = clipkd("push", *arguments, environment=environment)
        assert "Traceback" not in answer.stderr
        assert TOKEN not in answer.stdout + answer.stderr
        return answer

    return run


def test_what_arrives_is_what_was_exported(push, hub, folder, scans, tmp_path) -> None:
    (folder / "notes.txt").write_text("mine alone")
    try:
        answer = push(folder, "me/student", "--private")
    finally:
        (folder / "notes.txt").unlink()
    assert (answer.returncode, answer.stdout) == (0, f"{hub.url}/me/student/commit/{COMMIT}\n"), answer.stderr
    arrived = hub.repositories["me/student"]
    assert arrived == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert hub.private == {"me/student": True}
    # The weights went as a large file, and into no other commit: what was asked of the hub, in order.
    assert [request for request in hub.requests if "lfs" in request or "/commit/" in request] == [
        "POST /me/student.git/info/lfs/objects/batch",
        "POST /api/models/me/student/commit/main",
    ]
    assert [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN in path.read_text(errors="replace")] == []
    back = tmp_path / "downloaded"
    back.mkdir()
    for name, content in arrived.items():
        (back / name).write_bytes(content)
    wanted = package.load(folder).probabilities(scans)
    np.testing.assert_array_equal(package.load(back).probabilities(scans), wanted)


def test_an_edited_card_may_be_pushed_but_damaged_weights_may_not(
    push, hub, run_folder, digits_folder, tmp_path
) -> None:
    folder = export(run_folder, exports.get("hf"), tmp_path / "out", digits_folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\nMine.\n")
    assert push(folder, "me/student").returncode == 0
    assert hub.repositories["me/student"]["README.md"].endswith(b"Mine.\n")
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    count = len(hub.requests)
    answer = push(folder, "me/student")
    assert (answer.returncode, "model.safetensors is damaged" in answer.stderr) == (3, True), answer.stderr
    assert len(hub.requests) == count


def test_what_is_refused(push, hub, folder, run_folder, tmp_path) -> None:
    answer = push(folder, "me/student", token="hf_wrong")
    assert (answer.returncode, "set HF_TOKEN" in answer.stderr) == (2, True), answer.stderr
    answer = push(folder, "a name/with spaces")
    assert (answer.returncode, "OWNER/MODEL" in answer.stderr) == (2, True), answer.stderr
    count = len(hub.requests)
    answer = push(folder, "student")
    assert (answer.returncode, "OWNER/MODEL" in answer.stderr) == (2, True), answer.stderr
    assert len(hub.requests) == count
    assert hub.repositories == {}
    answer = push(run_folder, "me/student")
    assert (answer.returncode, "export --format hf" in answer.stderr) == (2, True), answer.stderr


def test_a_hub_that_fails_or_is_out_of_reach_is_not_the_user_s_fault(push, hub, folder) -> None:
    hub.is_broken = True
    answer = push(folder, "me/student")
    assert (answer.returncode, "answered with status 500" in answer.stderr) == (4, True), answer.stderr
    assert hub.repositories == {"me/student": {}}
    answer = push(folder, "me/student", url="http://127.0.0.1:9")
    assert (answer.returncode, "can't be reached" in answer.stderr) == (4, True), answer.stderr
