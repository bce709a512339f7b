"""The grid against formulas written here: how many students, and how often a teacher is run for them."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clipkd.core.errors import InputError
from clipkd.core.fingerprint import Identity, digest
from clipkd.plugins import teachers
from clipkd.spec.cells import Cell
from clipkd.spec.config import load
from clipkd.spec.flags import run_flags
from clipkd.spec.grid import expand
from clipkd.spec.identities import run_identity, signal_identities
from clipkd.spec.layout import Embeddings, Layout
from clipkd.spec.settings import Config, Hyperparameters
from clipkd.spec.views import Sample

ROOT = Path(__file__).parents[2]
UNPINNED = "vit-b32-in21k"
RECIPES = 2
SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock file of the test's own, absent until it is written."""
    path = tmp_path / "teachers.lock.json"
    monkeypatch.setattr("clipkd.plugins.teachers._hub.LOCK", path)
    return path


def pin(lock: Path) -> None:
    lock.write_text(json.dumps({UNPINNED: {"revision": SHA, "weights_sha256": "0" * 64}}))
    teachers.lock.cache_clear()


def shipped(name: str, **changes: Any) -> Config:
    names = ["config.yaml"] if name == "config" else ["config.yaml", f"{name}.yaml"]
    return load([ROOT / "config" / file for file in names], changes)


def block(**changes: Any) -> dict[str, Any]:
    axes = {"datasets": ["digits"], "teachers": ["digits-vit-s"], "students": ["tiny-32"], "recipes": ["reference"]}
    return {"name": "b", **axes, "train_types": ["embed-KD"], "seeds": [0]} | changes


def config(*blocks: dict[str, Any], **changes: Any) -> Config:
    return Config.model_validate({"grid": list(blocks), "training": {"epochs": 20}, "sources": {}} | changes)


def cells(*blocks: dict[str, Any], **changes: Any) -> list[Cell]:
    return expand(config(*blocks, **changes))[0]


def paper_cells(datasets: int, teachers: int, seeds: int) -> int:
    """Students of config/config.yaml: `supervised` once per dataset, three train types per teacher, ..."""
    main = datasets * RECIPES * seeds * (1 + 3 * teachers)
    controls = datasets * RECIPES * seeds * 3
    scale = 3 * RECIPES * seeds
    live = 2 * 2
    return main + controls + scale + live


def stores(found: list[Cell], layout: Layout) -> dict[str, list[Embeddings]]:
    """Return the distinct view sets that the cells read, by kind: every image, or a few per class."""
    kinds: dict[str, dict[Path, Embeddings]] = {"full": {}, "sample": {}}
    for cell in found:
        if cell.method.signal == "prototypes":
            store = layout.sample_embeddings(cell)
            kinds["sample"][store.folder] = store
        elif cell.method.signal == "scores" or (cell.method.signal == "embeddings" and cell.teacher_source == "cached"):
            store = layout.full_embeddings(cell)
            kinds["full"][store.folder] = store
    return {kind: list(by_folder.values()) for kind, by_folder in kinds.items()}


def test_the_demo() -> None:
    found, left_out = expand(shipped("demo"))
    few, supervised, with_teacher, controls, live = 4 * 5, 2 * 2, 2 * 2 * 3, 2, 2
    assert len(found) == few + supervised + with_teacher + controls + live == 40
    assert left_out == []
    assert {cell.epochs for cell in found if cell.is_cost_run} == {3}


def test_the_paper_without_what_has_to_be_given() -> None:
    found, left_out = expand(shipped("config"))
    assert len(found) == paper_cells(datasets=2, teachers=3, seeds=3) == 178
    assert [("imagenet" in reason, UNPINNED in reason) for reason in left_out] == [(True, False), (False, True)]
    assert "sources: {imagenet: FOLDER}" in left_out[0]
    assert f"clipkd pin {UNPINNED}" in left_out[1]


def test_the_whole_paper(lock: Path) -> None:
    pin(lock)
    found, left_out = expand(shipped("config", sources={"imagenet": "/data/imagenet"}))
    assert len(found) == paper_cells(datasets=3, teachers=4, seeds=3) == 310
    assert left_out == []
    # On ImageNet the crops are random: no stored embedding is what training shows, so the teacher runs live.
    live = {(cell.train_type, cell.is_cost_run) for cell in found if cell.teacher_source == "live"}
    assert live == {("vanilla", False), ("teacher-KD", False), ("vanilla", True), ("teacher-KD", True)}
    assert {cell.source for cell in found if cell.dataset == "imagenet"} == {"/data/imagenet"}
    assert {cell.source for cell in found if cell.dataset != "imagenet"} == {None}


