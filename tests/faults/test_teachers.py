"""Rows T and C06: teachers from bad hubs, damaged, incomplete, of the wrong kind, or with code of their own."""

from __future__ import annotations

import json
import re
import struct
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from clipkd.cli import main
from clipkd.cli.verbs import check
from clipkd.core import hub_client
from clipkd.core.artifacts import building
from clipkd.core.errors import ClipkdError, DataError, InputError
from clipkd.core.files import read_json
from clipkd.embeddings import checkpoint_settings, own_head, prepare, teacher
from clipkd.embeddings import teacher_checkpoint as checkpoint
from clipkd.embeddings.own_head import OwnHead
from clipkd.embeddings.processor import Processor, read
from clipkd.plugins import datasets, teachers
from clipkd.plugins.teachers import FILES, FolderTeacher, HubTeacher, on_dataset
from clipkd.spec.layout import Layout
from tests.conftest import save_vit
from tests.embeddings.hub_server import Hub, Repository
from tests.embeddings.test_checkpoint import COMMIT, PROCESSOR, Worker
from tests.faults.checks import FULL, fault, nothing, replaced

CPU = torch.device("cpu")
WEIGHTS = "model.safetensors"
BASE = Path(__file__).parents[2] / "config/config.yaml"


class BadHub(Hub):
    """A hub whose file store answers badly, in one of many ways, while `mode` says so."""

    mode: str | None = None

    def send_large(self, repository: Repository, name: str) -> tuple[int, dict[str, str], bytes]:
        body = repository.files[name]
        half, close = body[: len(body) // 2], {"Connection": "close"}
        flipped = body[:-5] + bytes([body[-5] ^ 1]) + body[-4:]
        answers: dict[str, tuple[int, dict[str, str], bytes]] = {
            "cut": (200, {"Content-Length": str(len(body))} | close, half),
            "stall": (200, {"Content-Length": str(len(body))}, half),
            "403": (403, {}, b"no"),
            "404": (404, {}, b"no"),
            "429": (429, {"Retry-After": "1"}, b"no"),
            "500": (500, {}, b"no"),
            "503": (503, {}, b"no"),
            "redirect loop": (302, {"Location": f"/store/{name}"}, b""),
            "flipped byte": (200, {}, flipped),
            "login page": (200, {}, b"<html>please log in</html>"),
            "too short": (200, {}, body[:-7]),
            "too long": (200, {}, body + b"x"),
            "nothing": (200, {}, b""),
        }
        return answers[self.mode] if self.mode else (200, {}, body)


QUICK = ("flipped byte", "cut", "403", "login page", "too short")
MODES = ("stall", "404", "429", "500", "503", "redirect loop", "too long", "nothing")


@pytest.fixture(scope="module")
def hub() -> Iterator[BadHub]:
    hub = BadHub()
    yield hub
    hub.close()


@pytest.fixture(scope="module")
def worker(hub: BadHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with pytest.MonkeyPatch.context() as patch:
        worker = Worker(hub, tmp_path_factory.mktemp("home"))
        patch.undo()
    yield worker
    worker.process.terminate()
    worker.process.wait()


@pytest.fixture(scope="module")
def files(vit_folder: Path) -> dict[str, bytes]:
    return {name: (vit_folder / name).read_bytes() for name in FILES} | {
        "preprocessor_config.json": json.dumps(PROCESSOR | {"size": {"height": 24, "width": 24}}).encode()
    }


@pytest.mark.slow
@pytest.mark.parametrize("mode", [*QUICK, *(MODES if FULL else ())])
def test_d01_a_bad_hub_gives_an_error_and_no_teacher(
    mode: str, hub: BadHub, worker: Worker, files: dict[str, bytes], tmp_path: Path, record_property: Any
) -> None:
    """Nothing at the final path, an error in words, and a good hub mends it. (The control: the flip, taken by
    huggingface_hub itself, is in the cache, which `test_d02` shows.)"""
    hub_id = f"someone/{mode.replace(' ', '-')}"
    hub.repositories[hub_id] = Repository(COMMIT, files)
    hub.mode = mode
    try:
        answer = worker.fetch(hub_id, tmp_path / "teacher")
    finally:
        hub.mode = None
    assert answer.get("error") in {"MachineError", "DataError", "InputError"}, answer
    assert WEIGHTS in answer["message"] or hub_id in answer["message"]
    assert list(tmp_path.iterdir()) == []
    assert "error" not in worker.fetch(hub_id, tmp_path / "teacher")
    assert (tmp_path / "teacher" / WEIGHTS).read_bytes() == files[WEIGHTS]
    record_property("bad-server modes, teacher", len([*QUICK, *(MODES if FULL else ())]))


def test_d02_the_hub_library_takes_a_flipped_file_and_we_do_not(
    hub: BadHub, worker: Worker, files: dict[str, bytes], tmp_path: Path
) -> None:
    """The control of the row: what lies in the hub library's cache is the flipped file, taken without a word."""
    hub_id = "someone/flipped-for-good"
    hub.repositories[hub_id] = Repository(COMMIT, files)
    hub.mode = "flipped byte"
    try:
        answer = worker.fetch(hub_id, tmp_path / "teacher")
    finally:
        hub.mode = None
    assert answer["error"] == "DataError"
    assert f"sha256 expected {sha256(files[WEIGHTS]).hexdigest()}" in answer["message"]
    cached = list((worker.home / "hf").rglob(f"models--someone--flipped-for-good/snapshots/*/{WEIGHTS}"))
    assert [path.read_bytes() == files[WEIGHTS] for path in cached] == [False]


@fault("D02", "T01", **{"the-digests": replaced("clipkd.core.hub_client.announced", nothing)})
def test_small_files_of_the_hub_are_checked_too(vit_folder: Path, tmp_path: Path) -> None:
    """config.json has no sha256 at the hub, but git's sha1: a changed digit in it is found."""
    import hashlib

    whole = (vit_folder / "config.json").read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(whole) + whole).hexdigest()
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / blob).write_bytes(whole.replace(b"24", b"48", 1))
    link = tmp_path / "config.json"
    link.symlink_to(tmp_path / "blobs" / blob)
    spec = HubTeacher(name="t", title="T", hub_id="a/b", revision=COMMIT)
    patch = pytest.MonkeyPatch()
    patch.setattr(hub_client, "bring", lambda teacher, name, again=False: link)
    try:
        hub_client.verified_file(spec, "config.json")
    except DataError as error:
        assert f"sha1 expected {blob}" in str(error)
    else:
        pytest.fail("took a changed config.json")
    finally:
        patch.undo()


