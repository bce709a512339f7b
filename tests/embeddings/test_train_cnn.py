"""Models of timm that the workflow trains as teachers."""

from __future__ import annotations

import argparse
import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from clipkd.cli import main
from clipkd.cli.options import teacher_of
from clipkd.core.artifacts import open_artifact, read_manifest, write_manifest
from clipkd.core.errors import DataError, InputError
from clipkd.core.fingerprint import fingerprint
from clipkd.data.dataset import Dataset, Ragged, open_dataset
from clipkd.data.pixels import enlarged, normalised, planes, unit
from clipkd.data.source_files import trained_on
from clipkd.embeddings import prepare, train_cnn
from clipkd.embeddings.own_head import own_head_of
from clipkd.embeddings.teacher import load
from clipkd.plugins import datasets, teachers
from clipkd.plugins.teachers import TrainedCNN
from clipkd.spec.grid import expand
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Config

CPU = torch.device("cpu")


@pytest.fixture
def digits(digits_folder: Path) -> Dataset:
    """The digits, of which 120 are trained on."""
    dataset = open_dataset(datasets.get("digits"), Layout(digits_folder).dataset(datasets.get("digits")))
    dataset.__dict__["training"] = dataset.training[:120]
    return dataset


def spec_of(**changes: object) -> TrainedCNN:
    spec = teachers.get("trained:test_resnet@32?on=digits&epochs=3")
    assert isinstance(spec, TrainedCNN)
    return replace(spec, batch_size=40, **changes)  # type: ignore[arg-type]


def test_a_trained_model_is_a_timm_teacher_with_a_classifier_of_the_classes(digits: Dataset, tmp_path: Path) -> None:
    spec = spec_of(epochs=12)
    train_cnn.train_cnn(spec, digits, tmp_path / "teacher", CPU)
    teacher = load(spec, tmp_path / "teacher", CPU)
    facts = open_artifact(tmp_path / "teacher", "teacher", spec.identity()).facts
    pixels = unit(planes(np.stack([np.asarray(digits.image("test", row)) for row in range(len(digits.test_labels))])))
    inputs = teacher.present(pixels, None, None)
    plain = enlarged(normalised(pixels, digits.spec.mean, digits.spec.std), 32)
    torch.testing.assert_close(inputs, plain, atol=1e-5, rtol=0)
    assert teacher.head is not None
    right = (teacher.head(teacher.embed(inputs)).argmax(dim=1).numpy() == digits.test_labels).mean()
    assert right == pytest.approx(facts["accuracy"]["test"], abs=0.01)
    assert right > 0.2, "a tenth is chance"
    head = own_head_of(tmp_path / "teacher", spec)
    assert head is not None
    assert (list(head.names or ()), head.is_linear, spec.brings_head("digits")) == (digits.classes, True, True)
    assert not list(tmp_path.glob(".*.pt"))