def test_each_run_has_a_folder_of_its_own() -> None:
    found, _ = expand(shipped("config"))
    folders = [cell.folder for cell in found]
    assert len(set(folders)) == len(folders)
    assert "reference/cifar10/base-32/none/supervised/seed0" in folders
    assert "corrected/cifar100/base-64/vit-l16-in21k/embed-KD/seed2" in folders
    assert "reference/cifar10/base-32/vit-l16-in21k/teacher-KD-live/seed0" in folders


@pytest.mark.parametrize("grid", ["demo", "config"])
def test_a_teacher_sees_a_dataset_once_per_view_set(grid: str) -> None:
    found, _ = expand(shipped(grid))
    pairs = 1 if grid == "demo" else 2 * 3
    kinds = stores([cell for cell in found if not cell.differs_by_seed], Layout())
    # The recipes normalise a teacher's input differently: one view set each.
    assert {kind: len(of_kind) for kind, of_kind in kinds.items()} == {
        "full": pairs * RECIPES,
        "sample": pairs * RECIPES,
    }
    for of_kind in kinds.values():
        assert len({(store.dataset.name, store.teacher.name) for store in of_kind}) == pairs


def test_imagenet_is_extracted_for_probes_and_prototypes(lock: Path) -> None:
    pin(lock)
    found, _ = expand(shipped("config", sources={"imagenet": "/data/imagenet"}))
    kinds = stores(found, Layout())
    assert {kind: len(of_kind) for kind, of_kind in kinds.items()} == {
        "full": 3 * 4 * RECIPES,
        "sample": 3 * 4 * RECIPES,
    }


@pytest.mark.parametrize("axis", ["seeds", "students"])
def test_extraction_does_not_depend_on(axis: str) -> None:
    types = ["vanilla", "teacher-KD", "embed-KD", "embed-KD-random"]
    few = block(train_types=types, recipes=["reference", "corrected"])
    many = few | {axis: list(range(50)) if axis == "seeds" else ["tiny-32", "base-32", "large-32"]}
    found = {name: stores(cells(grid), Layout()) for name, grid in (("few", few), ("many", many))}
    for kind in ("full", "sample"):
        assert [store.folder for store in found["few"][kind]] == [store.folder for store in found["many"][kind]]
    assert len(cells(many)) > len(cells(few))


def test_a_larger_student_shows_the_teacher_larger_images_in_the_released_code() -> None:
    both = block(train_types=["teacher-KD"], students=["base-32", "base-64"], recipes=["reference", "corrected"])
    sizes = {store.views.source_size for store in stores(cells(both), Layout())["full"]}
    assert sizes == {None, 64}
    assert len(stores(cells(both | {"recipes": ["corrected"]}), Layout())["full"]) == 1


SOURCES_OF_CHANGE = {
    "revision": lambda store: replace(store, teacher=replace(store.teacher, revision=SHA)),
    "hub id": lambda store: replace(store, teacher=replace(store.teacher, hub_id="owner/other")),
    "mean": lambda store: replace(store, views=replace(store.views, mean=(0.5, 0.5, 0.4))),
    "std": lambda store: replace(store, views=replace(store.views, std=(0.5, 0.5, 0.4))),
    "resize": lambda store: replace(store, views=replace(store.views, resize="image")),
    "source size": lambda store: replace(store, views=replace(store.views, source_size=64)),
    "image size": lambda store: replace(store, views=replace(store.views, image_size=384)),
    "flips": lambda store: replace(store, views=replace(store.views, flips=False)),
    "mirrors": lambda store: replace(store, views=replace(store.views, mirrors=False)),
    "crop": lambda store: replace(store, views=replace(store.views, crop=True)),
    "sample": lambda store: replace(store, views=replace(store.views, sample=Sample(100, 0))),
    "sample size": lambda store: replace(store, views=replace(store.views, sample=Sample(99, 0))),
    "sample seed": lambda store: replace(store, views=replace(store.views, sample=Sample(100, 1))),
    "dtype": lambda store: replace(store, dtype="float32"),
    "dataset": lambda store: replace(store, dataset=replace(store.dataset, md5="0" * 32)),
    "validation": lambda store: replace(store, dataset=replace(store.dataset, validation_fraction=0.2)),
}


