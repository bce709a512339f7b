"""Rows G01 to G04: no number comes from an incomplete, damaged, mixed, doubled or impossible result without a mark."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from clipkd.cli import main
from clipkd.core.artifacts import content_of, read_manifest, write_manifest
from clipkd.core.errors import DataError
from clipkd.core.fingerprint import fingerprint
from clipkd.core.typed_json import Model
from clipkd.spec.layout import Layout
from clipkd.tables import write_tables
from clipkd.tables.results import MARK, Results
from tests.faults.checks import amount, fault, nothing, replaced
from tests.synthetic import Study, demo, seal, write_study


def little() -> dict[str, Any]:
    """Return a grid of two seeds of three train types, in both recipes."""
    config = demo()
    block = config["grid"][0] | {"teachers": ["digits-vit-s"], "train_types": ["supervised", "vanilla", "embed-KD"]}
    return config | {"grid": [block]}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return write_study(little(), tmp_path_factory.mktemp("original"))


@pytest.fixture
def study(original: Study, tmp_path: Path) -> Study:
    return Study(original.config, Path(shutil.copytree(original.root, tmp_path / "copy")))


def collect(study: Study, partial: bool = False) -> Results:
    return Results.collect(study.config, study.results / "runs", study.data, partial)


def tables(study: Study, partial: bool = False) -> dict[str, str]:
    """Write the tables; return file -> content."""
    output = study.root / "tables"
    shutil.rmtree(output, ignore_errors=True)
    write_tables(study.config, study.results, study.data, output, partial)
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(output.iterdir())}


EMBED = {"recipe": "corrected", "train_type": "embed-KD", "seed": 1}


def refused(study: Study, *parts: object, partial: bool = True) -> None:
    try:
        collect(study, partial)
    except DataError as error:
        message = str(error)
    else:
        pytest.fail("printed as if nothing were wrong")
    assert [str(part) for part in parts if str(part) not in message] == [], message


@pytest.mark.slow
@fault("G01", **{"the-list": replaced("clipkd.tables.results.Results.gaps", lambda self: [])})
def test_a_missing_run_is_listed_and_marks_its_numbers(study: Study, tmp_path: Path) -> None:
    shutil.rmtree(study.folder(**EMBED))
    refused(study, "1 of 12 runs are missing", "digits-vit-s, embed-KD, recipe corrected, seed 1", partial=False)
    found = tables(study, partial=True)
    for name, text in found.items():
        if not name.endswith(".csv"):
            assert "INCOMPLETE: 1 of 12 runs are missing" in text, name
    assert f"(1) {MARK}" in found["accuracy-corrected-last-top1.md"]
    config = study.root / "config.json"
    config.write_text(study.config.model_dump_json(exclude_unset=True))
    arguments = ["--config", config, "--results", study.results, "--data", study.data, "--output", tmp_path / "t"]
    assert main(["tables", *map(str, arguments)]) == 3


@fault("G01", "R04", **{"the-failures": replaced("clipkd.tables.results.read_failure", nothing)})
def test_a_failed_run_is_called_failed(study: Study) -> None:
    for seed in (0, 1):
        folder = study.folder(**EMBED | {"seed": seed})
        for path in folder.iterdir():
            path.unlink()
        (folder / "failed.json").write_text(json.dumps({"message": "loss is not finite in epoch 2, step 7 of 9"}))
    refused(study, "seed 1 (FAILED: loss is not finite in epoch 2, step 7 of 9)", partial=False)
    found = tables(study, partial=True)
    assert "FAILED: loss is not finite" in found["accuracy-corrected-last-top1.html"]
    assert f"failed {MARK}" in found["accuracy-corrected-last-top1.md"]


def forged(study: Study, folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what a run says it was made from, everywhere, so that its own files agree."""
    path = folder / "metrics.json"
    metrics = json.loads(path.read_text())
    change(metrics["identity"])
    metrics["fingerprint"] = fingerprint(metrics["identity"])
    path.write_text(json.dumps(metrics))
    seal(folder)


