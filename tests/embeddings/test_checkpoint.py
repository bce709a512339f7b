"""Checkpoints: a tiny real ViT through the real huggingface_hub, from a server shaped like the hub."""

from __future__ import annotations

import itertools
import json
import os
import re
import stat
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

import clipkd
from clipkd.core import hub_client
from clipkd.core.artifacts import open_artifact
from clipkd.core.errors import DataError, InputError, MachineError
from clipkd.core.registry import specs
from clipkd.embeddings import teacher_checkpoint as checkpoint
from clipkd.embeddings.teacher import load as load_teacher
from clipkd.plugins import teachers
from clipkd.plugins.datasets.hub import from_source
from clipkd.plugins.teachers import FILES, FolderTeacher, HubTeacher
from tests import warm
from tests.embeddings.hub_server import Hub, Repository

ROOT = Path(clipkd.__file__).parents[1]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CANARY = "hf_canaryCanaryCanary"
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 32, "width": 32},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


@pytest.fixture(scope="module")
def vit() -> Any:
    """A ViT of one layer."""
    from clipkd.core.vision import torchvision  # noqa: F401

    from transformers import ViTConfig, ViTModel  # isort: skip

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8), add_pooling_layer=False)


@pytest.fixture(scope="module")
def files(vit: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The ViT as transformers itself saves it; and what else repositories hold."""
    folder = tmp_path_factory.mktemp("vit")
    vit.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    (folder / "pytorch_model.bin").write_bytes(b"a pickle that nobody may load")
    (folder / "modeling.py").write_text("raise SystemExit('code from the repository was run')")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.close()


class Worker:
    """A process that has huggingface_hub pointed at our hub."""

    def __init__(self, hub: Hub, home: Path) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
        environment |= {
            "PYTHONPATH": str(ROOT),
            "HF_HOME": str(home / "hf"),
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": CANARY,
        }
        environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
        self.home, self.log = home, home / "stderr.txt"
        with self.log.open("w") as log:
            command = [warm.python(), str(Path(__file__).parent / "checkpoint_worker.py")]
            self.process = subprocess.Popen(
                command, cwd=home, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )

    def do(self, **command: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        return json.loads(line)

    def fetch(self, hub_id: str, folder: Path, **teacher: Any) -> dict[str, Any]:
        teacher = {"name": "tiny", "title": "Tiny", "hub_id": hub_id, "revision": COMMIT} | teacher
        return self.do(do="fetch", kind="HubTeacher", teacher=teacher, folder=str(folder))


@pytest.fixture(scope="module")
def worker(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(hub, tmp_path_factory.mktemp("home"))
    yield worker
    worker.process.terminate()
    worker.process.wait()
    # Whatever happened in this file: the token is in no message.
    assert CANARY not in worker.log.read_text()


NUMBERS = itertools.count()


@pytest.fixture
def hub_id() -> str:
    """A repository that no other test has left in the cache."""
    return f"someone/tiny-{next(NUMBERS)}"


@pytest.mark.slow
def test_fetch(hub: Hub, worker: Worker, hub_id: str, files: dict[str, bytes], tmp_path: Path) -> None:
    hub.repositories[hub_id] = Repository(COMMIT, files)
    folder = tmp_path / "teacher"
    answer = worker.fetch(hub_id, folder)
    parameters = sum(tensor.numel() for tensor in load(files["model.safetensors"]).values())
    assert answer == {"facts": {"source": "hub", "parameters": parameters}, "files": sorted(FILES)}
    assert {path.name for path in folder.iterdir()} == {*FILES, "manifest.json"}
    for name in FILES:
        assert (folder / name).read_bytes() == files[name]
        assert not (folder / name).is_symlink()
        assert stat.S_IMODE((folder / name).stat().st_mode) & 0o444 == 0o444 & ~current_umask()
    assert hub.asked_for(hub_id) == set(FILES)
    # The token went to the hub, not to its file store, and was written nowhere.
    assert hub.authorizations[f"/{hub_id}/resolve/{COMMIT}/config.json"] == f"Bearer {CANARY}"
    assert hub.authorizations[f"/store/{hub_id}/model.safetensors"] is None
    assert not any(CANARY.encode() in path.read_bytes() for path in folder.iterdir())

    hub.repositories[hub_id].status = 500  # a second fetch needs no network
    before = len(hub.requests)
    assert worker.fetch(hub_id, folder) == answer
    assert len(hub.requests) == before


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("is_nested", [False, True])
def test_fetched_teacher_loads(
    hub: Hub, worker: Worker, hub_id: str, vit: Any, files: dict[str, bytes], tmp_path: Path, is_nested: bool
) -> None:
    """Nested: the image processor is in processor_config.json alone, as transformers 5 pushes some models."""
    if is_nested:
        whole = json.dumps({"image_processor": PROCESSOR, "processor_class": "SomeProcessor"}).encode()
        files = without(files, "preprocessor_config.json") | {"processor_config.json": whole}
    hub.repositories[hub_id] = Repository(COMMIT, files)
    worker.fetch(hub_id, tmp_path / "teacher")
    spec = HubTeacher(name="tiny", title="Tiny", hub_id=hub_id, revision=COMMIT)
    teacher = load_teacher(spec, tmp_path / "teacher", torch.device("cpu"))
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = vit.eval()(pixel_values=(pixels - 0.5) / 0.5).last_hidden_state[:, 0]
    torch.testing.assert_close(teacher.embed(teacher.present(pixels, None, None)), expected, rtol=1e-4, atol=1e-5)


def test_damaged_artefact_is_fetched_again(
    hub: Hub, worker: Worker, hub_id: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    hub.repositories[hub_id] = Repository(COMMIT, files)
    worker.fetch(hub_id, tmp_path / "teacher")
    weights = tmp_path / "teacher" / "model.safetensors"
    weights.write_bytes(flipped(weights.read_bytes()))
    assert "error" not in worker.fetch(hub_id, tmp_path / "teacher")
    assert weights.read_bytes() == files["model.safetensors"]


def test_known_sha256(hub: Hub, worker: Worker, hub_id: str, files: dict[str, bytes], tmp_path: Path) -> None:
    hub.repositories[hub_id] = Repository(COMMIT, files)
    actual = sha256(files["model.safetensors"]).hexdigest()
    answer = worker.fetch(hub_id, tmp_path / "teacher", weights_sha256="a" * 64)
    assert answer["error"] == "DataError"
    assert f"sha256 expected {'a' * 64}, actual {actual}" in answer["message"]
    assert list(tmp_path.iterdir()) == []
    assert "error" not in worker.fetch(hub_id, tmp_path / "teacher", weights_sha256=actual)


def test_a_bit_that_is_flipped_once_on_the_way(
    hub: Hub, worker: Worker, hub_id: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    """It is downloaded once more. (Flipped again: tests/faults.)"""
    hub.repositories[hub_id] = Repository(COMMIT, files, damaged_sends=1)
    assert "error" not in worker.fetch(hub_id, tmp_path / "teacher")
    assert (tmp_path / "teacher" / "model.safetensors").read_bytes() == files["model.safetensors"]


def without(files: dict[str, bytes], name: str) -> dict[str, bytes]:
    return {key: value for key, value in files.items() if key != name}


def test_pickle_is_refused(hub: Hub, worker: Worker, hub_id: str, files: dict[str, bytes], tmp_path: Path) -> None:
    hub.repositories[hub_id] = Repository(COMMIT, without(files, "model.safetensors"))
    answer = worker.fetch(hub_id, tmp_path / "teacher")
    assert answer["error"] == "MissingFile"
    assert f"{hub_id} has no model.safetensors" in answer["message"]
    assert "save_pretrained" in answer["message"]
    assert "pytorch_model.bin" not in hub.asked_for(hub_id)
    assert list(tmp_path.iterdir()) == []


def test_missing_processor(hub: Hub, worker: Worker, hub_id: str, files: dict[str, bytes], tmp_path: Path) -> None:
    hub.repositories[hub_id] = Repository(COMMIT, without(files, "preprocessor_config.json"))
    answer = worker.fetch(hub_id, tmp_path / "teacher")
    assert answer["error"] == "MissingFile"
    assert f"{hub_id} has no preprocessor_config.json at {COMMIT}" in answer["message"]
    assert "model.safetensors" not in hub.asked_for(hub_id)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "processor_config.json"])
def test_remote_code_is_refused(
    hub: Hub, worker: Worker, hub_id: str, files: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    settings = json.loads(files.get(name, "{}")) | {"auto_map": {"AutoModel": "modeling.Model"}}
    if name == "processor_config.json":
        settings, files = {"image_processor": settings}, without(files, "preprocessor_config.json")
    hub.repositories[hub_id] = Repository(COMMIT, files | {name: json.dumps(settings).encode()})
    answer = worker.fetch(hub_id, tmp_path / "teacher")
    assert answer["error"] == "InputError"
    assert f"'auto_map' in its {name}" in answer["message"]
    assert not hub.asked_for(hub_id) & {"model.safetensors", "modeling.py"}


def test_settings_that_are_no_json(
    hub: Hub, worker: Worker, hub_id: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    hub.repositories[hub_id] = Repository(COMMIT, files | {"config.json": b"<html>"})
    answer = worker.fetch(hub_id, tmp_path / "teacher")
    assert answer["error"] == "DataError"
    assert "teacher 'tiny'" in answer["message"]
    assert "config.json" in answer["message"]


def spoiled(weights: bytes, value: float) -> bytes:
    tensors = load(weights)
    next(tensor for name, tensor in tensors.items() if name.endswith("layernorm_before.bias"))[2] = value
    return save(tensors)


def test_weight_that_is_not_finite(
    hub: Hub, worker: Worker, hub_id: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    weights = spoiled(files["model.safetensors"], float("-inf"))
    name = next(key for key, tensor in load(weights).items() if not torch.isfinite(tensor).all())
    hub.repositories[hub_id] = Repository(COMMIT, files | {"model.safetensors": weights})
    answer = worker.fetch(hub_id, tmp_path / "teacher")
    assert answer["error"] == "DataError"
    assert f"teacher 'tiny': weight '{name}' of model.safetensors holds a NaN or an infinity" in answer["message"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [lambda w: w[:-4], lambda w: b"PK\x03\x04" + w],
    ids=["truncated", "zip"],
)
def test_damaged_weights(
    hub: Hub, worker: Worker, hub_id: str, files: dict[str, bytes], tmp_path: Path, damage: Any
) -> None:
    weights = damage(files["model.safetensors"])
    hub.repositories[hub_id] = Repository(COMMIT, files | {"model.safetensors": weights})
    answer = worker.fetch(hub_id, tmp_path / "teacher")
    assert answer["error"] == "DataError"
    assert "model.safetensors is damaged, or no safetensors file" in answer["message"]
    assert list(tmp_path.iterdir()) == []


def test_unknown_gated_and_unpinned(
    hub: Hub, worker: Worker, hub_id: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    folder = tmp_path / "teacher"
    for wrong in (hub_id, "../../etc/passwd", "a;touch x/b", "none/such"):
        answer = worker.fetch(wrong, folder)
        assert answer["error"] == "InputError"
        assert f"knows no model '{wrong}'" in answer["message"]
    hub.repositories[hub_id] = Repository(COMMIT, files, is_gated=True)
    answer = worker.fetch(hub_id, folder)
    assert answer["error"] == "InputError"
    assert f"{hub_id} is gated" in answer["message"]
    hub.repositories[hub_id] = Repository(COMMIT, files)
    answer = worker.fetch(hub_id, folder, revision="f" * 40)
    assert answer["error"] == "InputError"
    assert f"{hub_id} has no commit {'f' * 40}" in answer["message"]
    answer = worker.fetch(hub_id, folder, revision=None)
    assert answer["error"] == "InputError"
    assert "clipkd pin tiny" in answer["message"]
    assert list(tmp_path.iterdir()) == []


def test_broken_hub(hub: Hub, worker: Worker, hub_id: str, files: dict[str, bytes], tmp_path: Path) -> None:
    hub.repositories[hub_id] = Repository(COMMIT, files, status=501)
    answer = worker.fetch(hub_id, tmp_path / "teacher")
    assert answer["error"] == "MachineError"
    assert "status 501" in answer["message"]
    assert answer["message"].endswith("run: clipkd fetch tiny")


def test_pin(hub: Hub, worker: Worker, files: dict[str, bytes]) -> None:
    lock = worker.home / teachers.LOCK
    lock.parent.mkdir(exist_ok=True)
    lock.write_text(json.dumps({"another": {"revision": "b" * 40, "weights_sha256": None}}))
    spec = specs("clipkd.plugins.teachers")["vit-b32-in21k"]
    assert spec.revision is None
    expected = {"revision": COMMIT, "weights_sha256": sha256(files["model.safetensors"]).hexdigest()}
    hub.repositories[spec.hub_id] = Repository(COMMIT, files)
    assert worker.do(do="pin", name="ViT-B32-in21k") == expected | {"spec": list(expected.values())}
    assert json.loads(lock.read_text()) == {
        "another": {"revision": "b" * 40, "weights_sha256": None},
        "vit-b32-in21k": expected,
    }
    # A later pin follows main; where the weights lie in git itself, the hub keeps no sha256.
    hub.repositories[spec.hub_id] = Repository("c" * 40, files, is_small=True)
    assert worker.do(do="pin", name=spec.hub_id)["spec"] == ["c" * 40, None]

    before = lock.read_bytes()
    hub.repositories[spec.hub_id] = Repository("d" * 40, without(files, "model.safetensors"))
    answer = worker.do(do="pin", name="vit-b32-in21k")
    assert answer["error"] == "InputError"
    assert f"no model.safetensors at main ({'d' * 40})" in answer["message"]
    answer = worker.do(do="pin", name="vit-b16-in21k")
    assert answer["error"] == "InputError"
    assert "pinned already" in answer["message"]
    answer = worker.do(do="pin", name="digits-vit-s")
    assert answer["error"] == "InputError"
    assert "nothing to pin" in answer["message"]
    hub.repositories[spec.hub_id].status = 501
    answer = worker.do(do="pin", name="vit-b32-in21k")
    assert answer["error"] == "MachineError"
    assert answer["message"].endswith("run: clipkd pin vit-b32-in21k")
    assert lock.read_bytes() == before


@pytest.mark.slow
def test_offline(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    command = [str(warm.command()), "fetch", "vit-b16-in21k", "--data", str(tmp_path / "data")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr
    assert last == (
        "clipkd fetch: error: teacher 'vit-b16-in21k': config.json of google/vit-base-patch16-224-in21k is not on this "
        "machine, and HF_HUB_OFFLINE is set. Where there is internet, run: clipkd fetch vit-b16-in21k"
    )


def test_a_dataset_out_of_reach_is_named_with_its_source() -> None:
    spec = from_source("beans", f"farm/beans@{COMMIT}?label=kind&size=24")
    assert from_source("beans", spec.source.removeprefix("hub:")) == spec
    message = hub_client.out_of_reach(spec, "the list of files", ConnectionError(), "download")
    assert "the list of files of farm/beans is not on this machine" in message
    assert message.endswith(f"clipkd download beans --dataset-source 'hub:farm/beans@{COMMIT}?label=kind&size=24'")


def test_nobody_there() -> None:
    """huggingface_hub tries for half a minute before it gives up; here, its one try as it ends."""
    from huggingface_hub import get_hf_file_metadata

    teacher = HubTeacher(name="tiny", title="Tiny", hub_id="someone/tiny", revision=COMMIT)
    message = r"can't be reached \(ConnectError\).*run: clipkd fetch tiny$"
    with pytest.raises(MachineError, match=message), checkpoint.hub_errors(teacher, "config.json"):
        get_hf_file_metadata("http://127.0.0.1:1/x", token=False)


@pytest.fixture
def local(files: dict[str, bytes], tmp_path: Path) -> FolderTeacher:
    """A checkpoint in a folder of the user's, with more in it than we read."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "model.safetensors").chmod(0o600)  # as transformers leaves it
    teacher = teachers.get(str(folder))
    assert isinstance(teacher, FolderTeacher)
    return teacher


def test_folder(local: FolderTeacher, files: dict[str, bytes], tmp_path: Path) -> None:
    artifact = checkpoint.fetch(local, tmp_path / "teacher")
    assert artifact.facts["source"] == "folder"
    assert {name: (artifact.path / name).read_bytes() for name in FILES} == {name: files[name] for name in FILES}
    assert (artifact.path / "model.safetensors").stat().st_mode & 0o777 == 0o666 & ~current_umask()
    assert open_artifact(tmp_path / "teacher", "teacher", local.identity()).manifest == artifact.manifest


def test_folder_that_changed(local: FolderTeacher, tmp_path: Path) -> None:
    weights = Path(local.folder) / "model.safetensors"
    weights.write_bytes(flipped(weights.read_bytes()))
    with pytest.raises(DataError, match=r"model\.safetensors has changed: sha256 expected .*, actual "):
        checkpoint.fetch(local, tmp_path / "teacher")
    weights.unlink()
    with pytest.raises(DataError, match=r"model\.safetensors is gone"):
        checkpoint.fetch(local, tmp_path / "teacher")
    assert not (tmp_path / "teacher").exists()


def test_folder_with_code(local: FolderTeacher, tmp_path: Path) -> None:
    config = Path(local.folder) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"auto_map": {}}))
    with pytest.raises(InputError, match="auto_map"):
        checkpoint.fetch(teachers.get(local.folder), tmp_path / "teacher")