def copy(vit_folder: Path, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_bytes((vit_folder / name).read_bytes())
    return folder


def fetched(folder: Path, place: Path) -> Any:
    """Fetch a teacher from a folder and load it, as training does."""
    spec = teachers.get(str(folder))
    checkpoint.fetch(spec, place)
    return teacher.load(spec, place, CPU)


def edit_weights(folder: Path, change: Any) -> None:
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


def edit_json(name: str, **changes: Any) -> Any:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(
            json.dumps(
                {key: value for key, value in (json.loads(path.read_text()) | changes).items() if value != "gone"}
            )
        )

    return change


def first(state: dict[str, torch.Tensor], word: str) -> str:
    return next(name for name in sorted(state) if word in name)


def drop(state: dict[str, torch.Tensor]) -> None:
    del state[first(state, "q_proj.weight" if any("q_proj" in name for name in state) else "query.weight")]


def poison(value: float) -> Any:
    def change(state: dict[str, torch.Tensor]) -> None:
        state[first(state, "q_proj.weight" if any("q_proj" in name for name in state) else "query.weight")].fill_(value)

    return change


def rename(state: dict[str, torch.Tensor]) -> None:
    name = first(state, "cls_token")
    state[f"{name}_old"] = state.pop(name)


def reshape(state: dict[str, torch.Tensor]) -> None:
    name = first(state, "position_embeddings")
    state[name] = state[name][:, :-1].clone()


def weights(change: Any) -> Any:
    return lambda folder: edit_weights(folder, change)


def raw(content: bytes) -> Any:
    return lambda folder: (folder / WEIGHTS).write_bytes(content)


def cut(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


def odd(key: str, value: Any, supported: str) -> tuple[Any, str]:
    """A value that no model has, and what is said of it; FOLDER stands for the checkpoint's."""
    said = f"'{key}' in FOLDER/config.json is {value!r}; supported are {supported}"
    return edit_json("config.json", **{key: value}), said


HEADER = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,99999999999]}}'
BAD: dict[str, tuple[Any, str]] = {
    "missing weight": (weights(drop), "missing"),
    "renamed weight": (weights(rename), "cls_token"),
    "mis-shaped weight": (weights(reshape), "mismatched"),
    "NaN weight": (weights(poison(float("nan"))), "holds a NaN"),
    "infinite weight": (weights(poison(float("inf"))), "holds a NaN or an infinity"),
    "truncated": (cut, WEIGHTS),
    "empty": (raw(b""), WEIGHTS),
    "no safetensors": (raw(b"\x80\x04\x95 pickle"), WEIGHTS),
    "header beyond the file": (raw(struct.pack("<Q", 1 << 40) + b"{}"), WEIGHTS),
    "data beyond the file": (raw(struct.pack("<Q", len(HEADER)) + HEADER), WEIGHTS),
    "no weights": (raw(struct.pack("<Q", 2) + b"{}"), WEIGHTS),
    "another architecture": (edit_json("config.json", model_type="bert"), "'bert'; supported vision encoders: aimv2, "),
    "no architecture": (edit_json("config.json", model_type="gone"), "its model_type is missing"),
    "code of its own": (edit_json("config.json", auto_map={"AutoModel": "modeling.Evil"}), "auto_map"),
    "a processor's code": (edit_json("preprocessor_config.json", auto_map={"x": "y"}), "auto_map"),
    "attention from the hub": (edit_json("config.json", attn_implementation="owner/x"), "'owner/x', which may"),
    "a tower's attention": (edit_json("config.json", vision={"_attn_implementation": "a/b"}), "'a/b', which may"),
    "quantised": (edit_json("config.json", quantization_config={"quant_method": "x"}), "needs a loader of its own"),
    "more than any memory": odd("hidden_size", 10**9, "whole numbers from 1 to 65,536"),
    "layers without end": odd("num_hidden_layers", 10**9, "whole numbers from 1 to 1,024"),
    "an activation that nobody knows": odd("hidden_act", "nope", "gelu, "),
    "a number in quotes": odd("hidden_size", "16", "whole numbers from 1 to 65,536"),
    "a width that is no multiple of the heads": (edit_json("config.json", num_attention_heads=3), "3 attention heads"),
    "no layers": odd("num_hidden_layers", 0, "whole numbers from 1 to 1,024"),
    "a negative size": odd("patch_size", -8, "whole numbers from 1 to 65,536"),
    "half a pixel": odd("image_size", 24.5, "whole numbers"),
    "a truth for a number": odd("num_channels", True, "whole numbers"),
    "more than all dropped": odd("hidden_dropout_prob", 7, "numbers from 0 to 1"),
    "sizes of no number": odd("image_size", [], "whole numbers"),
    "deviations of 0": (edit_json("preprocessor_config.json", image_std=[0, 0, 0]), "a deviation is above 0"),
    "a mean for all": (edit_json("preprocessor_config.json", image_mean=0.5), "image_mean is 0.5, not three numbers"),
    "a mean of words": (edit_json("preprocessor_config.json", image_mean=["a", "b", "c"]), "not three numbers"),
    "no mean": (edit_json("preprocessor_config.json", image_mean="gone"), "image_mean is not there, not three numbers"),
    "size that is a word": (edit_json("preprocessor_config.json", size="large"), "size"),
    "config that is a list": (lambda folder: (folder / "config.json").write_text("[]"), "config.json"),
    "config that is no JSON": (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
    "config with a NaN": (lambda folder: (folder / "config.json").write_text('{"hidden_size": NaN}'), "config.json"),
}  # fmt: skip


ODD = [
    *("a number in quotes", "an activation that nobody knows", "no layers", "a negative size", "half a pixel"),
    *("a truth for a number", "more than all dropped", "sizes of no number", "more than any memory"),
]
UNBUILT = ["an activation that nobody knows", "a number in quotes", "a mean for all", "config with a NaN"]
MET = ["missing weight", "infinite weight", "truncated", "another architecture", "no mean"]
REFUSED_UNSEEN = ["code of its own", "attention from the hub", "a tower's attention", "more than any memory"]


@pytest.mark.parametrize("name", list(BAD) if FULL else [*UNBUILT, *MET, *REFUSED_UNSEEN])
def test_t_a_bad_checkpoint_is_refused_by_name(name: str, vit_folder: Path, tmp_path: Path) -> None:
    """Rows T01 to T05; the check of the good one first, so that the refusal is of what was done to it."""
    change, told = BAD[name]
    folder = copy(vit_folder, tmp_path / "checkpoint")
    change(folder)
    with pytest.raises((DataError, InputError)) as caught:
        fetched(folder, tmp_path / "teacher")
    assert told.replace("FOLDER", str(folder)) in str(caught.value)
    assert ".tmp" not in str(caught.value), "the folder in which it is built is gone"


def no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_settings, "every_setting", lambda settings: iter(()))


