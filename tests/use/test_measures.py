"""`clipkd evaluate --measures`: each number against numpy, scikit-learn or a slow clear computation."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, confusion_matrix
from sklearn.neighbors import KNeighborsClassifier

import clipkd as package
from clipkd.core.artifacts import building, read_manifest
from clipkd.core.errors import InputError
from clipkd.core.files import json_text
from clipkd.core.typed_json import read_model
from clipkd.data import corruptions
from clipkd.data.dataset import Dataset, open_dataset
from clipkd.embeddings import prepare
from clipkd.export import demo, measures
from clipkd.export.evaluation import default_file, evaluate
from clipkd.export.measures import calibration, speed
from clipkd.export.measures.agreement import of_scores
from clipkd.export.measures.calibration import reliability
from clipkd.export.measures.knn import votes
from clipkd.export.subject import Subject
from clipkd.export.teacher_store import NoStore, find_store
from clipkd.plugins import students
from clipkd.report.figures import reliability as diagram
from clipkd.runs.measured import Evaluation
from clipkd.runs.record import Score
from clipkd.spec.config import load
from clipkd.spec.layout import Layout
from clipkd.spec.views import OF_TEXT
from tests.photos import save_photos
from tests.use.conftest import CELL, trained
from tests.use.test_students_as_teachers import store_of


@pytest.fixture(scope="module")
def subject(run_folder: Path, digits: Dataset, digits_folder: Path) -> Subject:
    return Subject(package.load(run_folder, "cpu"), digits, digits_folder)


@pytest.fixture(scope="module")
def probabilities(subject: Subject) -> np.ndarray:
    return subject.model.probabilities(list(subject.dataset.images("test")))


def test_calibration_by_hand() -> None:
    """Two bins of four images: |1/2 - 0.65| and |1 - 0.95|; a confidence on an edge belongs to the bin below."""
    sure, right = np.array([0.62, 0.68 - 1e-3, 0.95, 0.951, 10 / 15]), np.array([True, False, True, True, False])
    bins = reliability(sure, right)
    assert [(one["images"], round(one["up_to"] * 15)) for one in bins] == [(2, 10), (1, 11), (2, 15)]
    assert bins[0]["accuracy"] == 0.5
    assert bins[0]["confidence"] == pytest.approx((0.62 + 10 / 15) / 2)


def test_calibration_and_classes_are_those_of_the_probabilities(subject, probabilities) -> None:
    labels, found, sure = subject.dataset.test_labels, probabilities.argmax(axis=1), probabilities.max(axis=1)
    error = 0.0
    for number in range(15):
        inside = (sure > number / 15) & (sure <= (number + 1) / 15)
        if inside.any():
            error += inside.mean() * abs((found == labels)[inside].mean() - sure[inside].mean())
    assert measures.get("calibration").measure(subject).numbers["ece"] == pytest.approx(error, abs=1e-6)
    classes = measures.get("classes").measure(subject)
    names = subject.model.classes
    matrix = [[classes.details["confusion"][row].get(column, 0) for column in names] for row in names]
    assert np.array_equal(matrix, confusion_matrix(labels, found))
    assert classes.numbers["mean_class_accuracy"] == pytest.approx(balanced_accuracy_score(labels, found))
    assert classes.numbers["worst_class_accuracy"] == min(classes.details["accuracy"].values())


def test_neighbours_vote_as_in_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    train, test, labels = draw.normal(size=(300, 8)), draw.normal(size=(90, 8)), draw.integers(0, 5, 300)
    near = KNeighborsClassifier(20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    expected = near.fit(train, labels).predict_proba(test)
    found = votes(torch.tensor(train), torch.tensor(labels), torch.tensor(test), 5).numpy()
    np.testing.assert_allclose(found / found.sum(axis=1, keepdims=True), expected, atol=1e-5)


def test_labelled_images_are_those_of_the_run(subject) -> None:
    """The embeddings of the rows that the run was trained on, and of no held-out one; of few labels, those."""
    rows = subject.dataset.training
    assert np.array_equal(subject.training.labels, subject.dataset.train_labels[rows])
    shown = subject.model.embed([subject.dataset.image("train", int(row)) for row in rows[:7]])
    np.testing.assert_allclose(subject.training.embeddings[:7], shown, atol=1e-5)
    identity = {**subject.run, "few_labels": {"labels": 100, "seed": 3}}
    few = Subject(
        replace(subject.model, manifest={**subject.model.manifest, "identity": identity}), subject.dataset, Path()
    )
    assert (len(few.labelled.training), len(few.labelled.validation)) == (80, 20)


def test_agreement_of_scores_is_that_of_torch() -> None:
    student, teacher = torch.randn(50, 6, dtype=torch.float64), torch.randn(50, 6, dtype=torch.float64)
    found = of_scores(student.numpy(), teacher.numpy())
    expected = torch.nn.functional.kl_div(
        student.log_softmax(1), teacher.log_softmax(1), log_target=True, reduction="batchmean"
    )
    assert found["kl"] == pytest.approx(expected.item())
    assert found["top1_agreement"] == (student.argmax(1) == teacher.argmax(1)).double().mean()
    assert of_scores(student.numpy(), student.numpy() + 3) == {"top1_agreement": 1.0, "kl": pytest.approx(0)}


def test_agreement_is_with_the_runs_own_teacher(run_folder, digits, digits_folder, tmp_path) -> None:
    layout = Layout(digits_folder, dtype="float32")
    store_of(layout, str(run_folder))
    cell = replace(CELL, teacher=str(run_folder), train_type="teacher-KD", epochs=1)
    model = package.load(trained(cell, digits_folder, tmp_path / "taught", dtype="float32"), "cpu")
    found = measures.get("agreement").measure(Subject(model, digits, digits_folder)).numbers
    images, teacher = list(digits.images("test")), package.load(run_folder, "cpu")
    expected = of_scores(np.log(model.probabilities(images)), np.log(teacher.probabilities(images)))
    assert found["kl"] == pytest.approx(expected["kl"], abs=1e-4)
    assert found["top1_agreement"] == pytest.approx(expected["top1_agreement"], abs=0.003)
    layer = model.student.cluster_projection
    mapped = model.embed(images) @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    vectors = teacher.embed(images)
    lengths = np.linalg.norm(mapped, axis=1) * np.linalg.norm(vectors, axis=1)
    assert found["cosine"] == pytest.approx(((mapped * vectors).sum(axis=1) / lengths).mean(), abs=1e-4)
    for name in ("RKD", "embed-KD-onehot"):  # no projection of theirs leads among the teacher's vectors
        other = replace(model, trained=model.trained | {"train_type": name})
        measured = measures.get("agreement").measure(Subject(other, digits, digits_folder))
        assert measured.numbers.keys() == {"top1_agreement", "kl"}
        assert "into no space of the teacher's vectors" in measured.details["not_measured"]["cosine"]


def test_agreement_is_with_the_output_that_taught(run_folder, digits, digits_folder, tmp_path) -> None:
    """Of a run whose own store is of other images: prototypes are made of a sample's."""
    store = store_of(Layout(digits_folder, dtype="float32"), str(run_folder))
    views = store.identity["views"]
    sampled = store.identity | {"views": views | {"sample": {"per_class": 5, "seed": 0}}}
    model = package.load(run_folder, "cpu")
    identity = model.manifest["identity"] | {"signal": {"prototypes": {"embeddings": sampled}}}
    subject = Subject(replace(model, manifest=model.manifest | {"identity": identity}), digits, tmp_path / "data")
    folders = {}
    for pooling in ("mean of the last layer's patch tokens", views["pooling"]):
        folders[pooling] = tmp_path / f"data/embeddings/digits/teacher/{len(folders)}"
        identity = store.identity | {"views": views | {"pooling": pooling}}
        with building(folders[pooling], "embeddings", identity) as draft:
            draft.facts |= read_manifest(store.folder)["facts"]
            np.save(draft.path / "test.npy", np.load(store.folder / "test.npy"))
    assert find_store(subject).embeddings.path == folders[views["pooling"]]
    shutil.rmtree(folders[views["pooling"]])
    with pytest.raises(NoStore, match="no embeddings of the test split"):
        find_store(subject)
    sampled["views"]["pooling"] = OF_TEXT
    with pytest.raises(NoStore, match="a text tower taught it"):
        find_store(subject)