def test_teacher_that_is_trained_here(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="trained here, not fetched"):
        checkpoint.fetch(teachers.get("digits-vit-s"), tmp_path / "teacher")


def sharded(files: dict[str, bytes], commit: str = COMMIT) -> dict[str, bytes]:
    """Return a repository's files with its weights in two shards and an index."""
    weights = load(files["model.safetensors"])
    names = sorted(weights)
    halves = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    index = {"metadata": {}, "weight_map": {name: file for file, held in halves.items() for name in held}}
    rest = {name: content for name, content in files.items() if name != "model.safetensors"}
    shards = {file: save({name: weights[name] for name in held}) for file, held in halves.items()}
    return rest | shards | {"model.safetensors.index.json": json.dumps(index).encode()}


def test_sharded_weights_are_joined(hub: Hub, worker: Worker, hub_id: str, files: dict[str, bytes], tmp_path: Path):
    pieces = sharded(files)
    hub.repositories[hub_id] = Repository(COMMIT, pieces)
    answer = worker.fetch(hub_id, tmp_path / "teacher")
    assert answer["files"] == sorted(FILES)
    whole, found = load(files["model.safetensors"]), load((tmp_path / "teacher/model.safetensors").read_bytes())
    assert whole.keys() == found.keys()
    assert all(torch.equal(whole[name], found[name]) for name in whole)

    # The same in a folder; and where a shard holds something else than the index says, it is named.
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in pieces.items():
        (folder / name).write_bytes(content)
    spec = teachers.get(f"{folder}:mean")
    assert checkpoint.fetch(spec, tmp_path / "local").facts["parameters"] == answer["facts"]["parameters"]
    (folder / "model-2.safetensors").write_bytes(pieces["model-1.safetensors"])
    other = teachers.get(f"{folder}:mean")
    assert other.name != spec.name
    with pytest.raises(DataError, match=r"model-2\.safetensors does not hold what .* says"):
        checkpoint.fetch(other, tmp_path / "other")
    index = {"weight_map": {"weight": "../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="not a safetensors file beside it"):
        teachers.get(f"{folder}:mean")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "words", "asked"),
    [
        ({"config.json": {"model_type": "bert"}}, "supported vision encoders: .*dinov3_vit", {"config.json"}),
        ({"config.json": {"architecture": "resnet_18"}}, "has no model 'resnet_18'; did you mean", {"config.json"}),
        ({"preprocessor_config.json": PROCESSOR | {"size": 64}}, "says images of 32 pixels", set(FILES[:2])),
        ({"preprocessor_config.json": PROCESSOR | {"resample": 1}}, "resample: 1", set(FILES[:2])),
    ],
)
def test_what_can_not_work_is_refused_before_its_weights_are_asked_for(
    hub: Hub, worker: Worker, hub_id: str, files: dict[str, bytes], tmp_path: Path, changes: Any, words: str, asked: Any
) -> None:
    changed = {name: json.dumps(content).encode() for name, content in changes.items()}
    hub.repositories[hub_id] = Repository(COMMIT, files | changed)
    answer = worker.fetch(hub_id, tmp_path / "teacher")
    assert re.search(words, answer["message"]), answer
    assert hub.asked_for(hub_id) == asked


