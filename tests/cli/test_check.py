"""`clipkd check`: what it says of a grid before anything runs."""

from __future__ import annotations

import pytest

from clipkd.cli.verbs.check import untested
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