def outer_settings_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_settings, "every_setting", lambda settings: iter(settings.items()))


@fault("X11", **{"no setting looked at": no_setting, "those within others": outer_settings_only})
def test_settings_that_load_code_or_fill_memory_are_refused(vit_folder: Path, tmp_path: Path) -> None:
    spec = teachers.get(str(vit_folder))
    for number, name in enumerate([*REFUSED_UNSEEN, "quantised", "layers without end", "a processor's code"]):
        change, told = BAD[name]
        folder = copy(vit_folder, tmp_path / str(number))
        change(folder)
        file = "preprocessor_config.json" if "processor" in name else "config.json"
        with pytest.raises(InputError) as caught:
            checkpoint_settings.refuse_settings(spec, folder / file)
        assert told.replace("FOLDER", str(folder)) in str(caught.value)
    for file in ("config.json", "preprocessor_config.json"):
        checkpoint_settings.refuse_settings(spec, vit_folder / file)


def cut_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: settings are not looked at, only weights."""
    monkeypatch.setattr(checkpoint_settings, "refuse_settings", lambda spec, path: None)


@fault(
    *("T01", "X11"),
    **{
        "no look at a folder": replaced("clipkd.embeddings.checkpoint_settings.check_folder", nothing),
        "no look at weights": replaced("clipkd.embeddings.checkpoint_settings.check_header", nothing),
        "no look at settings": cut_only,
    },
)
def test_check_opens_a_teacher_in_a_folder(vit_folder: Path, tmp_path: Path, capsys: Any) -> None:
    """Before any work: exit 2 with the file and, of settings, the key, the value, and what it may be."""
    weightless = [
        "truncated",
        "empty",
        "no safetensors",
        "header beyond the file",
        "data beyond the file",
        "no weights",
    ]
    for number, name in enumerate(["", *ODD, *weightless]):
        change, told = BAD.get(name, (lambda folder: None, ""))
        folder = copy(vit_folder, tmp_path / str(number))
        change(folder)
        block = {"name": "own", "datasets": ["digits"], "teachers": [str(folder)], "students": ["tiny-32"]}
        block |= {"train_types": ["embed-KD"], "recipes": ["corrected"], "seeds": [0]}
        (tmp_path / "grid.json").write_text(json.dumps({"grid": [block]}))
        code, said = main(["check", str(tmp_path / "grid.json"), "--base", str(BASE)]), capsys.readouterr().err
        assert code == (2 if name else 0), said
        file = "" if not name else str(folder / (WEIGHTS if name in weightless else "config.json"))
        assert file in said
        assert told.replace("FOLDER", str(folder)) in said


def unlooked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: no weight is looked at."""
    for module in (checkpoint, teacher):
        monkeypatch.setattr(module, "check_weights", lambda spec, path: 1)