def test_whatever_changes_embeddings_changes_their_folder() -> None:
    cell = cells(block(datasets=["cifar10"], teachers=["vit-l16-in21k"], train_types=["teacher-KD"]))[0]
    store = Layout().full_embeddings(cell)
    folders = {"none": store.folder}
    for name, change in SOURCES_OF_CHANGE.items():
        changed = change(store)
        folders[name] = Layout(dtype=changed.dtype).embeddings(changed.dataset, changed.teacher, changed.views).folder
    assert len(set(folders.values())) == len(folders)


def test_a_title_changes_no_folder() -> None:
    cell = cells(block(datasets=["cifar10"], teachers=["vit-l16-in21k"], train_types=["teacher-KD"]))[0]
    store = Layout().full_embeddings(cell)
    renamed = replace(store.teacher, title="Another title"), replace(store.dataset, title="Another title")
    assert Layout().embeddings(renamed[1], renamed[0], store.views).folder == store.folder


def test_the_options_reach_the_folder() -> None:
    cell = cells(block())[0]
    layouts = [Layout(), Layout(dtype="float32"), Layout(sample=Sample(50, 0)), Layout(sample=Sample(100, 7))]
    assert len({layout.sample_embeddings(cell).folder for layout in layouts}) == len(layouts)
    # Every image is extracted, whichever become prototypes.
    assert Layout().full_embeddings(cell) == Layout(sample=Sample(50, 0)).full_embeddings(cell)


def test_a_pin_moves_the_teacher_and_its_embeddings(lock: Path) -> None:
    pin(lock)
    cell = cells(block(datasets=["cifar10"], teachers=[UNPINNED]))[0]
    assert cell.teacher_spec is not None
    moved = replace(cell.teacher_spec, revision="f" * 40)
    assert Layout().teacher(moved) != Layout().teacher(cell.teacher_spec)


def test_overlapping_blocks_make_a_run_once() -> None:
    first = block(seeds=[0, 1, 2], train_types=["supervised", "embed-KD"])
    second = block(seeds=[2, 3], train_types=["embed-KD", "supervised"], teachers=["digits-vit-s", "digits-vit-xs"])
    found = cells(first, second)
    # supervised: seeds 0..3; embed-KD with the first teacher: seeds 0..3; with the second: 2, 3
    assert len(found) == 4 + 4 + 2
    assert len({cell.folder for cell in found}) == len(found)
    assert found[:6] == cells(first)


def test_names_in_other_case_are_the_same_run() -> None:
    names = {"datasets": ["Digits"], "teachers": ["DIGITS-vit-S"], "students": ["Tiny-32"], "recipes": ["Reference"]}
    shouted = block(train_types=["Embed-kd"], **names)
    assert cells(block(), shouted) == cells(block())


def test_a_teacher_by_its_hub_id_is_the_same_run() -> None:
    by_key = block(datasets=["cifar10"], teachers=["vit-l16-in21k"])
    by_id = block(datasets=["cifar10"], teachers=["google/vit-large-patch16-224-in21k"])
    assert cells(by_key, by_id) == cells(by_key)


def test_a_teacher_of_the_hub_at_a_commit() -> None:
    (cell,) = cells(block(teachers=[f"owner/Model.v2@{SHA}"]))
    assert cell.folder == f"reference/digits/tiny-32/owner-model-v2-{SHA[:8]}/embed-KD/seed0"
    assert cell.teacher_spec is not None
    assert cell.teacher_spec.identity() == {"hub": "owner/Model.v2", "revision": SHA}


def test_a_teacher_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "My ViT"
    folder.mkdir()
    for name in teachers.FILES:
        (folder / name).write_text("{}")
    (cell,) = cells(block(teachers=[str(folder)]))
    run, store = cell.folder, Layout().sample_embeddings(cell).folder
    assert run.split("/")[3].startswith("my-vit-")
    (folder / "model.safetensors").write_text("other weights")
    (cell,) = cells(block(teachers=[str(folder)]))
    assert (cell.folder != run, Layout().sample_embeddings(cell).folder != store) == (True, True)


def test_imagenet_in_any_case_takes_its_folder() -> None:
    found, left_out = expand(
        config(block(datasets=["ImageNet"], train_types=["supervised"]), sources={"imagenet": "/data/imagenet"})
    )
    assert [(cell.dataset, cell.source) for cell in found] == [("imagenet", "/data/imagenet")]
    assert left_out == []


def test_different_epochs_for_one_run_are_refused() -> None:
    with pytest.raises(InputError, match=r"grid\[1\] \('late'\) and grid\[0\] \('b'\).*seed0, with 3 and 20 epochs"):
        expand(config(block(), block(name="late", epochs=3)))