def test_of_several_stores_of_a_teacher_agreement_is_with_the_one_that_taught(
    run_folder, digits, digits_folder, tmp_path
) -> None:
    """As where one file of vectors was imported under two names, or a teacher was trained again."""
    store = store_of(Layout(digits_folder, dtype="float32"), str(run_folder))
    cell = replace(CELL, teacher=str(run_folder), train_type="teacher-KD", epochs=1)
    model = package.load(trained(cell, digits_folder, tmp_path / "taught", dtype="float32"), "cpu")
    first, second = (tmp_path / "data/embeddings/digits" / name / store.folder.name for name in ("first", "second"))
    other = np.load(store.folder / "test.npy") + 1
    with building(first, "embeddings", store.identity) as draft:
        draft.facts |= read_manifest(store.folder)["facts"]
        for path in store.folder.glob("*.npy"):
            shutil.copy(path, draft.path)
        np.save(draft.path / "test.npy", other)
    shutil.copytree(store.folder, second)
    assert find_store(Subject(model, digits, tmp_path / "data")).embeddings.path == second
    unsaid = replace(model, manifest=model.manifest | {"facts": {}})
    with pytest.raises(NoStore, match="keep the one to compare with"):
        find_store(Subject(unsaid, digits, tmp_path / "data"))
    shutil.rmtree(first)
    shutil.copytree(second, first)
    assert find_store(Subject(unsaid, digits, tmp_path / "data")).embeddings.path == first


