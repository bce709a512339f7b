"""Bad configs are refused before any work: the message holds file, line, key, value and the nearest valid name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from clipkd.core.artifacts import write_manifest
from clipkd.core.errors import InputError
from clipkd.spec.config import load
from clipkd.spec.settings import Block, Config, EmbeddingSettings
from clipkd.spec.yaml_source import YamlSource
from tests.grids import block

ROOT = Path(__file__).parents[2]
BASE = ROOT / "config/config.yaml"
DEMO = ROOT / "config/demo.yaml"

BLOCK = "grid:\n" + block("one", train_types="[embed-KD]", recipes="[reference]")


def read(folder: Path, text: str | bytes, overrides: dict[str, Any] | None = None) -> Config:
    """Return config.yaml with `text` merged over it."""
    path = folder / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load([BASE, path], overrides)


def refusal(folder: Path, text: str | bytes, overrides: dict[str, Any] | None = None) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, text, overrides)
    message = str(caught.value)
    assert len(message) < 1000
    return message


@pytest.mark.parametrize("files", [[BASE], [BASE, DEMO]])
def test_the_shipped_configs_are_valid(files: list[Path]) -> None:
    config = load(files)
    assert config.training.learning_rate == (1e-3 if DEMO in files else 1e-4)
    assert config.training.batch_size == 64
    assert config.embeddings == EmbeddingSettings()


def test_every_key_is_described_and_has_one_flag_at_most() -> None:
    def fields(model: type[BaseModel], key: str) -> Iterator[tuple[str, str | None, Any]]:
        for name, field in model.model_fields.items():
            yield f"{key}.{name}", field.description, (field.json_schema_extra or {}).get("flag")
            inner = Block if name == "grid" else field.annotation
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from fields(inner, f"{key}.{name}")

    found = list(fields(Config, "config"))
    assert len(found) > 25
    assert [key for key, description, _ in found if not description] == []
    flags = [flag for _, _, flag in found if flag]
    assert len(flags) == len(set(flags)) > 12


# Each row: the text, then what the message must hold.
REFUSED = {
    "unknown key": ("training:\n  epochs: 3\n  learning_rat: 0.1\n", "mine.yaml:3", "'learning_rat'", "learning_rate"),
    "unknown top key": ("\n\ntrainig:\n  epochs: 3\n", "mine.yaml:3", "'trainig'", "did you mean 'training'"),
    "unknown key in block": (BLOCK + "    eposhs: 3\n", "mine.yaml:9", "grid[0].eposhs", "did you mean 'epochs'"),
    "missing key": (BLOCK.replace("    seeds: [0]\n", ""), "mine.yaml:2", "grid[0]", "'seeds' is a required"),
    "duplicate key": ("training:\n  epochs: 3\n  epochs: 4\n", "mine.yaml:3", "duplicate key 'epochs'"),
    "duplicate quoted key": ('training:\n  epochs: 3\n  "epochs": 4\n', "mine.yaml:3", "duplicate key 'epochs'"),
    "duplicate top key": ("training: {}\nsources: {}\ntraining: {}\n", "mine.yaml:3", "duplicate key 'training'"),
    "nan": ("training:\n  learning_rate: .nan\n", "mine.yaml:2", "training.learning_rate", ".nan", "finite"),
    "NaN": ("training:\n  learning_rate: .NaN\n", "mine.yaml:2", "training.learning_rate", ".NaN", "finite"),
    "bare nan": ("training:\n  learning_rate: nan\n", "mine.yaml:2", "nan", "finite"),
    "inf": ("training:\n  learning_rate: -.inf\n", "mine.yaml:2", "-.inf", "finite"),
    "overflow": ("training:\n  learning_rate: 1e999\n", "mine.yaml:2", "1e999", "finite"),
    "endless integer": (f"training:\n  epochs: {'9' * 9000}\n", "mine.yaml:2", "training.epochs", "999", "finite"),
    "long integer": ("training:\n  epochs: 99999999999999999999\n", "mine.yaml:2", "training.epochs", "1e+20"),
    "text for number": ('training:\n  learning_rate: "1e-4"\n', "mine.yaml:2", "'1e-4'", "number"),
    "no for number": ("training:\n  learning_rate: NO\n", "mine.yaml:2", "'NO'", "number"),
    "bool for integer": ("training:\n  epochs: true\n", "mine.yaml:2", "training.epochs", "True", "integer"),
    "yes for integer": ("training:\n  epochs: yes\n", "mine.yaml:2", "'yes'", "integer"),
    "float for integer": ("training:\n  epochs: 5.0\n", "mine.yaml:2", "5.0", "integer"),
    "power for integer": ("training:\n  epochs: 1e2\n", "mine.yaml:2", "100.0", "integer"),
    "octal": ("training:\n  epochs: 010\n", "mine.yaml:2", "'010'", "integer"),
    "octal for number": ("training:\n  weight_decay: 010\n", "mine.yaml:2", "'010'", "number"),
    "hexadecimal": ("training:\n  epochs: 0x10\n", "mine.yaml:2", "'0x10'", "integer"),
    "underscores": ("training:\n  epochs: 1_000\n", "mine.yaml:2", "'1_000'", "integer"),
    "sexagesimal": ("training:\n  epochs: 1:30\n", "mine.yaml:2", "'1:30'", "integer"),
    "foreign digits": ("training:\n  epochs: ٣\n", "mine.yaml:2", "'٣'", "integer"),
    "list for integer": ("training:\n  epochs: [3]\n", "mine.yaml:2", "[3]", "integer"),
    "null for integer": ("training:\n  epochs:\n", "mine.yaml:2", "None", "integer"),
    "negative": ("training:\n  epochs: -5\n", "mine.yaml:2", "training.epochs", "-5"),
    "zero": ("training:\n  epochs: 0\n", "mine.yaml:2", "training.epochs", "0"),
    "zero rate": ("training:\n  learning_rate: 0\n", "mine.yaml:2", "training.learning_rate", "0"),
    "choice": ("training:\n  device: gpu\n", "mine.yaml:2", "training.device", "'gpu'", "auto, cpu, cuda"),
    "near choice": ("embeddings:\n  dtype: float61\n", "mine.yaml:2", "'float61'", "did you mean 'float16'"),
    "empty grid": ("grid: []\n", "mine.yaml:1", "grid", "[]"),
    "empty axis": (BLOCK.replace("[digits]", "[]"), "mine.yaml:3", "grid[0].datasets", "[]"),
    "text for axis": (
        BLOCK.replace("[digits]", "digits"),
        "mine.yaml:3",
        "grid[0].datasets",
        "'digits' is not a list: write [digits]",
    ),
    "nothing for axis": (BLOCK.replace("[digits]", ""), "mine.yaml:3", "grid[0].datasets", "None"),
    "map for list": ("grid:\n  one: {}\n", "mine.yaml:1", "grid", "list"),
    "number in list": (BLOCK.replace("[digits]", "[5]"), "mine.yaml:3", "grid[0].datasets[0]", "5", "string"),
    "repeated entry": (BLOCK.replace("[0]", "[0, 1, 0]"), "mine.yaml:8", "grid[0].seeds", "[0, 1, 0]", "twice"),
    "repeated name": (BLOCK.replace("[digits]", "[digits, digits]"), "mine.yaml:3", "grid[0].datasets", "twice"),
    "seed too large": (BLOCK.replace("[0]", "[4294967296]"), "mine.yaml:8", "grid[0].seeds[0]", "4294967296"),
    "negative seed": (BLOCK.replace("[0]", "[0, -1]"), "mine.yaml:8", "grid[0].seeds[1]", "-1"),
    "dataset": (BLOCK.replace("[digits]", "[cifar10, cifra100]"), "mine.yaml:3", "datasets[1]", "mean 'cifar100'"),
    "teacher": (BLOCK.replace("digits-vit-s", "digit-vits"), "mine.yaml:4", "teachers[0]", "mean 'digits-vit-s'"),
    "no teacher": (BLOCK.replace("digits-vit-s", "none"), "mine.yaml:4", "teachers[0]", "leave teachers out"),
    "student": (BLOCK.replace("tiny-32", "tiny-23"), "mine.yaml:5", "'tiny-23'", "mean 'tiny-32'"),
    "train type": (BLOCK.replace("embed-KD", "embed_KD"), "mine.yaml:6", "'embed_KD'", "mean 'embed-KD'"),
    "recipe": (BLOCK.replace("reference", "refrence"), "mine.yaml:7", "'refrence'", "mean 'reference'"),
    "hub id without commit": (BLOCK.replace("digits-vit-s", "owner/model"), "mine.yaml:4", "owner/model", "commit"),
    "hub id at a branch": (BLOCK.replace("digits-vit-s", "owner/model@main"), "mine.yaml:4", "main", "40 hex digits"),
    "source of nothing": ("sources:\n  cifra10: /x\n", "mine.yaml:2", "sources.cifra10", "mean 'cifar10'"),
    "source in capitals": ("sources:\n  ImageNet: /x\n", "sources", "'ImageNet'", "mean 'imagenet'"),
    "source of what takes none": ("sources:\n  digits: /x\n", "mine.yaml:2", "sources.digits", "takes no source"),
    "empty source": ("sources:\n  cifar10: ''\n", "mine.yaml:2", "sources.cifar10", "''"),
    "own teacher": ("teachers:\n  eyes: nowhere\n", "mine.yaml:2", "teachers.eyes", "unknown teacher 'nowhere'"),
    "own teacher of a known name": (
        "teachers:\n  digits-vit-s: vit-l16-in21k\n",
        "mine.yaml:2",
        "'digits-vit-s' is the name of a built-in teacher",
    ),
    "name near one's own": (
        BLOCK.replace("[digits-vit-s]", "[eye]") + "teachers:\n  eyes: vit-l16-in21k\n",
        "mine.yaml:4",
        "grid[0].teachers[0]: unknown teacher 'eye'",
        "did you mean 'eyes'?",
    ),
    "own teacher without output": ("teachers:\n  eyes: vit-l16-in21k:maen\n", "mine.yaml:2", "did you mean 'mean'"),
    "head of a teacher": (
        "teachers:\n  eyes:\n    model: vit-l16-in21k\n    head: mine\n",
        "mine.yaml:4",
        "teachers.eyes.head: 'mine' is not 'own' or 'own@DATASET'",
    ),
    "key of a teacher": ("teachers:\n  eyes: {model: vit-l16-in21k, haed: own}\n", "mine.yaml:2", "mean 'head'"),
    "teacher without model": ("teachers:\n  eyes: {head: own}\n", "mine.yaml:2", "'model' is a required key"),
    "head for a dataset": (
        "teachers:\n  eyes: {model: vit-l16-in21k, head: own@cifra10}\n",
        "mine.yaml:2",
        "teachers.eyes: head: no block of the grid has a dataset 'cifra10'",
    ),
    "teacher trained on a dataset": (
        "teachers:\n  eyes: trained:resnet10t@32?on=mars\n",
        "mine.yaml:2",
        "teachers.eyes: on=: no block of the grid has a dataset 'mars'",
    ),
    "teacher called none": (
        "teachers:\n  none: digits-vit-s\n",
        "mine.yaml:2",
        "'none' means that a run has no teacher",
    ),
    "head of a text tower": (
        f"teachers:\n  eyes: {{model: 'a/b@{'0' * 40}:text', head: own}}\n",
        "mine.yaml:2",
        "a text tower has no classifier",
    ),
    "own teacher in capitals": ("teachers:\n  Eyes: vit-l16-in21k\n", "mine.yaml", "invalid name 'Eyes'"),
    "folder of a teacher": (
        "teachers:\n  eyes: /no/such:mean\n",
        "mine.yaml:2",
        "teacher '/no/such': there is no such folder",
    ),
    "text of a trained teacher": (BLOCK.replace("-vit-s", "-vit-s:text"), "mine.yaml:4", "has no text tower"),
    "more centres than images": (
        "prototypes:\n  form: kmeans-11\n  per_class: 10\n",
        "mine.yaml:2",
        "prototypes.form: 'kmeans-11' makes 11 vectors per class of 10 images",
    ),
    "form": ("prototypes:\n  form: kmean-8\n", "mine.yaml:2", "did you mean 'kmeans-8'?"),
    "one of two teachers": (BLOCK.replace("digits-vit-s", "digits-vit-s+x"), "mine.yaml:4", "unknown teacher 'x'"),
    "timm": (BLOCK.replace("tiny-32", "'timm:resnet18@'"), "mine.yaml:5", "timm:resnet18@64"),
    "template": ('prototypes:\n  templates: ["a photo"]\n', "mine.yaml:2", "prototypes.templates[0]", "'a photo'"),
    "option of a source": ("sources:\n  digits2: 'hub:a/b@main'\n", "mine.yaml", "digits2"),
    "merge key": ("<<: {training: {epochs: 3}}\n", "mine.yaml:1", "'<<'"),
    "empty key": ("training: {epochs: 1}\n'': 3\n", "mine.yaml:2", "''"),
    "list as key": ("? [training]\n: 3\n", "mine.yaml:1", "plain word"),
    "empty file": ("", "mine.yaml", "empty"),
    "comments only": ("# training:\n", "mine.yaml", "empty"),
    "list at top": ("- training\n", "mine.yaml", "sequence"),
    "text at top": ("training\n", "mine.yaml", "scalar"),
    "tab": ("training:\n\tepochs: 3\n", "mine.yaml:2", "not YAML", "spaces, not tabs"),
    "open question": ("sources: {x: y?augment=crop}\n", "mine.yaml:1", "not YAML", "question mark in quotes"),
    "indentation": ("training:\n    epochs: 3\n  seed: 1\n", "mine.yaml:3", "not YAML", "not indented like"),
    "unclosed": ("training: {epochs: 3\n", "mine.yaml:2", "not YAML"),
    "two documents": ("training: {epochs: 3}\n---\ntraining: {epochs: 4}\n", "mine.yaml:2", "another document"),
    "control character": ("training: \x00\n", "mine.yaml", "not YAML"),
    "invalid UTF-8": (b"training: {epochs: \xff}\n", "mine.yaml", "UTF-8"),
    "UTF-16": ("training: {epochs: 3}\n".encode("utf-16"), "mine.yaml", "UTF-8"),
    "tag": ("training:\n  epochs: !!int 3\n", "mine.yaml:2", "tags"),
    "python tag": ("training: !!python/object/apply:os.getcwd []\n", "mine.yaml:1", "tags"),
    "anchor": ("training: &t\n  epochs: 3\n", "mine.yaml:1", "anchors"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    text, *parts = REFUSED[name]
    message = refusal(tmp_path, text)
    assert [part for part in parts if part not in message] == [], message
    assert message.startswith(str(tmp_path / "mine.yaml"))
    assert "\n" not in message


@pytest.mark.parametrize("number", ["1e-4", "1E-4", "1.e-4", "+1e-4", "0.0001", ".0001", "1.0e-04"])
def test_a_power_of_ten_is_a_number(number: str, tmp_path: Path) -> None:
    assert read(tmp_path, f"training:\n  learning_rate: {number}\n").training.learning_rate == 1e-4


def test_a_whole_number_is_a_number(tmp_path: Path) -> None:
    assert read(tmp_path, "training: {weight_decay: 1, epochs: 7}\n").training.weight_decay == 1


@pytest.mark.parametrize("name", ["no", "NO", "on", "0x10", "1_000", "1e3x", '"1e3"', "'true'", "2026-01-01"])
def test_a_word_stays_a_word(name: str, tmp_path: Path) -> None:
    config = read(tmp_path, f"sources:\n  cifar10: {name}\n")
    assert config.sources["cifar10"] == name.strip("\"'")


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    here, data = tmp_path / "mine.yaml", tmp_path / "data"
    for source, is_refused in (
        ("/no/such/folder", True),
        ("https://example.org/cifar", False),
        (str(tmp_path), False),
    ):
        here.write_text(f"sources:\n  cifar10: {source}\n")
        load([BASE, here])
        if is_refused:
            with pytest.raises(InputError, match=r"mine.yaml:2: sources.cifar10: /no/such/folder does not exist"):
                load([BASE, here], data=data)
        else:
            load([BASE, here], data=data)
    # What a later file replaces is not looked at; what is packed needs no source.
    here.write_text("sources:\n  imagenet: /no/such/folder\n")
    (tmp_path / "later.yaml").write_text(f"sources:\n  imagenet: {tmp_path}\n")
    load([BASE, here, tmp_path / "later.yaml"], data=data)
    packed, other = data / "datasets/imagenet", tmp_path / "other"
    packed.mkdir(parents=True)
    other.mkdir()
    fact = {"source": {"path": str(other), "from_here": "../../../other"}}
    write_manifest(packed, "dataset", {}, fact, {})
    load([BASE, here], data=data)
    with pytest.raises(InputError, match=r"later.yaml:2: sources.imagenet: .* was packed from .*/other, not from"):
        load([BASE, tmp_path / "later.yaml"], data=data)


def test_maps_merge_and_lists_replace(tmp_path: Path) -> None:
    config = read(tmp_path, BLOCK + "training: {epochs: 7}\n")
    assert [block.name for block in config.grid] == ["one"]
    assert config.training == load([BASE]).training.model_copy(update={"epochs": 7})


def test_the_command_line_comes_last(tmp_path: Path) -> None:
    # Snakemake's --config leaves every nested scalar as text.
    given_values = {"training": {"epochs": "9", "learning_rate": "1e-3"}, "sources": {"cifar10": "/no"}}
    config = read(tmp_path, "training: {epochs: 7, weight_decay: 0.5}\n", given_values)
    changes = {"epochs": 9, "learning_rate": 1e-3, "weight_decay": 0.5}
    assert config.training == load([BASE]).training.model_copy(update=changes)
    assert type(config.training.epochs) is int
    assert config.sources == {"cifar10": "/no"}


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"training": {"epoch": "3"}}, ("training.epoch", "'epoch'", "did you mean 'epochs'")),
        ({"epochs": 3}, ("epochs", "unknown key")),
        ({"training": {"epochs": "3.5"}}, ("training.epochs", "3.5", "integer")),
        ({"training": {"epochs": "nan"}}, ("training.epochs", "nan", "finite")),
        ({"training": float("nan")}, ("training", "nan is not a map")),
        ({"training": None}, ("training", "None is not a map")),
    ],
)
def test_a_bad_override_is_refused(overrides: dict[str, Any], parts: tuple[str, ...], tmp_path: Path) -> None:
    message = refusal(tmp_path, "training: {}\n", overrides)
    assert message.startswith("--config: ")
    assert all(part in message for part in parts), message


def test_a_folder_of_images_may_stand_in_another_file_than_its_source(tmp_path: Path) -> None:
    grid = BLOCK.replace("[digits]", "[flowers]")
    assert read(tmp_path, grid, {"sources": {"flowers": "/x"}}).grid[0].datasets == ["flowers"]
    assert "did you mean" not in refusal(tmp_path, grid)
    assert "'flowers'" in refusal(tmp_path, grid)


def test_merging_leaves_the_files_values_alone(tmp_path: Path) -> None:
    first = load([BASE])
    read(tmp_path, "training: {epochs: 7}\nsources: {cifar10: /x}\n")
    assert load([BASE]) == first


def test_an_incomplete_config_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "alone.yaml"
    path.write_text("training: {epochs: 3}\n")
    with pytest.raises(InputError, match=r"merged config.*'grid' is a required"):
        load([path])


def test_lines_are_those_of_the_keys(tmp_path: Path) -> None:
    path = tmp_path / "lines.yaml"
    path.write_text("\n" + BLOCK)
    lines = YamlSource(path).lines
    assert lines[("grid",)] == 2
    assert lines[("grid", 0)] == 3
    assert lines[("grid", 0, "seeds")] == 9


WORDS = st.sampled_from(
    ["grid", "training", "epochs", "sources", "datasets", "teachers", "seeds", "digits", "no", "1e-4", "010", "~", "x"]
)
SCALARS = WORDS | st.integers() | st.floats() | st.booleans() | st.none() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda child: st.lists(child, max_size=4) | st.dictionaries(WORDS | st.text(max_size=4), child, max_size=4),
    max_leaves=12,
)


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(overrides=st.dictionaries(WORDS, VALUES, max_size=3))
def test_any_override_gives_a_config_or_an_input_error(overrides: dict[str, Any], tmp_path: Path) -> None:
    with contextlib.suppress(InputError):
        assert isinstance(read(tmp_path, "training: {}\n", overrides), Config)