def first_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: only the file's first weight is looked at."""

    def check(spec: Any, path: Path) -> int:
        name, weight = next(iter(load_file(path).items()))
        if not torch.isfinite(weight).all():
            raise DataError(f"weight '{name}' of {path.name} holds a NaN or an infinity")
        return 1

    for module in (checkpoint, teacher):
        monkeypatch.setattr(module, "check_weights", check)


@fault("T03", **{"the-finite-check": unlooked, "the-later-weights": first_looked_at})
def test_a_weight_that_is_not_finite_is_named(vit_folder: Path, tmp_path: Path) -> None:
    """The outputs of such a teacher can look finite; its weights are what is looked at, each of them."""
    spec = teachers.get(str(vit_folder))
    for name, weight in load_file(vit_folder / WEIGHTS).items():
        path = tmp_path / WEIGHTS
        poisoned = weight.clone()
        poisoned.flatten()[-1] = float("nan")
        save_file(load_file(vit_folder / WEIGHTS) | {name: poisoned}, path, metadata={"format": "pt"})
        with pytest.raises(DataError, match=f"'{name}' of .* holds a NaN or an infinity"):
            checkpoint.check_weights(spec, path)
    folder = copy(vit_folder, tmp_path / "checkpoint")
    edit_weights(folder, poison(float("nan")))
    with pytest.raises(DataError, match="holds a NaN or an infinity"):
        fetched(folder, tmp_path / "teacher")


