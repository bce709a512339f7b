"""Row G11: what a sweep says where its settings are equally good."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from clipkd.plugins.recipes import setting_name
from clipkd.spec.grid import expand
from clipkd.spec.settings import Config
from clipkd.tables.grouping import AXES, axes_of, over_seeds
from clipkd.tables.settings import shown, with_choices
from tests.faults.checks import fault, replaced
from tests.synthetic import demo

SWEEPS, TRUE, SPREAD = 60, 0.7, 0.01
"""Simulated sweeps; the accuracy of every student, and the deviation of what is measured of it on either split."""


def config() -> Config:
    mine = {"base": "corrected", "temperature": [1, 2, 3, 4, 5, 6, 7, 8]}
    block = demo()["grid"][0] | {"recipes": ["mine"], "train_types": ["supervised"], "seeds": [0, 1, 2]}
    return Config.model_validate({"grid": [block], "recipes": {"mine": mine}})


def measured(cells, generator: np.random.Generator) -> pd.DataFrame:
    """Return rows of the frame, of students that are equally good."""
    rows = [dict(zip(AXES, axes_of(cell), strict=True)) | {"seed": cell.seed, "epochs": 9} for cell in cells]
    found = pd.DataFrame(rows).assign(state="finished", is_headline=True, teacher_source="none", is_cost_run=False)
    for name in ("top1", "validation_top1"):
        found[name] = generator.normal(TRUE, SPREAD, len(found))
    return found


def by_test(runs: pd.DataFrame) -> str:
    return str(runs.groupby("recipe").top1.mean().idxmax())


@pytest.mark.slow
@fault("G11", **{"validation-alone": replaced("clipkd.tables.settings.best", by_test)})
def test_the_chosen_of_equal_settings_is_not_found_better_than_it_is() -> None:
    found, generator, reached = config(), np.random.default_rng(0), []
    cells = expand(found)[0]
    for _ in range(SWEEPS):
        rows = shown(with_choices(measured(cells, generator), found, cells))
        assert set(rows.recipe) == {"mine"}
        assert len(rows) == 3
        reached.append(rows.top1.mean())
    error = SPREAD / (3 * SWEEPS) ** 0.5
    assert np.mean(reached) == pytest.approx(TRUE, abs=4 * error)


def counted_as_complete(*arguments) -> pd.DataFrame:
    return over_seeds(*arguments).assign(n_asked=lambda rows: rows.n)


@fault("G11", **{"all-seeds": replaced("clipkd.tables.settings.over_seeds", counted_as_complete)})
def test_a_setting_that_failed_with_a_seed_is_not_chosen_by_those_that_are_left() -> None:
    found = config()
    cells = expand(found)[0]
    rows = measured(cells, np.random.default_rng(0))
    lucky = rows.recipe == setting_name("mine", {"temperature": 5})
    rows.loc[lucky, "validation_top1"] = [0.99, 0.99, np.nan]
    rows.loc[lucky & rows.validation_top1.isna(), "state"] = "failed"
    assert not set(shown(with_choices(rows, found, cells)).setting) & {"mine.temperature-5"}
