"""Timm students that begin with pretrained weights: from a file that timm's own model wrote, and from a hub."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from clipkd.core.errors import DataError, InputError
from clipkd.core.vision import torchvision  # noqa: F401  (timm imports it)
from clipkd.plugins import recipes, students
from clipkd.plugins.students._vit import build_student
from clipkd.spec.config import load
from tests import warm
from tests.embeddings.hub_server import Hub, Repository

import timm  # isort: skip

ROOT = Path(__file__).parents[2]
COMMIT = "c" * 40


def saved(model: str, folder: Path, **options) -> tuple[torch.nn.Module, Path]:
    """Return a timm model with random weights and a classifier of 11 classes, and the file of its weights."""
    torch.manual_seed(5)
    whole = timm.create_model(model, num_classes=11, **options).eval()
    path = folder / f"{model}.safetensors"
    save_file(whole.state_dict(), path)
    return whole, path


def built(name: str):
    torch.manual_seed(0)
    return build_student(students.get(name), 7, 12, recipes.get("corrected")).eval()


@pytest.mark.parametrize("model", ["test_resnet", "test_vit", "test_convnext"])
def test_the_embedding_is_that_of_the_model_that_was_saved(model, tmp_path):
    is_fixed = timm.models.get_pretrained_cfg_value(model, "fixed_input_size")
    whole, path = saved(model, tmp_path, **({"img_size": 64} if is_fixed else {}))
    student, fresh = built(f"timm:{model}@64?pretrained={path}"), built(f"timm:{model}@64")
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = whole.forward_head(whole.forward_features(images), pre_logits=True)
        torch.testing.assert_close(student(images).embedding, expected)
        # The control: the same model with fresh weights says something else.
        assert (fresh(images).embedding - expected).abs().max() > 1e-3
    # Classifier and projection are those of a fresh student with this seed: nothing of the file's classifier is left.
    torch.testing.assert_close(student.classifier.weight, fresh.classifier.weight)
    assert student.classifier.out_features == 7


def test_positions_are_resized_to_the_students_input(tmp_path):
    _, path = saved("test_vit", tmp_path, img_size=64)
    student = built(f"timm:test_vit@32?pretrained={path}")
    stored = load_file(path)
    assert stored["pos_embed"].shape[1] > student.body.pos_embed.shape[1]
    torch.testing.assert_close(student.body.patch_embed.proj.weight, stored["patch_embed.proj.weight"])


def test_the_weights_are_in_the_identity_and_where_they_lie_is_not(tmp_path):
    _, path = saved("test_resnet", tmp_path)
    spec, plain = students.get(f"timm:test_resnet@32?pretrained={path}"), students.get("timm:test_resnet@32")
    # Students with fresh weights stay what they were.
    assert plain.identity() == {"name": "timm-test-resnet-32", "image_size": 32, "model": "test_resnet"}
    moved = path.rename(tmp_path / "moved.safetensors")
    other = students.get(f"timm:test_resnet@32?pretrained={moved}")
    assert other.identity() == spec.identity()
    assert spec.identity()["pretrained"].startswith("sha256:")
    assert students.rebuilt(spec.identity()).identity() == spec.identity()
    weights = load_file(moved)
    weights["conv1.0.weight" if "conv1.0.weight" in weights else "conv1.weight"] += 1
    save_file(weights, moved)
    changed = students.get(f"timm:test_resnet@32?pretrained={moved}")
    assert changed.identity() != spec.identity()
    assert changed.name != spec.name
    with pytest.raises(DataError, match="has changed: expected sha256:"):
        build_student(other, 7, None, recipes.get("corrected"))


def test_a_missing_weight_is_never_made_up(tmp_path):
    _, path = saved("test_resnet", tmp_path)
    weights = load_file(path)
    name = next(name for name in weights if name.startswith("layer4") and name.endswith("conv1.weight"))
    save_file({key: value for key, value in weights.items() if key != name} | {"extra.weight": torch.ones(1)}, path)
    with pytest.raises(DataError, match=rf"2 differ:\n  missing: {name}\n  unknown: extra\.weight"):
        built(f"timm:test_resnet@32?pretrained={path}")
    weights[name] = torch.full_like(weights[name], torch.nan)
    save_file(weights, path)
    with pytest.raises(DataError, match="holds a NaN or an infinity"):
        built(f"timm:test_resnet@32?pretrained={path}")
    path.write_bytes(b"no weights")
    with pytest.raises(DataError, match="damaged, or no safetensors file"):
        built(f"timm:test_resnet@32?pretrained={path}")


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("weights.pth", "pickled weights"),
        ("nowhere.safetensors", "nowhere.safetensors: No such file"),
        ("timm/resnet18.a1_in1k", "40 hex digits of a commit"),
        ("timm/resnet18.a1_in1k@main", "40 hex digits of a commit"),
    ],
)
def test_what_is_no_pinned_weights_is_refused_in_the_config(where, words, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "grid:\n  - name: one\n    datasets: [digits]\n    teachers: [digits-vit-s]\n"
        f"    students: ['timm:test_resnet@32?pretrained={where}']\n"
        "    train_types: [supervised]\n    recipes: [corrected]\n    seeds: [0]\n"
    )
    with pytest.raises(InputError) as caught:
        load([ROOT / "config/config.yaml", tmp_path / "mine.yaml"])
    assert "mine.yaml:5: grid[0].students[0]" in str(caught.value)
    assert words in str(caught.value)


def clipkd(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1"} | more
    command = [str(warm.command()), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=folder)


@pytest.mark.slow
def test_weights_of_the_hub_are_fetched_once_and_needed_offline(tmp_path, digits_folder):
    torch.manual_seed(5)
    content = save(timm.create_model("test_resnet", num_classes=11).state_dict())
    name = f"timm:test_resnet@32?pretrained=timm/test@{COMMIT}"
    train = ("train", "--dataset-name", "digits", "--student", name, "--train-type", "supervised", "--epochs", "1",
             "--data", str(digits_folder), "--log-folder", "run", "--threads", "1", "--device", "cpu")  # fmt: skip
    done = clipkd(tmp_path, *train, HF_HUB_OFFLINE="1")
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr
    assert f"HF_HUB_OFFLINE is set. Where there is internet, run: clipkd fetch '{name}'" in done.stderr
    hub = Hub()
    try:
        hub.repositories["timm/test"] = Repository(COMMIT, {"model.safetensors": content})
        done = clipkd(tmp_path, "fetch", name, HF_ENDPOINT=hub.url)
        assert done.returncode == 0, done.stderr
    finally:
        hub.close()
    done = clipkd(tmp_path, *train, HF_HUB_OFFLINE="1", HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "run/metrics.json").read_text())["identity"]["student"]
    assert made["pretrained"] == f"timm/test@{COMMIT}"
    # The trained student is whole: using it needs neither the hub nor the file.
    (tmp_path / "hf").rename(tmp_path / "gone")
    done = clipkd(tmp_path, "evaluate", "run", "--data", str(digits_folder), HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
