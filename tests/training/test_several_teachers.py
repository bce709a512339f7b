"""Several teachers at once: the mean of their losses, each with a projection of its own, from stored embeddings."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch

from clipkd.core.artifacts import open_artifact
from clipkd.core.errors import InputError
from clipkd.data.batches import Batch
from clipkd.embeddings import prepare
from clipkd.embeddings.vectors import Vectors
from clipkd.plugins import recipes, teachers
from clipkd.plugins.students import StudentSpec
from clipkd.plugins.students._saved import student_from
from clipkd.plugins.students._vit import build_student
from clipkd.plugins.teachers import SeveralTeachers
from clipkd.runs.folder import RunFolder, load_student
from clipkd.runs.job import open_job, open_teacher_targets
from clipkd.runs.objective import Objective
from clipkd.runs.training import train
from clipkd.spec.cells import Cell
from clipkd.spec.grid import expand
from clipkd.spec.identities import run_identity
from clipkd.spec.layout import Layout
from clipkd.spec.refusals import checked
from clipkd.spec.settings import Config, Hyperparameters
from clipkd.spec.views import Sample
from clipkd.tables.accuracy import table as accuracy_table
from clipkd.tables.cost import table as cost_table
from clipkd.tables.results import Results
from clipkd.tables.teachers import table as teachers_table
from tests.conftest import save_vit
from tests.methods import plain
from tests.synthetic import demo, write_study

from clipkd.plugins import methods  # isort: skip

CPU = torch.device("cpu")
SPEC = StudentSpec("toy", image_size=16, patch_size=4, width=24, layers=1, heads=4)
CLASSES, BATCH, WIDTHS = 5, 6, (12, 30)
LABELS = torch.tensor([0, 1, 1, 4, 2, 0])


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def by_hand(student, train_type, recipe, images, signals, weights=(1, 1)):
    """The loss from the published formulas: CE + w * the weighted mean over teachers of each one's own term."""
    outputs = student(images)
    z, s = outputs.embedding, outputs.logits
    is_reference = recipe == "reference"
    classified = torch.softmax(s, dim=1) if is_reference else s
    terms = []
    for number, vectors in enumerate(signals):
        if train_type == "vanilla":
            soft = torch.softmax(vectors, dim=1)
            hinton = plain.kullback_leibler(s, vectors, 4.0)
            terms.append(plain.soft_cross_entropy(classified, soft) if is_reference else hinton)
            continue
        projection = student.cluster_projections[number]
        here = z if is_reference else z @ projection.weight.T + projection.bias
        there = vectors @ projection.weight.T + projection.bias if is_reference else vectors
        scale = 1.0 if is_reference else torch.exp(student.logit_scales[number])
        target = LABELS if train_type == "embed-KD" else torch.arange(BATCH)
        terms.append(plain.cross_entropy(scale * plain.cosines(here, there), target))
    return plain.cross_entropy(classified, LABELS) + 0.5 * (weights[0] * terms[0] + weights[1] * terms[1]) / sum(
        weights
    )


@pytest.mark.parametrize("recipe", ["reference", "corrected"])
@pytest.mark.parametrize("train_type", ["embed-KD", "teacher-KD", "vanilla"])
@pytest.mark.parametrize("weights", [(), (3, 0.5)])
def test_loss_and_gradients_are_those_of_the_formula(weights, train_type, recipe):
    torch.manual_seed(0)
    student = build_student(SPEC, CLASSES, WIDTHS, recipes.get(recipe)).double().eval()
    for number, scale in enumerate(student.logit_scales):
        scale.data.fill_(math.log(5.0 + number))  # the teachers' temperatures differ
    rows = {"embed-KD": CLASSES, "teacher-KD": BATCH, "vanilla": BATCH}[train_type]
    signals = tuple(drawn(rows, CLASSES if train_type == "vanilla" else width) for width in WIDTHS)
    images = drawn(BATCH, 3, 16, 16)
    method = methods.get(train_type)
    shares = SeveralTeachers("a+b", "", weights=weights).shares
    found = Objective(method, student, recipes.get(recipe), shares)(student(images), LABELS, signals)["loss"]
    expected = by_hand(student, train_type, recipe, images, signals, weights or (1, 1))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    parameters = [value for value in student.parameters() if value.requires_grad]
    pairs = [torch.autograd.grad(loss, parameters, allow_unused=True) for loss in (found, expected)]
    for mine, right in zip(*pairs, strict=True):
        assert (mine is None) == (right is None)
        if mine is not None:
            torch.testing.assert_close(mine, right, rtol=1e-8, atol=1e-10)
    # The control: equal weights, and teachers in the other order, where they could be confused, give another loss.
    if train_type == "vanilla":
        return
    if weights:
        assert abs(by_hand(student, train_type, recipe, images, signals) - expected) > 1e-6
    swapped = by_hand(student, train_type, recipe, images, (signals[0], signals[1].flip(0)), weights or (1, 1))
    assert abs(swapped - expected) > 1e-6