@fault("T02", **{"the-comparison": replaced("clipkd.embeddings.transformers_encoder.compare", nothing)})
def test_loaded_weights_are_the_files(vit_folder: Path, tmp_path: Path) -> None:
    """A stand-in for a loader that converts or fills in: one loaded weight differs from the file's."""
    import transformers

    folder = copy(vit_folder, tmp_path / "checkpoint")
    real = transformers.ViTModel.from_pretrained

    def loosely(*arguments: Any, **more: Any) -> Any:
        model, report = real(*arguments, **more)
        next(model.parameters()).data.add_(1e-6)
        return model, report

    patch = pytest.MonkeyPatch()
    patch.setattr(transformers.ViTModel, "from_pretrained", loosely)
    try:
        with pytest.raises(DataError, match="was loaded as other numbers than the file holds"):
            fetched(folder, tmp_path / "teacher")
    finally:
        patch.undo()


@fault(
    "T04",
    **{"the-three-files": replaced("clipkd.plugins.teachers.FolderTeacher.files", (*FILES, "pytorch_model.bin"))},
)
def test_a_pickle_beside_safetensors_is_never_touched(vit_folder: Path, tmp_path: Path) -> None:
    folder = copy(vit_folder, tmp_path / "checkpoint")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    spec = teachers.get(str(folder))
    assert isinstance(spec, FolderTeacher)
    try:
        artifact = checkpoint.fetch(spec, tmp_path / "teacher")
    except KeyError:
        pytest.fail("the pickle was asked for")
    assert sorted(artifact.manifest["files"]) == sorted(FILES)


def test_t04_only_pickles_are_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(InputError, match=WEIGHTS):
        teachers.get(str(tmp_path))
    assert "save_pretrained" in checkpoint.CONVERT


def believed(spec: FolderTeacher, path: Path) -> Processor:
    """The mutant: what the checkpoint says is taken, whatever the teacher is known with."""
    return read(replace(spec, image_size=None, mean=None, std=None), read_json(path), path)


@fault(
    "T05",
    **{"the-known-size": replaced("clipkd.embeddings.transformers_encoder.processor", believed)},
)
def test_another_size_or_normalisation_than_known_is_refused(vit_folder: Path, tmp_path: Path) -> None:
    for known in ({"image_size": 224}, {"mean": (0.1, 0.2, 0.3)}, {"std": (0.1, 0.2, 0.3)}):
        spec = FolderTeacher(name="t", title="T", folder=str(vit_folder), **known)  # type: ignore[arg-type]
        place = tmp_path / next(iter(known))
        with building(place, "teacher", spec.identity()) as draft:
            for name in FILES:
                (draft.path / name).write_bytes((vit_folder / name).read_bytes())
        with pytest.raises(DataError, match="is known with"):
            teacher.load(spec, place, CPU)


def lenient(name: str) -> HubTeacher:
    return HubTeacher(name="x", title="x", hub_id=name, revision="main")


@fault("T06", "T07", "X05", **{"the-names": lambda monkeypatch: monkeypatch.setattr(teachers, "get", lenient)})
def test_names_and_revisions_that_are_none_are_refused() -> None:
    ids = ("owner/model", "owner/model@main", "owner/model@v1", f"owner/model@{COMMIT[:39]}", f"owner/model@{COMMIT}0")
    ids += (
        f"../../etc/passwd@{COMMIT}",
        "../../etc/passwd",
        f"owner/../x@{COMMIT}",
        f"a/b/c@{COMMIT}",
        f"owner/@{COMMIT}",
    )
    ids += (
        f"owner/model;touch x@{COMMIT}",
        f"owner/$(touch x)@{COMMIT}",
        f"owner/`x`@{COMMIT}",
        "-rf",
        "",
        " ",
        "a\nb",
    )
    ids += (f"owner/mo del@{COMMIT}", f"owner/model\n@{COMMIT}", "{output}", "x" * 5000, "no-such-teacher")
    for name in ids:
        try:
            teachers.get(name)
        except ClipkdError as error:
            assert name.partition("@")[0].strip()[:20] in str(error)
        else:
            pytest.fail(f"taken for a teacher: {name!r}")
    # What stands in paths is a slug, whatever the id.
    assert teachers.get(f"Owner/My.Model_v2@{COMMIT}").name == f"owner-my-model-v2-{COMMIT[:8]}"