@pytest.mark.slow
def test_a_timm_model_of_the_hub(hub: Hub, worker: Worker, hub_id: str, tmp_path: Path) -> None:
    import timm

    model = timm.create_model("test_resnet", num_classes=3)
    timm.models.save_for_hf(model, tmp_path / "saved", safe_serialization=True)
    content = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    hub.repositories[hub_id] = Repository(COMMIT, content | {"pytorch_model.bin": b"a pickle"})
    answer = worker.fetch(hub_id, tmp_path / "teacher", output="pooled")
    assert answer["files"] == ["config.json", "model.safetensors"]
    assert hub.asked_for(hub_id) == {"config.json", "model.safetensors"}
    spec = HubTeacher(name="tiny", title="Tiny", hub_id=hub_id, revision=COMMIT, output="pooled")
    pixels = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        expected = model.eval().forward_head(model.forward_features(pixels), pre_logits=True)
    torch.testing.assert_close(load_teacher(spec, tmp_path / "teacher", torch.device("cpu")).embed(pixels), expected,
                               rtol=1e-4, atol=1e-5)  # fmt: skip
    assert teachers.get(f"timm/test_resnet@{COMMIT}").output == "pooled"


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        (f"timm/resnet10t@{'a' * 40}", f"timm/resnet10t@{'a' * 40}"),
        (f"mine=owner/model@{'a' * 40}:mean", f"owner/model@{'a' * 40}"),
        (f"owner/clip@{'a' * 40}:text", f"owner/clip@{'a' * 40}:text"),
        ("vit-b16-in21k:mean", "vit-b16-in21k"),
    ],
)
def test_messages_name_a_hub_model_as_it_can_be_typed_anywhere(name, typed):
    """A teacher's name may be one that clipkd made, or that is of one config."""
    spec = teachers.get(name)
    assert spec.typed == typed
    assert teachers.get(spec.typed).identity() == spec.identity()