def test_a_training_that_is_cut_off_goes_on_to_the_same_weights(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_cnn, "SECONDS_BETWEEN_SAVES", 0.0)
    spec, epochs = spec_of(), []
    save = train_cnn.Loop.save

    def cut(loop: train_cnn.Loop, epoch: int) -> None:
        save(loop, epoch)
        epochs.append(epoch)
        if epochs == [1, 2]:
            raise KeyboardInterrupt

    train_cnn.train_cnn(spec, digits, tmp_path / "whole", CPU)
    monkeypatch.setattr(train_cnn.Loop, "save", cut)
    with pytest.raises(KeyboardInterrupt):
        train_cnn.train_cnn(spec, digits, tmp_path / "cut", CPU)
    saved = (tmp_path / ".cut.training.pt").read_bytes()
    train_cnn.train_cnn(spec, digits, tmp_path / "cut", CPU)
    assert epochs == [1, 2, 3]
    whole, resumed = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert whole == resumed
    # The state of another training is not gone on from, nor a damaged one.
    for content in (saved, b"PK"):
        epochs.clear()
        (tmp_path / ".other.training.pt").write_bytes(content)
        train_cnn.train_cnn(spec_of(seed=1, epochs=1), digits, tmp_path / "other", CPU)
        assert epochs == [1]
    # Nor that of a training on other images.
    epochs.clear()
    (tmp_path / ".new.training.pt").write_bytes(saved)
    monkeypatch.setattr(Dataset, "content", property(lambda dataset: "other"))
    monkeypatch.setattr(train_cnn.Loop, "save", lambda loop, epoch: epochs.append(epoch))
    train_cnn.train_cnn(spec, digits, tmp_path / "new", CPU)
    assert epochs == [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("trained:", "write trained:MODEL@PIXELS"),
        ("trained:resnet18@", "write trained:MODEL@PIXELS"),
        ("trained:resnet18?sed=1", "unknown or invalid option 'sed=1'"),
        ("trained:resnet18?seed=x", "unknown or invalid option 'seed=x'"),
        ("trained:resnet18?seed=1&seed=2", "unknown or invalid option 'seed=2'"),
        ("trained:resnet18?on=digits&head=mine", "'mine' is not `own`"),
    ],
)
def test_a_name_that_is_wrong_is_refused(name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        teachers.get(name)


@pytest.mark.parametrize(
    ("name", "words"),
    [("resnet19@32", "no model 'resnet19'"), ("test_vit@7", "try trained:test_vit@14")],
)
def test_a_model_that_timm_can_not_make_is_refused(name: str, words: str, digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        train_cnn.train_cnn(
            teachers.get(f"trained:{name}?on=digits"),  # type: ignore[arg-type]
            digits,
            tmp_path / "teacher",
            CPU,
        )


def test_in_a_grid_it_is_trained_on_each_cells_own_images() -> None:
    """What the user says of a place of their own is a part of the identity; seeds and epochs are in the name."""
    block = {
        "name": "b",
        "datasets": ["digits", "cifar10", "flowers"],
        "teachers": ["cnn", "trained:resnet18d@64?seed=2", "cnn+digits-vit-s"],
        "students": ["tiny-32"],
        "train_types": ["embed-KD"],
        "recipes": ["corrected"],
        "seeds": [0],
    }
    source = "hub:owner/flowers@" + "0" * 40
    config = Config.model_validate(
        {"grid": [block], "teachers": {"cnn": "trained:resnet18d@64"}, "sources": {"flowers": source}}
    )
    cells = expand(config)[0]
    data = fingerprint(datasets.get("flowers", source).identity())
    assert [cell.teacher for cell in cells[::3]] == [
        "cnn=trained:resnet18d@64?on=digits",
        "cnn=trained:resnet18d@64?on=cifar10",
        f"cnn=trained:resnet18d@64?on=flowers&data={data}",
    ]
    assert [cell.folder.split("/")[3] for cell in cells[:3]] == ["cnn", "resnet18d-64-seed2", "cnn+digits-vit-s"]
    made = {Layout().teacher(spec) for cell in cells for spec in cell.teacher_spec.members}  # type: ignore[union-attr]
    assert len(made) == 3 * 2 + 1
    trained = teachers.get(cells[3].teacher).identity()
    assert trained == teachers.get("trained:resnet18d@64?on=cifar10").identity()
    assert trained["trained_on"] == {"cifar10": fingerprint(datasets.get("cifar10").identity())}


def test_on_the_command_line_the_dataset_is_that_of_the_options(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = argparse.Namespace(dataset_source="hub:owner/flowers@" + "0" * 40)
    data = fingerprint(datasets.get("flowers", options.dataset_source).identity())
    name = teacher_of(options, "cnn=trained:resnet18d@64?seed=1+digits-cnn?weights=2,1", "flowers")
    assert name == f"cnn=trained:resnet18d@64?on=flowers&data={data}&seed=1+digits-cnn?weights=2,1"
    assert teacher_of(options, "trained:resnet18d?on=digits", "flowers") == "trained:resnet18d?on=digits"
    assert main(["fetch", "trained:resnet18d", "--data", str(tmp_path)]) == 2
    assert "add on=DATASET" in capsys.readouterr().err


def test_without_a_label_nothing_is_trained(digits: Dataset, tmp_path: Path) -> None:
    digits.__dict__["training"] = digits.training[:0]
    with pytest.raises(InputError, match=r"no training image of .* has one"):
        train_cnn.train_cnn(spec_of(), digits, tmp_path / "teacher", CPU)
    assert not list(tmp_path.iterdir())


def with_facts(folder: Path, facts: dict[str, object]) -> None:
    """Write an artefact's manifest anew, with other facts, and without digests, as older versions did."""
    manifest = read_manifest(folder)
    files = {name: entry for name, entry in manifest["files"].items() if name != "seen-digests.npy"}
    write_manifest(folder, manifest["kind"], manifest["identity"], facts, files)


def test_a_teacher_that_does_not_tell_which_images_it_saw_is_refused_for_others(
    digits: Dataset, tmp_path: Path
) -> None:
    """What it was trained on may be a test image now. What newer ones tell is tested in test_earlier.py."""
    data, spec = Path(shutil.copytree(digits.artifact.path, tmp_path / "datasets/digits")), spec_of(epochs=1)
    layout = Layout(tmp_path)
    train_cnn.train_cnn(spec, digits, layout.teacher(spec), CPU)
    prepare.teacher(spec, layout, CPU)
    with_facts(data, read_manifest(data)["facts"] | {"content": "other"})
    prepare.teacher(spec, layout, CPU)
    with_facts(layout.teacher(spec), read_manifest(layout.teacher(spec))["facts"])
    with pytest.raises(DataError, match=r"digits as it was before, perhaps on what are test images now; delete .*/tea"):
        prepare.teacher(spec, layout, CPU)
    assert trained_on(data) == [layout.teacher(spec)], "it is named among what to delete"
    with_facts(layout.teacher(spec), {})
    prepare.teacher(spec, layout, CPU)  # an older teacher, which does not say


def test_only_the_dataset_that_is_meant_is_trained_on(digits: Dataset, tmp_path: Path) -> None:
    for changes in ({"dataset": "cifar10"}, {"data": "0" * 16}):
        with pytest.raises(InputError, match="from another source"):
            train_cnn.train_cnn(spec_of(**changes), digits, tmp_path / "teacher", CPU)


@pytest.mark.parametrize("is_ragged", [False, True])
def test_images_in_memory_and_images_read_for_each_batch_are_the_same(
    is_ragged: bool, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where their sizes differ; and the packed file of images of one size is read as it is."""
    rows, spec = torch.tensor([7, 0, 3, 3]), spec_of()
    expected = torch.stack([unit(planes(digits.images("train")[[row]]))[0] for row in rows.tolist()])
    assert not train_cnn.Images(spec, digits, CPU).held
    torch.testing.assert_close(train_cnn.Images(spec, digits, CPU).pixels(rows, "train"), expected, rtol=0, atol=0)
    digits = replace(digits, spec=replace(digits.spec, image_size=None))
    if is_ragged:
        for split, images in digits.opened.items():
            pixels, shapes = images.reshape(-1), np.full((len(images), 3), 32)
            shapes[:, 0] = np.arange(len(images)) * 32 * 32 * 3
            digits.opened[split] = Ragged(pixels, shapes)
    for fraction, is_held in (("1", True), ("0", False)):
        monkeypatch.setenv("CLIPKD_RESIDENT_FRACTION", fraction)
        images = train_cnn.Images(spec, digits, CPU)
        assert bool(images.held) == is_held
        torch.testing.assert_close(images.pixels(rows, "train"), expected, rtol=0, atol=0)


def test_what_can_not_be_stored_or_scored_is_refused_before_the_training(
    digits: Dataset, tmp_path, monkeypatch
) -> None:
    """A normalisation before the classifier does nothing yet in a fresh model; features may be several tensors."""
    monkeypatch.setattr(train_cnn, "fit", lambda *_: pytest.fail("it was trained"))
    for name, words in (("shvit_s1", "not a linear layer on the embedding"), ("coat_tiny", "are not one tensor")):
        spec = teachers.get(f"trained:{name}@32?on=digits&epochs=1")
        assert isinstance(spec, TrainedCNN)
        with pytest.raises(InputError, match=words):
            train_cnn.train_cnn(spec, digits, tmp_path / name, CPU)


def test_a_model_that_uses_a_weight_twice_is_saved(digits: Dataset, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(train_cnn, "fit", lambda *_: None)
    monkeypatch.setattr(train_cnn.Images, "accuracy", lambda *_: 0.5)
    spec = teachers.get("trained:coat_lite_tiny@32?on=digits&epochs=1")
    assert isinstance(spec, TrainedCNN)
    train_cnn.train_cnn(spec, digits, tmp_path / "teacher", CPU)
    assert load(spec, tmp_path / "teacher", CPU).head is not None


def test_two_commands_train_a_teacher_once(digits_folder: Path, tmp_path: Path, monkeypatch, capfd) -> None:
    """The second one waits for the first, and takes what that has made."""
    shutil.copytree(digits_folder / "datasets", tmp_path / "datasets")
    layout, spec, trained = Layout(tmp_path), spec_of(epochs=1), []
    own = train_cnn.train_cnn

    def slow(*arguments: object) -> None:
        trained.append(1)
        time.sleep(1.5)
        own(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(train_cnn, "train_cnn", slow)
    first = threading.Thread(target=prepare.teacher, args=(spec, layout, CPU))
    first.start()
    while not trained:
        time.sleep(0.01)
    child = os.fork()
    if child == 0:
        try:
            prepare.teacher(spec, layout, CPU)
        finally:
            os._exit(len(trained) - 1)
    first.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert "is being trained by another process, which is waited for" in capfd.readouterr().err