@fault("T10", **{"the-look": replaced("clipkd.plugins.teachers._known.refuse_two_meanings", nothing)})
def test_a_name_that_is_a_folder_too_is_taken_for_neither(vit_folder: Path, tmp_path: Path) -> None:
    """As people clone a model under its hub id, where there is no internet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        for name, other in (
            ("google/vit-large-patch16-224-in21k", "'vit-l16-in21k' for"),
            ("vit-b32-in21k", "'google/vit-base-patch32-224-in21k' for"),
            ("digits-vit-s", "or rename the folder"),
        ):
            (tmp_path / name).mkdir(parents=True)
            assert not isinstance(teachers.get(name), FolderTeacher)  # an empty folder is no checkpoint
            copy(vit_folder, tmp_path / "one" / name)
            (tmp_path / name).rmdir()
            (tmp_path / "one" / name).rename(tmp_path / name)
            for asked in (name, f"mine={name}:mean"):
                with pytest.raises(InputError, match=re.escape(f"'{name}' is known here")) as caught:
                    teachers.get(asked)
                assert f"write './{name}' for the folder, {other}" in str(caught.value)
            assert isinstance(teachers.get(f"./{name}"), FolderTeacher)


@fault("T06", **{"the-check-of-entries": replaced("clipkd.plugins.teachers._hub.is_pin", lambda entry: True)})
def test_a_damaged_lock_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "teachers.lock.json"
    for entry in ({"revision": "main"}, {"revision": COMMIT, "weights_sha256": "x"}, {}, [], None, {"revision": None}):
        path.write_text(json.dumps({"vit-b32-in21k": entry}))
        teachers.lock.cache_clear()
        try:
            teachers.lock(path)
        except DataError as error:
            assert "vit-b32-in21k" in str(error)
        else:
            pytest.fail(f"taken for a pin: {entry}")
    teachers.lock.cache_clear()


@fault("T06", **{"the-digests": replaced("clipkd.embeddings.teacher_checkpoint.check_digests", nothing)})
def test_a_folder_that_changed_since_it_was_named_is_refused(vit_folder: Path, tmp_path: Path) -> None:
    folder = copy(vit_folder, tmp_path / "checkpoint")
    spec = teachers.get(str(folder))
    edit_weights(folder, lambda state: state[first(state, "cls_token")].add_(1))
    with pytest.raises(DataError, match="has changed"):
        checkpoint.fetch(spec, tmp_path / "teacher")


@fault(
    "C06",
    **{
        "the-class-count": lambda monkeypatch: monkeypatch.setattr(
            "clipkd.embeddings.own_head.rows", lambda head, spec, dataset, classes, given: list(range(head.classes))
        )
    },
)
def test_scores_come_from_a_head_of_the_datasets_classes(tmp_path: Path) -> None:
    """A checkpoint without a classifier has a probe fitted, never a random layer; one of other classes is refused."""
    digits = [str(number) for number in range(10)]
    for changes, names in (({"head_for": "digits"}, None), ({"head": "own"}, None), ({"head": "own"}, digits[:7])):
        spec = HubTeacher(name="t", title="T", **changes)  # type: ignore[arg-type]
        head = OwnHead(7, names and tuple(names), True)
        with pytest.raises(InputError, match="own classifier can't score digits"):
            own_head.rows(head, spec, "digits", digits, None)
    save_vit(tmp_path / "headless")
    assert fetched(tmp_path / "headless", tmp_path / "teacher").head is None


CLASSIFIER: dict[str, Any] = {"architectures": ["ViTForImageClassification"]}
LETTERS: dict[str, Any] = {"id2label": {str(number): letter for number, letter in enumerate("abcdefghij")}}
NUMBERED: dict[str, Any] = {"id2label": {str(number): str(number) for number in range(10)}}
TIMM: dict[str, Any] = {
    "architecture": "resnet10t",
    "pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0},
}
HEADS = {
    "other classes": ("", CLASSIFIER | LETTERS, "it has no class '0'"),
    "too few, unnamed": ("", CLASSIFIER, "nobody named its 2 classes"),
    "no classifier": ("", {"architectures": ["ViTModel"]}, "the checkpoint has none"),
    "not on this output": (":mean", CLASSIFIER | NUMBERED, "not a linear layer on the embedding"),
    "timm, other classes": ("", TIMM | {"num_classes": 10, "label_names": list("abcdefghij")}, "it has no class '0'"),
    "timm, no classifier": ("", TIMM | {"num_classes": 0}, "the checkpoint has none"),
    "timm, no scores": (":logits", TIMM | {"num_classes": 0}, "the checkpoint has no classifier"),
}
"""What is taken of a checkpoint, what its config.json says, and why its classifier can't score the digits."""
COMPARED = [kind for kind in HEADS if kind != "timm, no scores"]
"""Those whose classes are compared with the digits."""