def test_corrupted_images_are_counted_by_kind_and_severity(subject, monkeypatch) -> None:
    some = {kind: corruptions.KINDS[kind] for kind in ("contrast", "impulse_noise")}
    monkeypatch.setattr(corruptions, "KINDS", some)
    found = measures.get("corruptions").measure(subject)
    size, labels = subject.model.preprocessing.size, subject.dataset.test_labels
    images = torch.from_numpy(subject.images("test", np.arange(len(labels)))).permute(0, 3, 1, 2)
    assert images.shape[1:] == (3, size, size)
    for kind in some:
        for severity in (1, 5):
            shown = corruptions.corrupted(images, kind, severity, torch.arange(len(labels)))
            guessed = subject.model.probabilities(list(shown.permute(0, 2, 3, 1).numpy())).argmax(axis=1)
            assert found.details["accuracy"][kind][severity - 1] == pytest.approx((guessed == labels).mean(), abs=0.003)
    assert found.numbers["error"] == pytest.approx(1 - np.mean(list(found.details["accuracy"].values())))
    assert found.details["left_out"] == ["frost"]


def test_multiplications_are_those_of_the_layers(subject) -> None:
    """Patches of 8 x 8, 17 tokens of width 64; in the second and last layer only the class token asks and answers."""
    patches, tokens, width = 16, 17, 64
    first = tokens * 3 * width**2 + 2 * tokens**2 * width + tokens * width**2 + tokens * 8 * width**2
    last = tokens * 3 * width**2 + 2 * tokens * width + width**2 + 8 * width**2
    expected = patches * 8 * 8 * 3 * width + first + last + width * 10
    assert speed.multiplications(subject.model.student, 32) == expected


def test_multiplications_of_a_timm_student_are_those_of_timm(subject) -> None:
    """Counted of timm's own model, whose layers are torch's own."""
    from torch.utils.flop_counter import FlopCounterMode

    from clipkd.core.vision import torchvision  # noqa: F401  (timm imports it: it must work first)

    import timm  # isort: skip

    student = students.get("timm:test_resnet@32").network(10, None, "teacher", learnable_scale=False).eval()
    theirs = timm.create_model("test_resnet", num_classes=10).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        theirs(torch.zeros(1, 3, 32, 32))
    assert speed.multiplications(student, 32) == counter.get_total_flops() // 2


def test_times_are_of_each_call(monkeypatch) -> None:
    """100 calls of 1 to 100 ms, after three that do not count."""
    clock = iter(np.cumsum([0.0, *(one for call in range(1, 101) for one in (call / 1000, 5.0))]))
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(speed, "SECONDS", 1e9)
    made: list[None] = []
    found = speed.times(lambda: made.append(None), 64)
    assert len(made) == 103
    assert found == pytest.approx(
        {"ms": 50.5, "ms_p95": 95.05, "images_per_second": 64 / 0.0505, "calls": 100}, rel=1e-9
    )


