"""The table of recipes side by side."""

from __future__ import annotations

import statistics

import pytest
from scipy import stats

from clipkd.tables import by_recipe, table_stems
from clipkd.tables.results import Results
from tests.synthetic import demo, write_study

SEEDS = [0, 1, 2, 3]
LEVEL = {"corrected": 0.80, "modern": 0.83, "modern-crop": 0.801}
NOISE = {0: 0.0, 1: 0.004, 2: 0.001, 3: 0.003}


def level(cell) -> float:
    name = cell.recipe_spec.name
    return LEVEL.get(name, 0.7) + NOISE[cell.seed if name == "corrected" else (cell.seed + 1) % 4]


def collected(folder, recipes: list[str], train_types: list[str]) -> Results:
    config = demo()
    (block,) = config["grid"][:1]
    block |= {"recipes": recipes, "teachers": ["digits-vit-s"], "seeds": SEEDS, "train_types": train_types}
    config["grid"] = [block]
    study = write_study(config, folder, level)
    return Results.collect(study.config, study.results / "runs", study.data)


def test_each_recipe_is_paired_by_seed_with_the_first(tmp_path):
    results = collected(tmp_path, ["corrected", "modern", "modern-crop"], ["supervised", "embed-KD"])
    assert "recipes" in table_stems(results.config)
    found = {(row["train_type"], row["recipe"]): row for row in by_recipe.table(results).records}
    assert len(found) == 2 * 3
    p = []
    for train_type in ("supervised", "embed-KD"):
        first = found[train_type, "corrected"]
        assert (first["against"], first["difference_points"], first["verdict"]) == (None, None, None)
        for recipe in ("modern", "modern-crop"):
            cells = {(one.recipe_spec.name, one.seed): 100 * level(one) for one in results.cells}
            each = [cells[recipe, seed] - cells["corrected", seed] for seed in SEEDS]
            half = stats.t.ppf(0.975, 3) * statistics.stdev(each) / 2
            row = found[train_type, recipe]
            assert row["against"] == "corrected"
            assert (row["difference_points"], row["shown_from_points"]) == pytest.approx((statistics.mean(each), half))
            assert (row["low_points"], row["high_points"]) == pytest.approx(
                (statistics.mean(each) - half, statistics.mean(each) + half)
            )
            p.append(stats.ttest_1samp(each, 0).pvalue)
    # Holm's method by hand: the smallest times 4, the next times 3, never falling.
    order, highest, holm = sorted(range(4), key=lambda index: p[index]), 0.0, [0.0] * 4
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (4 - place) * p[index]))
        holm[index] = highest
    rows = [
        found[train_type, recipe] for train_type in ("supervised", "embed-KD") for recipe in ("modern", "modern-crop")
    ]
    assert [row["p_holm"] for row in rows] == pytest.approx(holm)
    assert [row["verdict"] for row in rows] == ["better", "no difference shown"] * 2


def test_recipes_that_choose_another_epoch_are_marked(tmp_path):
    results = collected(tmp_path, ["reference", "corrected"], ["supervised"])
    made = by_recipe.table(results)
    words = "corrected at the validation-selected epoch, reference at the last epoch"
    assert [row["unlike"] for row in made.records] == ["", words]
    assert [row[3 + 1].text for row in made.rows] == ["reference", "corrected ‡"]
    assert f"‡: {words}." in made.notes


def test_a_grid_of_one_recipe_has_no_such_table(tmp_path):
    assert "recipes" not in table_stems(collected(tmp_path, ["corrected"], ["supervised", "embed-KD"]).config)