@pytest.mark.parametrize("train_type", ["supervised", "embed-KD", "embed-KD-random"])
def test_there_is_no_live_teacher_without_a_signal_per_image(train_type: str) -> None:
    with pytest.raises(InputError, match=f"'{train_type}' can't use a live teacher"):
        expand(config(block(train_types=[train_type], teacher_source="live")))


@pytest.mark.parametrize("train_type", ["teacher-KD-permuted", "vanilla-within-class"])
def test_a_control_that_exchanges_targets_needs_stored_ones(train_type: str) -> None:
    one = block(train_types=[train_type])
    assert [cell.teacher_source for cell in cells(one)] == ["cached"]
    with pytest.raises(InputError, match="must be stored: on dataset 'digits' use teacher_source 'cached'"):
        cells(one | {"teacher_source": "live"})
    crops, folder = one | {"datasets": ["imagenet"]}, {"sources": {"imagenet": "images"}}
    assert [cell.teacher_source for cell in cells(crops | {"teacher_source": "replayed"}, **folder)] == ["replayed"]
    with pytest.raises(InputError, match="on dataset 'imagenet' use teacher_source 'replayed'"):
        cells(crops, **folder)


@pytest.mark.parametrize(("recipe", "crops", "source", "found"), [
    ("modern-flip", False, "cached", "cached"),
    ("modern-flip", False, "replayed", "use teacher_source 'cached'"),
    ("modern-flip", False, "live", "use teacher_source 'cached'"),
    ("modern-flip", True, "cached", "use teacher_source 'replayed'"),
    ("modern-crop", True, "cached", "use teacher_source 'replayed'"),
    ("modern-crop", True, "replayed", "replayed"),
    ("modern-crop", False, "cached", "replayed"),
    ("modern-full", False, "cached", "replayed"),
    ("modern-full", False, "replayed", "replayed"),
    ("modern-full", True, "cached", "replayed"),
    ("modern-full", False, "live", "use teacher_source 'replayed'"),
    ("modern-full", False, "lazy", "use teacher_source 'replayed'"),
    ("modern", False, "cached", "cached"),
    ("modern", True, "cached", "replayed"),
    ("modern", True, "replayed", "replayed"),
])  # fmt: skip
def test_a_teacher_is_only_asked_about_views_that_are_stored(recipe, crops, source, found) -> None:
    """Recipes that standardise embeddings: what is stored tells their mean and deviation."""
    data = {"datasets": ["imagenet"]} if crops else {}
    more = {"sources": {"imagenet": "images"}} if crops else {}
    for train_type in ("teacher-KD", "feature-KD"):
        asked = block(recipes=[recipe], train_types=[train_type], teacher_source=source, **data)
        if found in {"cached", "replayed"}:
            assert [cell.teacher_source for cell in cells(asked, **more)] == [found]
        else:
            with pytest.raises(InputError, match=found):
                cells(asked, **more)


def test_class_scores_of_endless_views_may_be_live() -> None:
    asked = block(recipes=["modern-full"], train_types=["vanilla", "DKD"], teacher_source="live")
    assert [(cell.teacher_source, cell.is_cost_run) for cell in cells(asked)] == [("live", False)] * 2
    with pytest.raises(InputError, match="'lazy' would keep nothing"):
        cells(asked | {"teacher_source": "lazy"})
    controls = block(recipes=["modern-full"], train_types=["vanilla-permuted", "feature-KD-within-class"])
    assert {cell.teacher_source for cell in cells(controls)} == {"replayed"}


def test_a_new_protocol_of_a_train_type_trains_its_students_again() -> None:
    layout, numbers = Layout(), Config.model_validate({"grid": [block()]}).hyperparameters(1)
    random, other = cells(block(train_types=["embed-KD-random", "embed-KD"]))
    assert run_identity(random, numbers, layout, "0")["method"] == {"protocol": 2}
    assert "method" not in run_identity(other, numbers, layout, "0")


def test_a_live_run_stands_beside_the_cached_one() -> None:
    one = block(train_types=["teacher-KD"])
    cached, live = cells(one, one | {"teacher_source": "live", "epochs": 1})
    assert (cached.is_cost_run, live.is_cost_run) == (False, True)
    assert live.folder == cached.folder.replace("teacher-KD", "teacher-KD-live")


