"""`clipkd push` against a server that takes uploads as the hub does."""

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
def push(here, hub, monkeypatch):
    """Run the command in this process; the token must not be in what it prints."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)

    def run(*arguments, token: str = TOKEN, url: str = ""):
        monkeypatch.setattr(constants, "ENDPOINT", url or hub.url)
        monkeypatch.setenv("HF_TOKEN", token)
        answer = here("push", *arguments)
        assert TOKEN not in answer.stdout + answer.stderr
        return answer

    return run


def test_what_arrives_is_what_was_exported(clipkd, hub, folder, scans, tmp_path) -> None:
    """As a process, which writes the token nowhere."""
    environment = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
    (folder / "notes.txt").write_text("mine alone")
    try:
        answer = clipkd("push", folder, "me/student", "--private", environment=environment | {"HF_TOKEN": TOKEN})
    finally:
        (folder / "notes.txt").unlink()
    assert TOKEN not in answer.stdout + answer.stderr
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


@pytest.mark.long
def test_an_onnx_export_arrives_with_its_card_and_8_bit_graph(push, hub, here, run_folder, digits_folder) -> None:
    assert here("export", run_folder, "out", "--format", "onnx", "--int8", "--data", digits_folder).returncode == 0
    assert push("out", "me/small").returncode == 0
    arrived = hub.repositories["me/small"]
    assert arrived == {path.name: path.read_bytes() for path in Path("out").iterdir()}
    assert arrived.keys() >= {"README.md", "model.onnx", "model_int8.onnx", "config.json"}


def test_what_is_refused(push, hub, folder, run_folder) -> None:
    for arguments, message in (
        ((folder, "a name/with spaces"), "OWNER/NAME"),
        ((folder, "student"), "OWNER/NAME"),
        ((run_folder, "me/student"), "export --format hf"),
    ):
        answer = push(*arguments)
        assert (answer.returncode, message in answer.stderr) == (2, True), answer.stderr
    assert hub.requests == []
    answer = push(folder, "me/student", token="hf_wrong")
    assert (answer.returncode, "set HF_TOKEN" in answer.stderr) == (2, True), answer.stderr
    assert hub.repositories == {}


def test_a_hub_that_fails_or_is_out_of_reach_is_not_the_user_s_fault(push, hub, folder) -> None:
    hub.is_broken = True
    answer = push(folder, "me/student")
    assert (answer.returncode, "answered with status 500" in answer.stderr) == (4, True), answer.stderr
    assert hub.repositories == {"me/student": {}}
    answer = push(folder, "me/student", url="http://127.0.0.1:9")
    assert (answer.returncode, "can't be reached" in answer.stderr) == (4, True), answer.stderr


def test_a_push_while_the_hub_is_switched_off_says_so(push, hub, folder, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    answer = push(folder, "me/student", url="http://127.0.0.1:9")
    assert (answer.returncode, "HF_HUB_OFFLINE is set; unset it" in answer.stderr) == (4, True), answer.stderr


def test_a_card_that_the_hub_refuses_is_named_with_what_is_wrong(push, hub, folder) -> None:
    hub.card_errors = ['"license" must be one of [apache-2.0, mit]', f"no {TOKEN} here"]
    answer = push(folder, "me/student")
    assert answer.returncode == 2, answer.stderr
    for part in ("README.md", "--license", '"license" must be one of [apache-2.0, mit]', "no *** here"):
        assert part in answer.stderr, answer.stderr
    assert hub.repositories == {"me/student": {}}
