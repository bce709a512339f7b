"""`clipkd check`: what it says of a grid before anything runs."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from clipkd.cli.verbs.check import BASE, DATA, add_options, files_of, run, untested, unused
from clipkd.core.errors import InputError
from clipkd.plugins import datasets
from clipkd.spec import controls
from clipkd.spec.grid import expand
from clipkd.spec.settings import Config
from tests.synthetic import small


@pytest.mark.parametrize(
    ("labels", "beside", "lacking"),
    [
        ("all", ["supervised", "vanilla-permuted"], "vanilla-within-class"),
        ("all", ["supervised", "vanilla-within-class"], None),
        (100, ["supervised", "vanilla-permuted"], None),
        (100, ["supervised"], "vanilla-permuted"),
        (100, ["vanilla-permuted"], "supervised"),
        (100, [], "supervised, vanilla-permuted"),
    ],
)
def test_a_grid_without_what_decides_is_told_so(labels, beside, lacking):
    """With all labels a control exchanges targets within classes; with few, where classes are not known, among all."""
    config = small()
    types = ["vanilla", *beside]
    config["grid"] = [config["grid"][0] | {"train_types": types, "labels": [labels]}]
    said = untested(expand(Config.model_validate(config))[0])
    assert [f"the grid lacks {lacking}, so tables" in line for line in said] == ([True] if lacking else [])


def test_rows_without_what_others_have_are_named():
    config = small()
    block = config["grid"][0] | {"train_types": ["supervised", "vanilla", "vanilla-within-class"]}
    other = block | {"name": "other", "students": ["small-32"], "train_types": ["vanilla"]}
    config["grid"] = [block, other]
    (said,) = untested(expand(Config.model_validate(config))[0])
    assert "2 rows of the tables lack supervised, vanilla-within-class for vanilla, which others have: small-32" in said


def test_check_elsewhere_says_where_to_go(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"there is no config/config.yaml here: go to the project's folder"):
        run(argparse.Namespace(base=BASE, files=[], configfile=[]))


def test_a_grid_without_a_teacher_need_not_name_one():
    block = {name: value for name, value in small()["grid"][0].items() if name != "teachers"}
    config = small() | {"grid": [block | {"train_types": ["supervised"]}]}
    assert {cell.teacher for cell in expand(Config.model_validate(config))[0]} == {"none"}
    config["grid"][0]["train_types"] = ["supervised", "vanilla"]
    with pytest.raises(InputError, match="train type 'vanilla' needs a teacher: name one under teachers"):
        expand(Config.model_validate(config))


def test_a_folder_with_unlabelled_images_asks_for_the_control_that_it_can_train(tmp_path, monkeypatch):
    """Before it is packed, too: `check` must not advise what it refuses after packing."""
    monkeypatch.chdir(tmp_path)
    for name in ("unlabeled", "cats", "dogs"):
        (tmp_path / "photos/train" / name).mkdir(parents=True)
        (tmp_path / "photos/train" / name / "1.png").touch()
    config = small() | {"sources": {"photos": "photos"}}
    types, replayed = ["supervised", "vanilla"], {"datasets": ["photos"], "teacher_source": "replayed"}
    grid = config["grid"][0] | replayed | {"train_types": types}
    found = Config.model_validate(config | {"grid": [grid]})
    (said,) = untested(expand(found)[0])
    assert "lacks vanilla-permuted," in said
    found = Config.model_validate(config | {"grid": [grid | {"train_types": ["supervised", "vanilla-within-class"]}]})
    with pytest.raises(InputError, match="use 'vanilla-permuted'"):
        controls.check(expand(found)[0], found, DATA)


def test_a_file_that_labels_some_images_only_counts_as_unlabelled_images_do(tmp_path):
    train = tmp_path / "photos/train"
    train.mkdir(parents=True)
    for name in ("1", "2", "3"):
        (train / f"{name}.png").touch()
    lines = "file,label\n1.png,cat\n2.png,dog\n"
    spec = datasets.get("photos", str(train.parent))
    for more, is_in_part in (("", True), ("3.png,dog\n", False)):
        (train / "labels.csv").write_text(lines + more)
        assert spec.leaves_unlabelled(str(train.parent)) == is_in_part


@pytest.mark.parametrize("words", [["a.yaml", "b.yaml"], ["--configfile", "a.yaml", "b.yaml"]])
def test_files_may_be_named_as_for_snakemake(words):
    parser = argparse.ArgumentParser()
    add_options(parser)
    assert files_of(parser.parse_args(words)) == [BASE, Path("a.yaml"), Path("b.yaml")]


def test_teachers_and_recipes_that_no_block_uses_are_named():
    config = small()
    config["teachers"] = {"mine": "digits-vit-s", "spare": "digits-vit-s", "both": "digits-vit-xs"}
    config["recipes"] = {
        "wide": {"base": "corrected", "temperature": 4.0},
        "wider": {"base": "wide", "temperature": 8.0},
        "idle": {"base": "wider", "temperature": 9.0},
    }
    config["grid"][0] |= {"teachers": ["mine", "digits-vit-s+both"], "recipes": ["wider"]}
    assert unused(Config.model_validate(config)) == ["no block of the grid uses teachers.spare, recipes.idle"]
    config["grid"][0] |= {"teachers": ["mine", "spare+both"], "recipes": ["idle"]}
    assert unused(Config.model_validate(config)) == []
