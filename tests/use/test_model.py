"""A student in use: `clipkd.load` gives back what was trained, prepared as its test images were."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import clipkd
from clipkd.core.artifacts import read_manifest, write_manifest
from clipkd.core.errors import DataError, InputError
from clipkd.data.preprocessing import Preprocessing
from tests.use.conftest import CELL


def test_importing_clipkd_imports_no_torch() -> None:
    code = "import clipkd, sys; assert 'torch' not in sys.modules; clipkd.load; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with pytest.raises(AttributeError, match="no attribute 'lood'"):
        clipkd.lood  # noqa: B018


def test_the_accuracy_is_the_run_s(run_folder, digits) -> None:
    model = clipkd.load(run_folder)
    images = [np.asarray(digits.image("test", row)) for row in range(len(digits.test_labels))]
    first = [row[0].label for row in model.predict(images)]
    right = sum(label == digits.classes[number] for label, number in zip(first, digits.test_labels, strict=True))
    metrics = json.loads((run_folder / "metrics.json").read_text())
    assert right / len(images) == pytest.approx(metrics["selected"]["test"]["top1"], abs=1e-9)
    assert right / len(images) > 0.5  # far from chance: the classes are in the right order


def test_probabilities_are_the_network_s(run_folder, digits) -> None:
    """Computed from the weights: normalisation by CLIP's constants, the network, softmax."""
    from clipkd.plugins.students._vit import Student

    student = Student(CELL.student_spec, 10).eval()
    student.load_state_dict(load_file(run_folder / "student.safetensors"))
    pixels = np.stack([np.asarray(digits.image("test", row)) for row in range(5)]).astype(np.float64) / 255
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    inputs = torch.tensor(((pixels - mean) / std).transpose(0, 3, 1, 2), dtype=torch.float32)
    with torch.inference_mode():
        outputs = student(inputs)
    scores = outputs.logits.double().numpy()
    wanted = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    model, images = clipkd.load(run_folder), [np.asarray(digits.image("test", row)) for row in range(5)]
    np.testing.assert_allclose(model.probabilities(images), wanted, atol=1e-5)
    np.testing.assert_allclose(model.embed(images), outputs.embedding.numpy(), atol=1e-5)
    ranked = model.predict(images[0], top=3)[0]
    order = np.argsort(-wanted[0])[:3]
    assert [label for label, _ in ranked] == [str(number) for number in order]
    assert [probability for _, probability in ranked] == pytest.approx(wanted[0][order], abs=1e-5)


def test_an_image_may_be_a_file_or_pixels_and_batches_do_not_matter(run_folder, scans) -> None:
    model = clipkd.load(run_folder)
    wanted = model.probabilities(scans, batch_size=20)
    assert wanted.shape == (20, 10)
    np.testing.assert_allclose(wanted.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(
        model.probabilities([Image.open(path) for path in scans], batch_size=3), wanted, atol=1e-5
    )
    pixels = [np.asarray(Image.open(path)) for path in scans]
    np.testing.assert_allclose(model.probabilities(pixels, batch_size=1), wanted, atol=1e-5)
    np.testing.assert_allclose(model.probabilities(str(scans[0])), wanted[:1], atol=1e-5)


def test_other_sizes_are_brought_to_the_dataset_s_size_first() -> None:
    """A student of 8 pixels that was trained on images of 2 never saw finer detail than 2 pixels hold."""
    steps = Preprocessing(pack_size=None, dataset_size=2, size=8, mean=(0, 0, 0), std=(1, 1, 1))
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)
    large = np.kron(small, np.ones((50, 50, 1), dtype=np.uint8))
    bilinear = Image.Resampling.BILINEAR
    np.testing.assert_array_equal(steps.read(small), np.asarray(Image.fromarray(small).resize((8, 8), bilinear)))
    coarse = Image.fromarray(large).resize((2, 2), bilinear)
    np.testing.assert_array_equal(steps.read(large), np.asarray(coarse.resize((8, 8), bilinear)))
    assert (steps.read(large) != np.asarray(Image.fromarray(large).resize((8, 8), bilinear))).any()
    packed = Preprocessing(pack_size=4, dataset_size=None, size=4, mean=(0, 0, 0), std=(1, 1, 1))
    bicubic = Image.fromarray(large).resize((4, 4), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(packed.read(large), np.asarray(bicubic))


def test_what_is_refused(run_folder, tmp_path, digits_folder) -> None:
    with pytest.raises(InputError, match=r"neither a run folder nor an export"):
        clipkd.load(tmp_path)
    with pytest.raises(InputError, match=rf"; it holds {run_folder.name}: name one, as {run_folder}$"):
        clipkd.load(run_folder.parent)
    (tmp_path / "begun/.resume").mkdir(parents=True)
    with pytest.raises(InputError, match=r"unfinished run: repeat the command that trains it$"):
        clipkd.load(tmp_path / "begun")
    begun = tmp_path / "results/runs/corrected/digits/tiny-32/none/supervised/seed0"
    (begun / ".resume").mkdir(parents=True)
    with pytest.raises(InputError, match=r"trains it \(`clipkd resume`, where the workflow does\)$"):
        clipkd.load(begun)
    with pytest.raises(InputError, match="holds dataset, not a trained student"):
        clipkd.load(digits_folder / "datasets/digits")
    with pytest.raises(InputError, match="unknown device 'gpu'"):
        clipkd.load(run_folder, device="gpu")
    model = clipkd.load(run_folder)
    for images, kind, message in (
        ([np.zeros((4, 4, 3))], InputError, r"float64 \(4, 4, 3\), not uint8"),
        ([], InputError, "no images given"),
        (["absent.png"], DataError, r"absent\.png"),
    ):
        with pytest.raises(kind, match=message):
            model.predict(images)
    copy = shutil.copytree(run_folder, tmp_path / "copy")
    content = bytearray((copy / "student.safetensors").read_bytes())
    content[-5] ^= 1
    (copy / "student.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=r"student.safetensors is damaged"):
        clipkd.load(copy)


def test_a_run_of_an_older_version_says_what_to_do(run_folder, tmp_path) -> None:
    copy = Path(shutil.copytree(run_folder, tmp_path / "copy"))
    manifest = read_manifest(copy)
    write_manifest(copy, manifest["kind"], manifest["identity"], {}, manifest["files"])
    with pytest.raises(DataError, match="before runs kept their class names"):
        clipkd.load(copy)