@pytest.mark.long
def test_speed_is_measured_in_both_runtimes_or_says_why(subject, monkeypatch) -> None:
    monkeypatch.setattr(speed, "SECONDS", 0.0)
    found = measures.get("speed").measure(subject).numbers
    student = subject.model.student
    assert found["parameters"] == sum(one.numel() for one in student.parameters())  # supervised: it has no projection
    assert found["int8_megabytes"] < 0.5 * found["onnx_megabytes"]
    for runtime in ("torch", "onnx", "int8"):
        for size in (1, 64):
            assert found[f"{runtime}_images_per_second_{size}"] == pytest.approx(
                1e3 * size / found[f"{runtime}_ms_{size}"]
            )
    monkeypatch.setattr("clipkd.export.formats.onnx.find_spec", lambda name: None)
    without = measures.get("speed").measure(subject)
    assert without.numbers.keys() == {name for name in found if not name.startswith(("onnx", "int8"))}
    for runtime in ("onnx", "int8"):
        assert "pip install 'clipkd[onnx]'" in without.details["not_measured"][runtime]


@pytest.mark.long
def test_the_benchmark_prints_what_speed_measures(here, run_folder, subject, monkeypatch) -> None:
    monkeypatch.setattr(speed, "SECONDS", 0.0)
    monkeypatch.setattr(speed, "times", lambda call, size: {"ms": 2.0, "ms_p95": 3.5, "images_per_second": 500 * size})
    answer = here("benchmark", run_folder)
    assert answer.returncode == 0, answer.stderr
    lines = answer.stdout.splitlines()
    assert lines[0].split() == ["parameters", f"{sum(one.numel() for one in subject.model.student.parameters()):,}"]
    assert lines[1].split()[:2] == ["MACs", f"{speed.multiplications(subject.model.student, 32):,}"]
    assert lines[2].startswith("processor")
    assert f"{torch.get_num_threads()} thread" in lines[2]
    rows = lines[5:]
    assert [row[:20].strip() for row in rows] == ["torch", "", "ONNX Runtime", "", "ONNX Runtime, int8", ""]
    assert [row.split()[-4:] for row in rows] == 3 * [["1", "2.00", "3.50", "500"], ["64", "2.00", "3.50", "32,000"]]


def test_the_command_prints_and_writes_what_it_measures(here, subject, run_folder, digits_folder, tmp_path) -> None:
    def measured(names: str) -> str:
        answer = here("evaluate", run_folder, "--data", digits_folder, "--measures", names, "--output", "e.json")
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    lines = measured("knn,Agreement,probe").splitlines()
    assert [line.partition(":")[0] for line in lines[1:]] == ["agreement", "knn", "probe"]
    assert lines[1] == "agreement: not measured: the run has no teacher"
    first = read_model(tmp_path / "e.json", Evaluation)
    images = len(subject.training.labels)  # without those for validation
    assert lines[2:] == [
        f"{name}: top1 {first.measures[name].numbers['top1']:.4f}  (fitted to {images:,} labelled images)"
        for name in ("knn", "probe")
    ]
    assert 0.5 < first.measures["probe"].numbers["top1"] <= 1
    assert first.score.top1 == pytest.approx(
        json.loads((run_folder / "metrics.json").read_text())["last"]["test"]["top1"], abs=0.1
    )
    measured("calibration")  # what was measured before stays
    second = read_model(tmp_path / "e.json", Evaluation)
    assert second.measures.keys() == {"calibration", "knn", "probe"}
    assert (second.measures["knn"], second.not_measured) == (first.measures["knn"], first.not_measured)
    # Without dropout, although the accuracy was measured before on the same network.
    for name in ("knn", "calibration"):
        assert second.measures[name].numbers == pytest.approx(measures.get(name).measure(subject).numbers, abs=1e-6)


