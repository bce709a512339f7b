"""Recipes of a config's own, and those that the command line names: settings, names, identities and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipkd.cli import parser
from clipkd.cli.verbs.train import cells_of, numbers_of
from clipkd.core.errors import InputError
from clipkd.plugins import recipes
from clipkd.spec import chains
from clipkd.spec.config import load
from clipkd.spec.flags import run_flags
from clipkd.spec.identities import run_identity
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Config

GRID = {
    "name": "sweep",
    "datasets": ["digits"],
    "teachers": ["digits-vit-s"],
    "students": ["tiny-32"],
    "train_types": ["vanilla"],
    "recipes": ["mine"],
    "seeds": [0],
}
HUNDREDS = list(range(100, 300))
SWEEP = {"base": "corrected", "learning_rate": [3e-4, 6e-4], "temperature": [1, 2], "weight_decay": 0.06}


def config(mine: dict, tmp_path: Path, recipe: str = "mine", **block) -> Config:
    file = tmp_path / "sweep.yaml"
    grid = [GRID | {"recipes": [recipe]} | block]
    file.write_text(json.dumps({"recipes": mine, "grid": grid, "training": {"epochs": 7, "weight_decay": 0.2}}))
    return load([file])


def test_lists_are_axes_and_values_replace_those_of_the_base_and_of_training(tmp_path):
    mine = config({"mine": SWEEP}, tmp_path)
    found = {cell.folder.partition("/")[0]: cell for cell in chains.expand(mine)[0]}
    assert list(found) == [
        "mine.temperature-1.learning_rate-0.0003",
        "mine.temperature-1.learning_rate-0.0006",
        "mine.temperature-2.learning_rate-0.0003",
        "mine.temperature-2.learning_rate-0.0006",
    ]
    cell = found["mine.temperature-2.learning_rate-0.0003"]
    switches, base = cell.recipe_spec.switches(), recipes.get("corrected").switches()
    assert switches == base | {"temperature": 2.0, "name": "mine.temperature-2.learning_rate-0.0003"}
    numbers = cell.hyperparameters(mine)
    assert (numbers.epochs, numbers.learning_rate, numbers.weight_decay, numbers.batch_size) == (7, 3e-4, 0.06, 64)


FEW = {"base": "corrected", "temperature": [1, 2], "classification_weight": [0.25, 1], "labelled_share": [0.125, 0.5]}


@pytest.mark.parametrize(("mine", "labels"), [(SWEEP, ["all"]), (FEW, [100, "all"])])
def test_the_command_that_a_rule_calls_trains_the_same_run(mine, labels, tmp_path):
    mine = config({"mine": mine}, tmp_path, labels=labels)
    found = chains.expand(mine)[0]
    assert len({cell.folder for cell in found}) == {1: 4, 2: 16}[len(labels)]
    for cell in found:
        options = parser().parse_args(["train", *map(str, run_flags(mine, [cell]))])
        assert cells_of(options) == [cell]
        assert numbers_of(options, cell.recipe) == cell.hyperparameters(mine)


def test_a_recipe_based_on_another_key_has_its_values_and_one_value_ends_its_axis(tmp_path):
    both = {"other": SWEEP, "mine": {"base": "other", "temperature": 4, "epochs": 3}}
    found = chains.expand(config(both, tmp_path))[0]
    assert [cell.folder.partition("/")[0] for cell in found] == [
        "mine.learning_rate-0.0003",
        "mine.learning_rate-0.0006",
    ]
    assert {(cell.recipe_spec.temperature, cell.epochs) for cell in found} == {(4.0, 3)}


def identities(found: Config) -> dict[str, dict]:
    layout = Layout.of(found)
    return {c.folder: run_identity(c, c.hyperparameters(found), layout, "") for c in chains.expand(found)[0]}


def test_a_longer_axis_keeps_the_runs_that_are_there_and_another_value_does_not(tmp_path):
    before = identities(config({"mine": SWEEP}, tmp_path))
    longer = identities(config({"mine": SWEEP | {"temperature": [2.0, 1, 4]}}, tmp_path))
    assert {folder: longer[folder] for folder in before} == before
    assert len(longer) == 6
    for other in ({"weight_decay": 0.05}, {"batch_size": 32}, {"distillation_weight": 0.7}, {"base": "modern-flip"}):
        changed = identities(config({"mine": SWEEP | other}, tmp_path))
        assert changed.keys() == before.keys()
        assert all(changed[folder] != before[folder] for folder in before)


def test_a_recipe_that_equals_a_built_in_one_has_runs_of_its_own(tmp_path):
    (mine,) = identities(config({"mine": {"base": "corrected"}}, tmp_path)).items()
    (built_in,) = identities(config({}, tmp_path, recipe="corrected")).items()
    assert mine[0] == built_in[0].replace("corrected/", "mine/")
    assert mine[1]["recipe"] == built_in[1]["recipe"] | {"name": "mine"}
    assert built_in[1]["cell"]["recipe"] == "corrected"


def test_a_setting_teaches_as_a_run_of_the_grid(tmp_path):
    file = tmp_path / "chain.yaml"
    run = "mine.temperature-2.learning_rate-0.0003/digits/tiny-32/digits-vit-s/vanilla/seed0"
    grid = [GRID, GRID | {"name": "next", "recipes": ["corrected"], "teachers": ["first"]}]
    file.write_text(json.dumps({"recipes": {"mine": SWEEP}, "teachers": {"first": f"run:{run}"}, "grid": grid}))
    (taught,) = [cell for cell in chains.expand(load([file]))[0] if cell.recipe == "corrected"]
    assert taught.teacher_spec is not None
    assert taught.teacher_spec.title == "first"


@pytest.mark.parametrize(
    ("mine", "words"),
    [
        ({"mine": {"base": "corected"}}, "recipes.mine: unknown recipe 'corected'; did you mean 'corrected'?"),
        ({"mine": {"base": "corrected", "temprature": 2}}, "unknown key 'temprature'; did you mean 'temperature'?"),
        ({"mine": {"base": "corrected", "temperature": [2, "two"]}}, "mine.temperature[1]: 'two' is not a number"),
        ({"mine": {"base": "corrected", "temperature": 0}}, "mine.temperature: 0 must be greater than 0"),
        ({"mine": {"base": "corrected", "temperature": [2, 2.0]}}, "lists 2.0 twice"),
        ({"mine": {"base": "corrected", "epochs": []}}, "must have at least 1 entries"),
        ({"mine": {"base": "corrected", "drop_last": 1}}, "mine.drop_last: 1 is not true or false"),
        ({"mine": {"base": "corrected", "augment": "crp"}}, "'crp' is not one of flip, crop"),
        ({"mine": {"base": "corrected", "protocol": 3}}, "unknown key 'protocol'"),
        ({"mine": {"base": "corrected", "prototype_form": "unit-men"}}, "unknown prototype form 'unit-men'"),
        (
            {"mine": {"base": "corrected", "prototype_form": "kmeans-200"}},
            "makes 200 vectors per class of 100",
        ),
        ({"mine": {"base": "reference", "floor": 0.1}}, "floor would have no effect with schedule 'constant'"),
        ({"mine": {"base": "corrected", "drop_path": 0.1}}, "drop_path belongs to augment 'full'"),
        (
            {"mine": {"base": "corrected", "warmup_fraction": 0, "warmup_start": 0.1}},
            "warmup_start has no effect without warmup_fraction",
        ),
        ({"mine": {"temperature": 2}}, "recipes.mine: 'base' is a required key"),
        ({"corrected": {"base": "reference"}}, "'corrected' is the name of a built-in recipe"),
        ({"mine": {"base": "other"}, "other": {"base": "mine"}}, "in a circle: mine -> other -> mine"),
        ({"mine": {"base": "corrected", "epochs": HUNDREDS, "batch_size": HUNDREDS}}, "40,000 combinations"),
        ({"Mine": {"base": "corrected"}}, "recipes.Mine: invalid name 'Mine'"),
    ],
)
def test_what_can_not_be_a_recipe_is_refused_with_file_line_and_key(mine, words, tmp_path):
    with pytest.raises(InputError) as error:
        config(mine, tmp_path, recipe="corrected")
    assert words in str(error.value)
    assert str(error.value).startswith(f"{tmp_path / 'sweep.yaml'}:")


def test_a_form_of_prototypes_that_the_config_replaces_is_refused(tmp_path):
    mine = {"recipes": {"mine": {"base": "corrected", "prototype_form": "gaussian"}}, "grid": [GRID]}
    (tmp_path / "form.yaml").write_text(json.dumps(mine | {"prototypes": {"form": "mean"}}))
    with pytest.raises(InputError, match=r"mine.prototype_form: prototypes.form, 'mean', replaces"):
        load([tmp_path / "form.yaml"])


@pytest.mark.parametrize(
    ("name", "prototypes", "said"),
    [
        ("corrected?prototype_form=mean", {"form": "gaussian"}, "'gaussian', replaces that of every recipe"),
        ("corrected?prototype_form=meen", {}, "did you mean 'mean'"),
        ("corrected?prototype_form=kmeans-200", {"per_class": 100}, "makes 200 vectors per class of 100 images"),
    ],
)
def test_a_form_within_a_recipe_s_name_is_checked_as_well(name, prototypes, said, tmp_path):
    grid = [GRID | {"recipes": [name], "train_types": ["embed-KD"]}]
    (tmp_path / "form.yaml").write_text(json.dumps({"grid": grid, "prototypes": prototypes}))
    with pytest.raises(InputError, match=r"grid\[0\].recipes\[0\].*" + said):
        load([tmp_path / "form.yaml"])


def test_the_form_of_all_prototypes_has_one_spelling(tmp_path):
    (tmp_path / "form.yaml").write_text(
        json.dumps({"grid": [GRID | {"recipes": ["corrected"]}], "prototypes": {"form": "Unit-Mean"}})
    )
    assert Layout.of(load([tmp_path / "form.yaml"])).form == "unit-mean"


def test_epochs_of_a_block_and_of_its_recipe_are_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"a block of the grid sets epochs to 5, its recipe 'mine' to 3: leave out one"
    ):
        chains.expand(config({"mine": {"base": "corrected", "epochs": 3}}, tmp_path, epochs=5))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("corrected?", "write ?SWITCH=VALUE"),
        ("corrected?temprature=2", "unknown switch 'temprature'; did you mean 'temperature'?"),
        ("corrected?temperature=hot", "temperature: 'hot' is not a number"),
        ("corrected?temperature=nan", "temperature: 'nan' is not a finite number"),
        ("corrected?temperature=1&temperature=2", "'temperature' is given twice"),
        ("modern=corrected", "'modern' is the name of a built-in recipe"),
        ("a/b=corrected", "recipe name 'a/b'"),
        ("=corrected?temperature=2&", "write ?SWITCH=VALUE"),
        ("=corrected?temperature=2", "a name stands before the ="),
    ],
)
def test_a_name_on_the_command_line_is_refused_in_words(name, words):
    with pytest.raises(InputError) as error:
        recipes.get(name)
    assert words in str(error.value)


def test_one_recipe_has_one_spelling():
    names = ["Corrected?learning_rate=6e-4&temperature=2.0", "corrected?temperature=2&learning_rate=0.0006"]
    assert {recipes.spelled(name) for name in names} == {"corrected?temperature=2&learning_rate=0.0006"}
    assert {recipes.get(name).name for name in names} == {"corrected.temperature-2.learning_rate-0.0006"}
    assert recipes.spelled("Corrected") == "corrected"


def test_an_option_that_contradicts_the_recipe_is_refused():
    line = ["train", "--dataset-name", "digits", "--train-type", "supervised", "--recipe", "corrected?epochs=3"]
    assert numbers_of(parser().parse_args(line), "corrected?epochs=3").epochs == 3
    with pytest.raises(InputError, match="sets epochs to 3, --epochs says 4: leave out one"):
        numbers_of(parser().parse_args([*line, "--epochs", "4"]), "corrected?epochs=3")


def test_switches_of_an_own_recipe_are_given_under_recipes(tmp_path):
    mine = {"mine": {"base": "corrected", "temperature": [2, 4]}}
    with pytest.raises(InputError, match="'mine' is one of `recipes`: give its switches there, or in another"):
        chains.expand(config(mine, tmp_path, recipe="mine?drop_path=0.1"))