def test_one_teacher_keeps_the_released_codes_names():
    for recipe, more in (("reference", set()), ("corrected", {"logit_scale"})):
        names = set(build_student(SPEC, CLASSES, 12, recipes.get(recipe)).state_dict())
        heads = {name for name in names if name.startswith(("cluster", "logit"))}
        assert heads == {"cluster_projection.weight", "cluster_projection.bias"} | more


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two toy teachers of different widths, and a name for both at once."""
    root = tmp_path_factory.mktemp("teachers")
    save_vit(root / "one")
    save_vit(root / "two", hidden_size=24, num_attention_heads=3)
    return f"first={root / 'one'}+second={root / 'two'}"


@pytest.mark.parametrize("train_type", ["embed-KD", "teacher-KD", "vanilla", "embed-KD-permuted"])
def test_a_run_reads_each_teachers_store_and_can_be_read_back(train_type, pair, digits_folder, tmp_path):
    layout = Layout(digits_folder, dtype="float32")
    cell = checked(Cell("corrected", "digits", "tiny-32", pair, train_type, 0, epochs=1))
    assert cell.folder == f"corrected/digits/tiny-32/first+second/{train_type}/seed0"
    prepare.for_training(cell, layout, CPU, 256)
    job = open_job(cell, Hyperparameters(epochs=1, learning_rate=1e-3), layout, CPU)
    signal = open_teacher_targets(job)
    assert signal.width == (16, 24)
    assert set(job.identity["signal"]) == {"first", "second"}
    metrics = train(job, RunFolder(tmp_path / "run"))
    cost = json.loads((tmp_path / "run/cost.json").read_text())
    assert cost["teacher"]["forward_passes"] == 0
    has_prototypes = train_type.startswith("embed")
    assert (metrics.last.nearest_prototype is not None) == has_prototypes
    state = load_student(tmp_path / "run/student.safetensors")
    student = student_from(state, cell.student_spec, tmp_path)
    assert [one.weight.shape for one in student.cluster_projections] == [(16, 64), (24, 64)]
    assert len(student.logit_scales) == 2


def test_signals_are_those_of_each_teacher_alone(pair, digits_folder):
    layout = Layout(digits_folder, dtype="float32")
    both = Cell("corrected", "digits", "tiny-32", pair, "embed-KD", 0)
    prepare.for_training(both, layout, CPU, 256)
    together = open_teacher_targets(open_job(both, Hyperparameters(), layout, CPU))(None)
    for cell, one in zip(both.by_teacher, together, strict=True):
        alone = open_teacher_targets(open_job(cell, Hyperparameters(), layout, CPU))(None)
        torch.testing.assert_close(one, alone)


@pytest.mark.parametrize(
    ("train_type", "recipe"), [("teacher-KD", "corrected"), ("embed-KD", "reference"), ("embed-KD", "corrected")]
)
def test_standardised_targets_are_those_of_float64(train_type, recipe, pair, digits_folder):
    """Slowly: each dimension less its mean, over its deviation; prototypes are made of what that gives."""
    layout = Layout(digits_folder, dtype="float32", sample=Sample(5, 0))
    cell = checked(Cell(recipe, "digits", "tiny-32", f"{pair}?standardise=true", train_type, 0))
    prepare.for_training(cell, layout, CPU, 256)
    rows = torch.tensor([3, 700, 41])
    batch = Batch(rows, torch.zeros(3, dtype=torch.long), rows, rows)
    found = open_teacher_targets(open_job(cell, Hyperparameters(), layout, CPU))(batch)
    for one, mine in zip(cell.by_teacher, found, strict=True):
        is_sample = train_type == "embed-KD"
        store = layout.sample_embeddings(one) if is_sample else layout.full_embeddings(one)
        opened = open_artifact(store.folder, "embeddings", store.identity)
        vectors = Vectors(opened, "sample" if is_sample else "train")[:].astype(np.float64)
        flat = vectors.reshape(-1, vectors.shape[-1])
        standard = np.stack([(column - column.mean()) / column.std() for column in flat.T], axis=1)
        if is_sample:
            labels = opened.array("sample-labels")
            if recipe == "corrected":  # the form unit-mean
                standard = np.stack([vector / math.sqrt((vector**2).sum()) for vector in standard])
            standard = np.stack([standard[labels == number].mean(axis=0) for number in range(10)])
            if recipe == "corrected":
                standard = np.stack([vector / math.sqrt((vector**2).sum()) for vector in standard])
        expected = standard if is_sample else standard[rows]
        np.testing.assert_allclose(mine.numpy(), expected, atol=2e-5)
        assert abs(mine.numpy() - flat[: len(mine)]).max() > 0.1  # the control: not as they are stored


def test_weights_and_standardisation_are_a_run_of_their_own(pair, tmp_path):
    layout, numbers = Layout(tmp_path), Hyperparameters(epochs=1)
    plain, asked = (
        checked(Cell("corrected", "digits", "tiny-32", f"{pair}{options}", "embed-KD", 0))
        for options in ("", "?weights=2,0.5&standardise=true")
    )
    assert "several" not in run_identity(plain, numbers, layout, "")
    combined = run_identity(asked, numbers, layout, "")["several"]
    assert (combined["shares"], combined["standardise"]) == ([0.8, 0.2], True)
    assert asked.folder == "corrected/digits/tiny-32/first+second.weights-4-1.standardised/embed-KD/seed0"
    assert asked.by_teacher == plain.by_teacher
    assert asked.teacher_spec.title == "first + second (weights 4:1, standardised)"


@pytest.mark.parametrize(
    ("options", "usual"),
    [
        *((f"?weights={given}", "?weights=2,1") for given in ("4,2", "1,0.5", "0.2,0.1", "2.0,1")),
        ("?weights=1,1", ""),
        ("?standardise=true&weights=0.5,0.5", "?standardise=true"),
        ("?standardise=true&weights=6,4", "?weights=3,2&standardise=true"),
    ],
)
def test_equal_ratios_of_weights_are_one_run(options, usual, tmp_path):
    layout, numbers = Layout(tmp_path), Hyperparameters(epochs=1)
    block = {"name": "x", "datasets": ["digits"], "students": ["tiny-32"], "train_types": ["embed-KD"]}
    block |= {"recipes": ["corrected"], "seeds": [0]}
    both, cells = "digits-vit-s+digits-vit-xs", []
    for given in (options, usual, "?weights=5,1"):
        grid = [block | {"teachers": [f"{both}{given}"]}]
        cells += expand(Config.model_validate({"grid": grid, "training": {"epochs": 1}, "sources": {}}))[0]
    same, plain, other = ((cell.folder, run_identity(cell, numbers, layout, "")) for cell in cells)
    assert same == plain
    assert other[0] != plain[0]  # the control
    assert other[1] != plain[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("?weights=2", "weights '2' are not 2 positive numbers, as in .weights=2,1"),
        ("?weights=1,0", "are not 2 positive numbers"),
        ("?weights=1,nan", "are not 2 positive numbers"),
        ("?weight=1,2", "option 'weight' is not one of weights, standardise"),
        ("?standardise=yes", "standardise is `true` or left out, not 'yes'"),
        ("?weights=1,2&weights=1,2", "option 'weights' stands twice"),
    ],
)
def test_a_wrong_combination_is_named(options, said):
    with pytest.raises(InputError, match=said):
        teachers.get(f"digits-vit-s+digits-vit-xs{options}")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none=digits-vit-s", "'none' means that a run has no teacher"),
        ("digits-vit-s+none=digits-vit-xs", "'none' means that a run has no teacher"),
        ("=digits-vit-s", "teacher name '' in '=digits-vit-s'"),
        ("digits-vit-s+digits-vit-xs+", "a name is empty"),
        ("+digits-vit-s", "a name is empty"),
        ("", "a name is empty"),
        ("digits-vit-s+digits-vit-xs?", "there is nothing behind the '?'"),
        ("digits-vit-s?standardise=true", "standardise is for several teachers"),
    ],
)
def test_a_name_with_an_empty_or_reserved_part_is_refused(name, said):
    with pytest.raises(InputError, match=re.escape(said)):
        teachers.get(name)


def test_what_several_teachers_can_not_do_is_refused_in_words(pair, tmp_path):
    with pytest.raises(InputError, match=r"weights are for several teachers, A\+B"):
        teachers.get("digits-vit-s?weights=1")
    with pytest.raises(InputError, match="'vanilla' uses class scores, which do not depend on the scale"):
        checked(Cell("corrected", "digits", "tiny-32", f"{pair}?standardise=true", "vanilla", 0))
    with pytest.raises(InputError, match="come from stored embeddings"):
        checked(Cell("corrected", "digits", "tiny-32", pair, "teacher-KD", 0, "live"))
    with pytest.raises(InputError, match="use teacher_source 'replayed'"):
        checked(Cell("corrected", "flowers", "tiny-32", pair, "teacher-KD", 0, source=str(tmp_path)))
    with pytest.raises(InputError, match="names one teacher twice"):
        teachers.get("digits-vit-s+digits-vit-s")
    with pytest.raises(InputError, match="unknown teacher 'digits-vit-m'"):
        teachers.get("digits-vit-s+digits-vit-m")


def test_tables_show_several_teachers_as_a_row_and_each_one_s_cost(tmp_path):
    config = demo()
    config["grid"] = config["grid"][:1]
    config["grid"][0]["teachers"].append("digits-vit-s+digits-vit-xs")
    study = write_study(config, tmp_path)
    results = Results.collect(study.config, study.results / "runs", study.data)
    accuracy = accuracy_table(results, "corrected", "selected", "top1")
    assert [row[0].text for row in accuracy.rows] == ["Digits ViT-S", "Digits ViT-XS", "Digits ViT-S + Digits ViT-XS"]
    assert not any(entry.is_incomplete for row in accuracy.rows for entry in row)
    several = [record for record in cost_table(results).records if record["teacher"].count("+")]
    alone = [record for record in cost_table(results).records if record["teacher"] == "digits-vit-s"]
    key = next(name for name in several[0] if "extraction" in name and "passes" in name)
    cached = {record["train_type"]: record[key] for record in alone}
    for record in several:
        assert record[key] == 2 * cached[record["train_type"]]
    names = {record["teacher"] for record in teachers_table(results).records}
    assert names == {"digits-vit-s", "digits-vit-xs"}


def test_a_row_says_how_several_teachers_were_weighted(tmp_path):
    """Beside the row of the same two as they are, of which the runs are others."""
    config = demo()
    both = "digits-vit-s+digits-vit-xs"
    config["grid"] = config["grid"][:1]
    config["grid"][0] |= {"teachers": [both, f"{both}?weights=2,1&standardise=true"], "train_types": ["embed-KD"]}
    study = write_study(config, tmp_path)
    table = accuracy_table(
        Results.collect(study.config, study.results / "runs", study.data), "corrected", "last", "top1"
    )
    title = "Digits ViT-S + Digits ViT-XS"
    assert [row[0].text for row in table.rows] == [title, f"{title} (weights 2:1, standardised)"]


def test_a_grid_names_teachers_of_its_own(tmp_path):
    save_vit(tmp_path / "one")
    block = {
        "name": "x", "datasets": ["digits"], "teachers": ["mine", "mine+digits-vit-s"], "students": ["tiny-32"],
        "train_types": ["embed-KD"], "recipes": ["corrected"], "seeds": [0],
    }  # fmt: skip
    config = {
        "grid": [block],
        "training": {"epochs": 1},
        "sources": {},
        "teachers": {"mine": f"{tmp_path / 'one'}:mean"},
    }
    cells, _ = expand(Config.model_validate(config))
    assert [cell.folder.split("/")[3] for cell in cells] == ["mine", "mine+digits-vit-s"]
    assert cells[0].teacher_spec.output == "mean"