def test_a_workflow_measures_what_its_file_does_not_hold_of_this_student(
    here, run_folder, digits_folder, tmp_path, monkeypatch
) -> None:
    """A longer list measures what is new; by hand, without --stamp, everything is measured again."""
    given = ("evaluate", run_folder, "--data", digits_folder, "--output", "e.json", "--measures")
    assert here(*given, "knn").returncode == 0
    before = read_model(tmp_path / "e.json", Evaluation)
    measured = []
    for one in (measures.get("knn"), measures.get("classes")):
        own = type(one).measure
        monkeypatch.setattr(type(one), "measure", lambda self, of, own=own: measured.append(self.name) or own(self, of))
    assert here(*given, "classes,knn", "--stamp", "stamp").returncode == 0
    assert measured == ["classes"]
    assert (tmp_path / "stamp").exists()
    after = read_model(tmp_path / "e.json", Evaluation)
    assert after.measures.keys() == {"knn", "classes"}
    assert after.measures["knn"] == before.measures["knn"]
    assert here(*given, "knn").returncode == 0
    assert measured == ["classes", "knn"]
    # Of another protocol, or of another student, it is none of these.
    older = {name: one.model_copy(update={"protocol": one.protocol + 1}) for name, one in after.measures.items()}
    (tmp_path / "e.json").write_text(json_text(after.model_copy(update={"measures": older}).model_dump()))
    assert here(*given, "knn", "--stamp", "stamp").returncode == 0
    (tmp_path / "e.json").write_text(json_text(after.model_copy(update={"student": "another"}).model_dump()))
    assert here(*given, "knn", "--stamp", "stamp").returncode == 0
    assert measured == ["classes", "knn", "knn", "knn"]


def test_the_diagram_shows_each_bin(subject) -> None:
    found = evaluate(subject, Score(top1=0.5, top5=0.9, loss=1.0), [measures.get("calibration")])
    upper, lower = diagram.draw(found).axes
    bins = found.measures["calibration"].details["bins"]
    assert [bar.get_height() for bar in upper.patches] == pytest.approx([100 * one["accuracy"] for one in bins])
    assert [bar.get_height() for bar in lower.patches] == [one["images"] for one in bins]
    assert sum(bar.get_height() for bar in lower.patches) == len(subject.dataset.test_labels)


def test_what_the_command_refuses(here, run_folder, digits_folder, tmp_path) -> None:
    (tmp_path / "mine.json").write_text("{}")
    data = ("--data", digits_folder)
    for arguments, code, message in (
        ((run_folder, "--measures", "kn"), 2, "unknown measure 'kn'; did you mean 'knn'?"),
        ((run_folder, "--output", "e.json"), 2, "--output is the file of --measures"),
        ((run_folder / "student.safetensors", "--measures", "all"), 2, "--measures needs a run folder or an export"),
        ((run_folder, "--measures", "all", "--output", "."), 2, "this is a folder"),
        (
            (run_folder, "--measures", "classes", "--output", "mine.json", *data),
            2,
            "it is no evaluation: delete it, or name",
        ),
        (
            (run_folder, "--measures", "knn", "--output", run_folder / "e.json", *data),
            2,
            "of its manifest: name another",
        ),
    ):
        answer = here("evaluate", *arguments)
        assert (answer.returncode, message in answer.stderr) == (code, True), answer.stderr
    assert (tmp_path / "mine.json").read_text() == "{}"


def test_an_evaluation_that_cannot_be_read_is_found_before_anything_is_measured(
    here, run_folder, digits_folder, tmp_path, monkeypatch
) -> None:
    run = tmp_path / "results/runs/seed0"
    shutil.copytree(run_folder, run)
    written = default_file(run, "digits", "digits")
    written.parent.mkdir()
    written.write_text("<<<<<<< HEAD")
    monkeypatch.setattr(calibration.Calibration, "measure", lambda self, subject: pytest.fail("it was measured"))
    answer = here("evaluate", run, "--measures", "calibration", "--data", digits_folder)
    assert "seed0.json is damaged" in answer.stderr
    assert "delete it, or name another --output" in answer.stderr
    assert answer.returncode == 2
    assert written.read_text() == "<<<<<<< HEAD"