@fault(
    "T11",
    **{"the-config": replaced("clipkd.embeddings.own_head.rows", nothing)},
)
@pytest.mark.parametrize("kind", COMPARED if FULL else ["other classes", "no classifier", "timm, other classes"])
def test_a_classifier_of_other_classes_is_refused_before_its_weights_are_downloaded(kind: str, tmp_path: Path) -> None:
    refused_before_its_weights_are_downloaded(kind, tmp_path)


def test_scores_of_a_timm_model_without_a_classifier_are_refused_before_its_weights_are_downloaded(
    tmp_path: Path,
) -> None:
    """Before its classes are looked at: it has none. The control is within: one with a classifier is asked for."""
    refused_before_its_weights_are_downloaded("timm, no scores", tmp_path)


def refused_before_its_weights_are_downloaded(kind: str, tmp_path: Path) -> None:
    output, said, words = HEADS[kind]
    save_vit(tmp_path / "vit")
    (tmp_path / "vit" / WEIGHTS).unlink()
    path = tmp_path / "vit/config.json"

    def downloaded(spec: HubTeacher, name: str) -> Path:
        if name == WEIGHTS:
            pytest.fail("its weights were downloaded")
        return tmp_path / "vit" / name

    spec = teachers.get(f"{'timm' if said.get('architecture') else 'someone'}/model@{COMMIT}{output}?head=own")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "verified_file", downloaded)
        path.write_text(json.dumps(said if "architecture" in said else read_json(path) | said))
        with pytest.raises(InputError, match=words):
            prepare.teacher(spec, Layout(tmp_path / "data"), CPU, scored=datasets.get("digits"))
        # The control: where its classes are the digits, the weights are asked for.
        right = TIMM | {"num_classes": 10, "label_names": list("0123456789")}
        path.write_text(json.dumps(right if "architecture" in said else read_json(path) | CLASSIFIER | NUMBERED))
        if output != ":mean":
            with pytest.raises(pytest.fail.Exception, match="its weights were downloaded"):
                prepare.teacher(spec, Layout(tmp_path / "data"), CPU, scored=datasets.get("digits"))


def test_fetch_refuses_a_local_file_whose_classifier_is_not_the_datasets(tmp_path: Path) -> None:
    """Nobody named its classes. The control: without a dataset the same file is taken."""
    from clipkd.core.vision import torchvision  # noqa: F401  (timm imports it: it must work first)

    import timm  # isort: skip

    model = timm.create_model("test_resnet", num_classes=3)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    where = f"timm:test_resnet?pretrained={tmp_path}/weights.safetensors"
    command = ["fetch", "--data", str(tmp_path / "data"), "--device", "cpu"]
    assert main([*command, f"{where}&head=own@digits"]) == 2
    assert not list((tmp_path / "data/teachers").glob("*/*/manifest.json"))
    assert main([*command, f"{where}&head=own"]) == 0