def put(*keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(identity: dict[str, Any]) -> None:
        for key in keys[:-1]:
            identity = identity[key]
        identity[keys[-1]] = value

    return change


OTHERS = {
    "code": (put("protocol", value=1), "protocol: found 1"),
    "learning rate": (put("training", "learning_rate", value=0.5), "training.learning_rate: found 0.5, wanted 0.001"),
    "batch size": (put("training", "batch_size", value=32), "training.batch_size: found 32"),
    "recipe's switches": (put("recipe", "protocol", value=99), "recipe.protocol: found 99"),
    "student": (put("student", "width", value=3), "student.width: found 3"),
    "dataset's content": (put("dataset", "content", value="d" * 64), "dataset.content: found 'dddd"),
    "dataset's protocol": (put("dataset", "protocol", value=0), "dataset.protocol: found 0"),
    "prototypes": (put("signal", "prototypes", "form", value="gaussian"), "signal.prototypes.form: found 'gaussian'"),
    "teacher": (put("signal", "prototypes", "embeddings", "teacher", value={}), "signal.prototypes.embeddings.teacher"),
}


@fault("G02", "C09", **{"the-identity": replaced("clipkd.tables.consistency.check_identity", nothing)})
def test_a_run_of_something_else_is_refused_and_both_files_are_named(study: Study) -> None:
    for name, (change, told) in OTHERS.items():
        folder = study.folder(**EMBED)
        kept = {path.name: path.read_bytes() for path in folder.iterdir()}
        forged(study, folder, change)
        refused(study, folder / "manifest.json", "data/datasets/digits/manifest.json", told)
        for file, content in kept.items():
            (folder / file).write_bytes(content)
        assert len(collect(study).runs) == 12, name


def remade(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest so that its checksum fits again."""
    manifest = read_manifest(folder)
    change(manifest)
    write_manifest(folder, *(manifest[name] for name in ("kind", "identity", "facts", "files")))


@fault(
    "G02",
    "D08",
    **{
        "the-contents": replaced("clipkd.tables.teacher_stats.TeacherStats.contents", lambda self, cell: iter(())),
    },
)
def test_embeddings_of_another_content_are_refused(study: Study) -> None:
    """The dataset was packed again from other images: neither its old runs nor its old embeddings count."""
    cell = next(cell for cell in study.cells if cell.train_type == "embed-KD")
    layout = Layout.of(study.config, study.data)
    folder = layout.prototypes(cell)[0]
    remade(folder, lambda manifest: manifest["facts"].update(dataset_content="e" * 64))
    refused(study, folder / "manifest.json", layout.dataset(cell.dataset_spec) / "manifest.json", "dataset_content")


def test_g02_without_the_dataset_runs_must_agree_with_one_another(study: Study) -> None:
    shutil.rmtree(study.data / "datasets")
    assert len(collect(study).runs) == 12
    forged(study, study.folder(**EMBED), put("dataset", "content", value="d" * 64))
    refused(study, study.folder(**EMBED) / "manifest.json", study.folder(train_type="supervised") / "manifest.json")


@fault(
    "G02", "G01", **{"the-comparison-of-seeds": replaced("clipkd.tables.consistency.same_seeds", lambda runs: iter(()))}
)
def test_one_run_under_two_seeds_is_refused_and_both_files_are_named(study: Study) -> None:
    first, second = (study.folder(**EMBED | {"seed": seed}) for seed in (0, 1))
    shutil.rmtree(second)
    shutil.copytree(first, second)
    refused(study, second / "metrics.json", "cell.seed")  # as it is
    metrics = json.loads((second / "metrics.json").read_text())
    metrics["cell"]["seed"] = 1
    (second / "metrics.json").write_text(json.dumps(metrics))
    forged(study, second, put("cell", "seed", value=1))  # and made to fit
    refused(study, first / "history.csv", second / "history.csv", "two seeds")


WAYS: dict[str, tuple[dict[str, Any], str]] = {
    "cuda": ({"device": {"kind": "cuda", "name": "Example GPU", "threads": 2}}, "cuda"),
    "one thread": ({"device": {"kind": "cpu", "name": "Example CPU", "threads": 1}}, "cpu, 1 thread"),
    "a stack": ({"side_by_side": 8}, "cpu, 2 threads, in a stack"),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", [*WAYS, None])
def test_g02_runs_computed_in_two_ways_are_marked(way: str | None, study: Study) -> None:
    for number, cell in enumerate(study.cells):
        folder = study.results / "runs" / cell.folder
        cost = json.loads((folder / "cost.json").read_text()) | (WAYS[way][0] if way and number == 3 else {})
        (folder / "cost.json").write_text(json.dumps(cost))
        environment = {"packages": {"torch": "2.13.0"}, "device": {"kind": cost["device"]["kind"]}}
        (folder / "env.json").write_text(json.dumps(environment))
        seal(folder)
    text = tables(study)["accuracy-corrected-last-top1.html"]
    assert ("NOT COMPARABLE to the last digit" in text) == (way is not None)
    if way:
        assert "torch 2.13.0 on cpu, 2 threads: 11 runs" in text
        assert f"torch 2.13.0 on {WAYS[way][1]}: 1 run" in text


def taught_by(study: Study, weights: str, content: str, **axes: Any) -> Path:
    """Have a run say which weights and which bytes taught it."""
    folder = study.folder(train_type="embed-KD", recipe="corrected", **axes)
    signal = {"kind": "prototypes", "fingerprint": "1" * 16, "sha256": content * 64, "teacher": "2" * 16}
    identity = json.loads((folder / "metrics.json").read_text())["identity"]
    facts = {"signal": [signal | {"weights_sha256": weights * 64}]}
    write_manifest(folder, "run", identity, facts, read_manifest(folder)["files"])
    return folder


@fault("G10", **{"the weights": replaced("clipkd.tables.consistency.other_weights", lambda *_: iter(()))})
def test_students_of_two_teachers_of_one_name_are_not_averaged(study: Study) -> None:
    first, second = (taught_by(study, weights, "c", seed=seed) for seed, weights in enumerate("ab"))
    refused(study, first / "manifest.json", second / "manifest.json", "other weights", "aaaa", "bbbb")
    taught_by(study, "a", "c", seed=1)
    assert len(collect(study).runs) == 12


@fault("G10", **{"the bytes": replaced("clipkd.tables.mixtures.contents_of_signals", lambda runs, stored: [])})
def test_runs_that_learnt_from_other_bytes_are_marked(study: Study) -> None:
    for seed, content in enumerate("cd"):
        taught_by(study, "a", content, seed=seed)
    assert (
        "learnt from several versions, with other bytes, of what a teacher gave. Several versions: prototypes"
        in " ".join(collect(study).gaps())
    )
    taught_by(study, "a", "c", seed=1)
    assert collect(study).gaps() == []


def test_what_was_made_again_with_other_bytes_is_named(study: Study) -> None:
    """As on another machine, or of classes that are called otherwise now."""
    folder = study.folder(train_type="embed-KD", recipe="corrected", seed=0)
    cell = next(cell for cell in study.cells if study.results / "runs" / cell.folder == folder)
    made, identity = Layout.of(study.config, study.data).prototypes(cell)
    metrics = json.loads((folder / "metrics.json").read_text())["identity"]

    def notes(sha256: str) -> list[str]:
        signal = {"kind": "prototypes", "fingerprint": fingerprint(identity), "sha256": sha256, "teacher": "2" * 16}
        facts = {"signal": [signal | {"weights_sha256": None}]}
        write_manifest(folder, "run", metrics, facts, read_manifest(folder)["files"])
        return collect(study).gaps()

    assert notes(content_of(read_manifest(made))) == []
    (note,) = notes("0" * 64)
    assert note.startswith("Made again since, with other bytes than runs learnt from: prototypes ")
    assert f"prototypes {fingerprint(identity)} (1 of the runs)" in note


def unmixed(runs: object) -> list[str]:
    return []


@fault("G10", **{"the ways": replaced("clipkd.tables.mixtures.ways_of_computing", unmixed)})
@pytest.mark.parametrize("way", ["precision", "device", "resumed", "products"])
def test_rows_of_several_precisions_or_devices_are_named(way: str, study: Study) -> None:
    """The config leaves the precision to the machine; the last seed of one row was made on another one."""
    asked = study.config.training.model_copy(update={"precision": "auto"})
    study = Study(study.config.model_copy(update={"training": asked}), study.root)
    for cell in study.cells:
        folder = study.results / "runs" / cell.folder
        odd = folder == study.folder(**EMBED)
        gpu = "Tesla V100" if odd and way != "precision" else "NVIDIA A100"
        one = {"packages": {"torch": "2.13.0"}, "device": {"kind": "cuda", "name": gpu}}
        if way == "products":
            one["device"] = {"kind": "cpu", "name": "AMD EPYC", "onednn": ["output"] if odd else []}
        first = one | {"device": {"kind": "cuda", "name": "NVIDIA A100"}}
        sittings = {"sittings": [first, one]} if odd and way == "resumed" else {}
        (folder / "env.json").write_text(json.dumps(one | sittings))
        forged(study, folder, put("training", "precision", value="bf16" if odd and way == "precision" else "fp32"))
    note = " ".join(collect(study).gaps())
    odd_run, usual = {
        "precision": ("bf16, torch 2.13.0 on NVIDIA A100", "fp32, torch 2.13.0 on NVIDIA A100"),
        "device": ("torch 2.13.0 on Tesla V100", "torch 2.13.0 on NVIDIA A100"),
        "resumed": (
            "torch 2.13.0 on NVIDIA A100, resumed with torch 2.13.0 on Tesla V100",
            "torch 2.13.0 on NVIDIA A100",
        ),
        "products": (
            "torch 2.13.0 on AMD EPYC (by oneDNN: output)",
            "torch 2.13.0 on AMD EPYC (by oneDNN: nothing)",
        ),
    }[way]
    assert f"{odd_run}, 2 threads: 1 run" in note
    assert f"{usual}, 2 threads: 11 runs" in note
    assert "The seeds of 1 of 6 rows differ in this: digits, tiny-32, teacher digits-vit-s, embed-KD, recipe" in note
    assert ("to the last digit" in note) == (way != "precision")


def test_a_recipe_that_is_always_float32_is_no_mixture(study: Study) -> None:
    """`auto` on a machine with bf16: the formats are said below the tables, and nothing is marked as wrong."""
    asked = study.config.training.model_copy(update={"precision": "auto"})
    study = Study(study.config.model_copy(update={"training": asked}), study.root)
    for cell in study.cells:
        if cell.recipe == "corrected":
            forged(study, study.results / "runs" / cell.folder, put("training", "precision", value="bf16"))
    found = collect(study)
    assert (len(found.runs), found.gaps()) == (12, [])
    assert found.remarks()[0].endswith(": bf16 (corrected tiny-32); fp32 (reference tiny-32).")
    forged(study, study.folder(recipe="reference"), put("training", "precision", value="bf16"))
    refused(study, study.folder(recipe="reference") / "manifest.json", "training.precision")


FIELDS = {
    "metrics.json": ("last.test.top1", "selected.test.top5", "last.test.loss", "last.validation.top1"),
    "cost.json": ("images_per_second", "weights_bytes", "teacher.forward_passes", "peak_memory_bytes"),
}
WRONG = (float("nan"), float("inf"), -1, 101, "0.9", None, True, [], {}, 2**80, "")
UNBOUNDED = {101, 2**80}
"""What is impossible for an accuracy only."""


def believed(model: type[Model], data: Any, path: Path) -> Any:
    """The mutant: whatever a field holds is put right."""
    while True:
        try:
            return model.model_validate(data)
        except ValidationError as error:
            *parents, last = error.errors()[0]["loc"]
            place = data
            for part in parents:
                place = place[part]
            place[last] = 1


@pytest.mark.slow
@fault("G03", **{"the-ranges": replaced("clipkd.core.typed_json.validated", believed)})
def test_an_impossible_number_is_refused_by_file_and_field(study: Study, record_property: Any) -> None:
    tried, folder = 0, study.folder(**EMBED)
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name, fields in FIELDS.items():
        for place, field in enumerate(fields):
            for value in WRONG[place % amount(3, 1) :: amount(3, 1)]:
                is_bounded = "top" in field
                may_be_absent = value is None and "validation" in field
                if may_be_absent or (not is_bounded and isinstance(value, int) and value in UNBOUNDED):
                    continue
                study.change(folder, name, field, value)
                refused(study, folder / name, field.rpartition(".")[2] if value is None else field)
                (folder / name).write_bytes(kept[name])
                (folder / "manifest.json").write_bytes(kept["manifest.json"])
                tried += 1
    record_property("impossible values", tried)


def another(draw: random.Random, study: Study, folder: Path) -> Path:
    folders = [study.results / "runs" / cell.folder for cell in study.cells]
    return draw.choice([path for path in folders if path != folder])


def mutate(draw: random.Random, study: Study) -> str:
    """Damage a set of results in one way; return what was done."""
    cells = study.cells
    folder = study.results / "runs" / draw.choice(cells).folder
    path = draw.choice([path for path in sorted(folder.iterdir()) if path.is_file()])
    kind = draw.choice(["gone", "file gone", "cut", "flip", "text", "copied", "number", "swapped", "manifest gone"])
    if kind == "gone":
        shutil.rmtree(folder)
    elif kind in {"file gone", "manifest gone"}:
        (path if kind == "file gone" else folder / "manifest.json").unlink()
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])
    elif kind == "flip":
        content = bytearray(path.read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
    elif kind == "text":
        path.write_text(draw.choice(["", "{}", "[]", "null", "NaN", "{" * 5000, '{"format": 2}', "a,b\n1,2\n"]))
    elif kind == "copied":
        other = (
            study.results
            / "runs"
            / draw.choice([cell for cell in cells if not folder.match(f"*/{cell.folder}")]).folder
        )
        shutil.rmtree(folder)
        shutil.copytree(other, folder)
    elif kind == "number":
        name = draw.choice(list(FIELDS))
        value = draw.choice([float("nan"), -1, 2.5, "x", None, 10**30, True])
        study.change(folder, name, "last.test.top1" if name == "metrics.json" else "images_per_second", value)
        if name == "cost.json" and value in (2.5, 10**30) and value is not True:
            return "harmless"
    else:
        other = (
            study.results
            / "runs"
            / draw.choice([cell for cell in cells if not folder.match(f"*/{cell.folder}")]).folder
        )
        (folder / "history.csv").write_bytes((other / "history.csv").read_bytes())
        if (folder / "history.csv").read_bytes() == path.read_bytes() and path.name == "history.csv":
            return "harmless"
    return kind


@pytest.mark.slow
@fault(
    "G01",
    "G02",
    "G03",
    **{
        "all-reading": replaced(
            "clipkd.tables.results.Results.collect", lambda config, runs, data, partial=False: None
        ),
    },
)
def test_fuzzed_results(original: Study, tmp_path: Path, record_property: Any) -> None:
    """Random damage to a set of results: an error that names a file or run, exit code 3, and never a table."""
    draw, tries, found = random.Random(3), amount(40, 1000), 0
    for _ in range(tries):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        study = Study(original.config, Path(shutil.copytree(original.root, tmp_path / "copy")))
        before = {path: path.read_bytes() for path in study.results.rglob("*") if path.is_file()}
        kind = mutate(draw, study)
        after = {path: path.read_bytes() for path in study.results.rglob("*") if path.is_file()}
        if kind == "harmless" or before == after:
            continue
        refused(study, "runs", partial=False)
        found += 1
    record_property("damaged result sets", found)


def as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: cells in another order each time, as a folder's listing may be."""
    from clipkd.tables import results

    real, calls = results.expand, iter(range(100))

    def expand(config: dict[str, Any]) -> Any:
        found, left_out = real(config)
        random.Random(next(calls)).shuffle(found)
        return found, left_out

    monkeypatch.setattr(results, "expand", expand)


@fault("G04", **{"the-config's-order": as_it_comes})
def test_order_changes_nothing(study: Study, tmp_path: Path) -> None:
    """Files written in another order, with other times, beside strangers: the same bytes."""
    wanted = tables(study)
    names = [cell.folder for cell in study.cells]
    random.Random(5).shuffle(names)
    other = Study(study.config, tmp_path / "other")
    shutil.copytree(study.data, other.data)
    for number, name in enumerate(names):
        shutil.copytree(study.results / "runs" / name, other.results / "runs" / name)
        for path in (other.results / "runs" / name).iterdir():
            os.utime(path, (number * 1e6, 4e9 - number))  # in the past and in the future
    (other.results / "runs" / "corrected" / "unknown" / "x").mkdir(parents=True)
    (other.results / "runs" / "corrected" / "unknown" / "x" / "metrics.json").write_text("{}")  # no cell of this grid
    assert tables(other) == wanted


@pytest.mark.slow
def test_g04_locale_changes_nothing(study: Study) -> None:
    """That of Turkish, where an upper-case i has a dot; C, for Python without UTF-8, in tests/tables."""
    locale = "tr_TR.UTF-8"
    wanted = tables(study)
    config = study.root / "config.json"
    config.write_text(study.config.model_dump_json(exclude_unset=True))
    arguments = ["--config", config, "--results", study.results, "--data", study.data, "--output", study.root / "t"]
    environment = os.environ | {"LANG": locale, "LC_ALL": locale, "PYTHONHASHSEED": "7", "TZ": "Asia/Kathmandu"}
    command = [sys.executable, "-m", "clipkd", "tables", *map(str, arguments)]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert answer.returncode == 0, answer.stderr
    assert {path.name: path.read_text(encoding="utf-8") for path in sorted((study.root / "t").iterdir())} == wanted