def test_an_evaluation_never_lies_in_the_run_folder(tmp_path) -> None:
    run = tmp_path / "results/runs/corrected/digits/seed0"
    assert default_file(run, "digits", "digits") == tmp_path / "results/evaluations/corrected/digits/seed0.json"
    assert default_file(run, "digits", "birds").name == "seed0-on-birds.json"
    assert default_file(tmp_path / "mine", "digits", "digits") == tmp_path / "mine.evaluation.json"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "project").mkdir()
    (tmp_path / "project/runs").symlink_to(tmp_path / "elsewhere")
    linked = tmp_path / "project/runs/corrected/digits/seed0"
    assert default_file(linked, "digits", "digits") == tmp_path / "project/evaluations/corrected/digits/seed0.json"


def test_a_student_without_labels_is_judged_by_its_embeddings_on_any_labelled_images(
    here, run_folder, digits_folder, vit_folder, tmp_path, monkeypatch
) -> None:
    """Embeddings of another data set's images, too, as of any student whose classes are others."""
    cell = replace(CELL, train_type="feature-KD", teacher=str(vit_folder), labels="none", epochs=1)
    prepare.for_training(cell, Layout(digits_folder), torch.device("cpu"), 256)
    run = trained(cell, digits_folder, tmp_path / "runs/seed0")
    refused = here("evaluate", run, "--data", digits_folder)
    assert (refused.returncode, "trained without classes" in refused.stderr) == (2, True), refused.stderr
    save_photos(tmp_path / "scraps")
    shutil.rmtree(tmp_path / "scraps/val")
    (tmp_path / "scraps/train").rename(tmp_path / "scraps/unlabeled")
    given = ("--dataset", "scraps", "--data", tmp_path / "data")
    packed = here("download", "scraps", "--dataset-source", tmp_path / "scraps", "--data", tmp_path / "data")
    assert packed.returncode == 0, packed.stderr
    refused = here("evaluate", run, *given, "--measures", "knn")
    assert (refused.returncode, "has no labelled test images" in refused.stderr) == (2, True), refused.stderr
    refused = here("compare", run, run_folder)
    assert (refused.returncode, "no accuracy to compare" in refused.stderr) == (2, True), refused.stderr
    refused = here("predict", run, tmp_path, stdin="")
    assert (refused.returncode, refused.stdout) == (2, ""), refused.stderr
    answer = here("evaluate", run, "--data", digits_folder, "--measures", "knn,probe,classes", "--output", "e.json")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("(fitted to 1,262 labelled images)") == 2
    found = read_model(tmp_path / "e.json", Evaluation)
    assert (found.score, found.not_measured.keys()) == (None, {"classes"})
    model = package.load(run, "cpu")
    with pytest.raises(InputError, match="no classes to predict"):
        demo.serve(model, 5, None)
    monkeypatch.setattr(speed, "times", lambda call, size: {"ms": 2.0, "ms_p95": 3.5, "images_per_second": 500})
    answer = here("benchmark", run)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("not measured: the student was trained without labels") == 2
    dataset = open_dataset(cell.dataset_spec, Layout(digits_folder).dataset(cell.dataset_spec))
    near = KNeighborsClassifier(20, metric="cosine", weights=lambda far: np.exp(-far / 0.07))
    known = dataset.training
    near.fit(model.embed([dataset.image("train", row) for row in known]), dataset.train_labels[known])
    right = (near.predict(model.embed(list(dataset.images("test")))) == dataset.test_labels).mean()
    assert found.measures["knn"].numbers["top1"] == pytest.approx(right, abs=0.01)
    assert 0.2 < found.measures["probe"].numbers["top1"] <= 1  # far above chance


def test_all_is_every_measure_in_a_list_too(tmp_path: Path) -> None:
    assert [one.name for one in measures.chosen("knn, all")] == measures.names()
    grid = {"name": "x", "datasets": ["digits"], "students": ["tiny-32"], "train_types": ["supervised"]}
    grid |= {"recipes": ["corrected"], "seeds": [0]}
    for given in ("all", ["all"]):
        (tmp_path / "mine.yaml").write_text(json.dumps({"grid": [grid], "evaluation": given}))
        assert load([tmp_path / "mine.yaml"]).evaluation == measures.names()