@pytest.mark.parametrize(
    ("axis", "name", "nearest"),
    [
        ("datasets", "digit", "digits"),
        ("students", "tiny-23", "tiny-32"),
        ("teachers", "digits-vit", "digits-vit-s"),
        ("train_types", "embedKD", "embed-KD"),
        ("recipes", "correct", "corrected"),
    ],
)
def test_an_unknown_name_is_refused(axis: str, name: str, nearest: str) -> None:
    with pytest.raises(InputError, match=f"unknown .*'{name}'; did you mean '{nearest}'"):
        expand(config(block(**{axis: [name]})))


def test_expanding_leaves_the_config_alone() -> None:
    given = shipped("config")
    before = copy.deepcopy(given)
    expand(given)
    assert given == before


def test_what_the_snakefile_reads_imports_no_torch() -> None:
    code = (
        "import sys, json\n"
        "from clipkd.plugins import datasets, methods, recipes, students, teachers\n"
        "from clipkd.spec import config, grid, layout\n"
        "from clipkd import tables; from clipkd.report import figures\n"
        "from clipkd.spec.protocol import PROTOCOL\n"
        "given = config.Config.model_validate_json(sys.stdin.read())\n"
        "found, _ = grid.expand(given)\n"
        "place = layout.Layout()\n"
        "for cell in found:\n"
        "    cell.folder\n"
        "    if cell.teacher_spec:\n"
        "        place.full_embeddings(cell).folder, place.sample_embeddings(cell).folder\n"
        "tables.table_stems(given), figures.figure_stems(given)\n"
        "names = {'torch', 'torchvision', 'transformers', 'sklearn', 'matplotlib', 'pandas', 'scipy'}\n"
        "heavy = names & set(sys.modules)\n"
        "print(len(found), sorted(heavy))\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        input=shipped("demo").model_dump_json(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == "40 []"


def test_a_head_of_its_own_is_part_of_what_makes_a_vanilla_run() -> None:
    """Only where scores are used; what the classes are called counts, as they are matched by name."""
    model, names = f"owner/model@{SHA}", {"digits": [f"digit {number}" for number in range(10)]}
    heads = []
    for given, called in ((None, {}), ("own@digits", {}), ("own", {}), ("own", names), (None, names)):
        settings = config(
            block(teachers=["eyes"], train_types=["vanilla", "teacher-KD"]),
            teachers={"eyes": model if given is None else {"model": model, "head": given}},
            class_names=called,
        )
        layout = Layout.of(settings)
        vanilla, teacher_kd = expand(settings)[0]
        heads.append(digest(signal_identities(vanilla, layout)))
        assert signal_identities(teacher_kd, layout)["embeddings"] == layout.full_embeddings(vanilla).identity
        assert ("--class-names" in run_flags(settings, [vanilla])) == (given is not None and called == names)
        assert "--class-names" not in run_flags(settings, [teacher_kd])
        assert teachers.get(vanilla.teacher).head == (given or "")
        assert teachers.checkpoint_of(vanilla.teacher) == model
    probe, on_digits, own, named, probe_of_named = heads
    assert probe == probe_of_named
    assert on_digits == own
    assert len({probe, own, named}) == 3


def test_seeds_of_one_row_are_trained_alike() -> None:
    """Their mean would be one of students of several lengths, and say nothing of it."""
    short, longer = block(epochs=4, seeds=[0, 1]), block(epochs=8, seeds=[2, 3])
    with pytest.raises(InputError, match=r"^grid\[1\] .*seed2 has 8 epochs and .*seed0 4: they would share"):
        cells(short, longer)
    assert cells(short, longer | {"train_types": ["vanilla"]})


def test_a_run_is_the_same_however_its_student_is_typed_and_wherever_weights_lie(vit_folder: Path, tmp_path) -> None:
    def made(student: str, teacher: str, weights: Path) -> tuple[str, Identity]:
        cell = Cell("corrected", "digits", f"{student}?pretrained={weights}", teacher, "embed-KD", 0)
        return cell.folder, run_identity(cell, Hyperparameters(epochs=1), Layout(tmp_path), "")

    weights, moved, folder = tmp_path / "w.safetensors", tmp_path / "a/w.safetensors", tmp_path / "b" / vit_folder.name
    weights.write_bytes(b"weights")
    first = made("timm:test_resnet", str(vit_folder), weights)
    moved.parent.mkdir()
    shutil.copy(weights, moved)
    shutil.copytree(vit_folder, folder)
    assert made("timm:test_resnet@32", str(folder), moved) == first
    assert made("timm:test_resnet@64", str(folder), moved) != first
    moved.write_bytes(b"others")
    assert made("timm:test_resnet@32", str(folder), moved) != first