@fault("T16", **{"the-key": replaced("clipkd.plugins.teachers._folder.refuse_nameless", nothing)})
def test_a_config_of_timm_without_its_architecture_is_named_with_file_and_key(tmp_path: Path) -> None:
    config = TIMM | {"num_classes": 10}
    (tmp_path / "config.json").write_text(json.dumps({key: config[key] for key in config if key != "architecture"}))
    save_file({"one": torch.ones(1)}, tmp_path / WEIGHTS)
    with pytest.raises(InputError, match=f"{re.escape(str(tmp_path))}/config.json: the key 'architecture' is missing"):
        teachers.get(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert teachers.get(str(tmp_path)).output == "pooled"  # the control


UNNAMED = {
    "timm:resnet10t": ("timm", "label_names.*timm:resnet10t.TAG"),
    "torchvision:resnet18": ("torchvision", "torchvision:resnet18.TAG"),
    "someone/model": ("", "id2label"),
}


@fault("T11", **{"the-advice": replaced("clipkd.embeddings.own_head.where_to_name", lambda spec: "name them")})
@pytest.mark.parametrize("name", UNNAMED)
def test_a_classifier_without_names_comes_with_what_to_do(name: str, tmp_path: Path) -> None:
    library, words = UNNAMED[name]
    save_file({"one": torch.ones(1)}, tmp_path / "weights.safetensors")
    rest = f"?pretrained={tmp_path / 'weights.safetensors'}&head=own" if library else f"@{COMMIT}?head=own"
    with pytest.raises(InputError, match=f"nobody named its 10 classes.*{words}"):
        own_head.rows(OwnHead(10, None, True), teachers.get(name + rest), "digits", list("0123456789"), None)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("embedings:/path/file.npy", "embeddings:"),
        ("mine=embedding:/path/file.npy", "embeddings:"),
        ("runs:corrected/digits/tiny-32/none/supervised/seed0", "run:"),
        ("tim:resnet18?pretrained=/path/a.pt", "timm:"),
        ("torchvison:resnet18?pretrained=/path/a.pt", "torchvision:"),
        ("trianed:resnet10t@32", "trained:"),
    ],
)
def test_a_misspelt_beginning_of_a_name_is_named(name: str, meant: str) -> None:
    with pytest.raises(InputError, match=f"there is no '.*:'; did you mean '{meant}'"):
        teachers.get(name)


@pytest.mark.parametrize("name", ["time:cls", "vit-l16-in21k:maen", "nowhere:mean"])
def test_what_is_taken_of_an_unknown_teacher_is_no_misspelt_beginning(name: str) -> None:
    with pytest.raises(InputError, match=r"unknown teacher|is not one of cls"):
        teachers.get(name)


NAMES = {
    "trained:resnet18_d@64": "no model 'resnet18_d'.*did you mean 'resnet18d'",
    "timm:resnet_18?pretrained=FILE": "no model 'resnet_18'.*did you mean 'resnet18'",
    "timm:resnet18.a1in1k?pretrained=FILE": "no weights 'resnet18.a1in1k'.*did you mean 'a1_in1k'",
    "torchvision:resnet_18?pretrained=FILE": "no classification model 'resnet_18'.*did you mean 'resnet18'",
    "torchvision:resnet18.IMAGENET_V1?pretrained=FILE": "no weights.*did you mean 'IMAGENET1K_V1'",
}
"""A teacher's name, and what is said of it."""


@fault("T15", **{"the-names": replaced("clipkd.embeddings.library_models.check", nothing)})
@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_its_library_does_not_have_is_named_before_any_work(name: str, tmp_path: Path) -> None:
    """By `clipkd check`, and by whoever would fetch or train it: nothing is packed, downloaded or built."""
    weights = tmp_path / "weights.safetensors"
    save_file({"one": torch.ones(1)}, weights)
    teacher_name = name.replace("FILE", str(weights))
    grid = {"name": "a", "datasets": ["digits"], "teachers": ["mine"], "students": ["tiny-32"]}
    grid |= {"train_types": ["vanilla"], "recipes": ["corrected"], "seeds": [0]}
    config = {"teachers": {"mine": teacher_name}, "grid": [grid]}
    (tmp_path / "mine.yaml").write_text(json.dumps(config))
    with pytest.raises(InputError, match=NAMES[name]):
        check.run(Namespace(configfile=[], files=[], base=tmp_path / "mine.yaml"))
    spec, layout = teachers.get(on_dataset(teacher_name, "digits", "")), Layout(tmp_path / "data")
    with pytest.raises(InputError, match=NAMES[name]):
        prepare.teacher(spec, layout, CPU)
    assert not (tmp_path / "data/datasets").exists()
