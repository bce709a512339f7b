"""Means, deviations, paired differences and their sentences, against numbers worked out by hand."""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import replace

import numpy as np
import pytest

from clipkd.core.errors import DataError
from clipkd.runs.correct import CORRECT, packed, unpacked
from clipkd.spec.cells import Cell
from clipkd.tables import teacher_matters
from clipkd.tables.arms import Arm, arms, axes_of
from clipkd.tables.comparisons import compare, comparisons
from clipkd.tables.results import Results
from clipkd.tables.summary import holm, paired_by_image, paired_difference, summarise, variance, verdict
from tests.synthetic import TEST, Study, demo, seal, top1, write_study

T_2, T_3 = 12.706204736432095, 4.302652729911275
"""Quantile 0.975 of Student's t with 1 and 2 degrees of freedom, from a table."""


def test_deviation_is_the_sample_one():
    # 1, 2, 6: mean 3, squares 4 + 1 + 9 = 14, 14 / 2 = 7
    summary = summarise([6.0, 1.0, 2.0])
    assert summary.mean == 3
    assert summary.deviation == pytest.approx(7**0.5, rel=1e-15)
    assert summary.n == 3


def test_one_number_has_no_deviation():
    assert math.isnan(summarise([4.0]).deviation)
    assert summarise([]).n == 0


def test_summary_does_not_depend_on_the_order():
    numbers = [0.1, 0.7, 0.3, 1e-17, 0.9999]
    assert summarise(numbers) == summarise(numbers[::-1])


def test_interval_of_three_seeds():
    # differences 1, 2, 4.5: mean 2.5, squares 2.25 + 0.25 + 4 = 6.5, s = sqrt(3.25)
    found = paired_difference({0: 11.0, 1: 12.0, 2: 14.5}, {0: 10.0, 1: 10.0, 2: 10.0})
    half = T_3 * 3.25**0.5 / 3**0.5
    assert found.mean == pytest.approx(2.5)
    assert (found.low, found.high) == (pytest.approx(2.5 - half), pytest.approx(2.5 + half))
    assert found.half == pytest.approx(half)
    t = 2.5 / (3.25**0.5 / 3**0.5)
    assert found.p == pytest.approx(1 - t / (2 + t * t) ** 0.5)  # Student's distribution with 2 degrees of freedom


@pytest.mark.parametrize(
    ("p", "corrected"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),  # 3 x 0.01, 2 x 0.03, then 1 x 0.04, which may not be below it
        ([0.5, 0.4], [0.8, 0.8]),
        ([0.7, 0.6, 0.02], [1.0, 1.0, 0.06]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holm_multiplies_by_the_number_of_p_values_not_yet_passed(p, corrected):
    assert holm(p) == pytest.approx(corrected)


def test_interval_of_two_seeds():
    found = paired_difference({0: 10.0, 1: 10.2}, {0: 5.0, 1: 5.0})
    half = T_2 * 0.1 * 2**0.5 / 2**0.5  # s = 0.2 / sqrt(2)
    assert (found.low, found.high) == (pytest.approx(5.1 - half), pytest.approx(5.1 + half))
    assert verdict(found, found.p) == "better"
    other = paired_difference({0: 5.0, 1: 5.0}, {0: 10.0, 1: 10.2})
    assert verdict(other, other.p) == "worse"
    assert verdict(other, 0.06) == "no difference shown", "by the p-value that is given: the corrected one"
    assert verdict(other, None) == "nothing can be concluded"
    assert verdict(None, None) == "not compared"


def test_pairing_is_by_seed_and_takes_the_common_ones():
    found = paired_difference({0: 1.0, 1: 5.0, 7: 100.0}, {1: 1.0, 0: 0.5, 9: 3.0})
    assert found.n == 2
    assert found.mean == pytest.approx((0.5 + 4.0) / 2)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize("seeds", [1, 2])
def test_no_interval_from_one_seed_or_from_equal_differences(seeds):
    found = paired_difference(dict.fromkeys(range(seeds), 3.0), dict.fromkeys(range(seeds), 1.0))
    assert (found.mean, found.low, found.high) == (2.0, None, None)
    assert found.half is None


def test_equal_differences_of_three_seeds_have_an_interval_over_images():
    """Three seeds, four images; the first method is right about one image more, another one for each seed.

    Seeds: all means are 1/4. Images: means 1/3, 1/3, 1/3, 0 have the variance 1/12 - 1/16 = 1/48. What is left: three
    2/3, six -1/3 and three 0, mean square 1/6, over (n - 1) N = 8: 1/48, which is more than 1/48 / 4 of the images.
    """
    first = {seed: np.arange(4) == seed for seed in range(3)}
    second = dict.fromkeys(range(3), np.zeros(4, bool))
    found = paired_by_image(first, second)
    half = T_3 * 48**-0.5
    assert (found.mean, found.low, found.high) == (0.25, pytest.approx(0.25 - half), pytest.approx(0.25 + half))
    assert (found.n, found.over) == (3, "seeds and images")
    assert paired_difference({0: 25.0, 1: 25.0, 2: 25.0}, {0: 0.0, 1: 0.0, 2: 0.0}).p is None  # without images


def test_the_same_images_correct_give_no_interval():
    same = {seed: np.arange(6) % 2 == 0 for seed in range(3)}
    found = paired_by_image(same, same)
    assert (found.mean, found.low, found.p) == (0.0, None, None)
    assert paired_by_image({0: same[0]}, {0: ~same[0]}).p is None  # one seed
    assert paired_by_image({0: same[0]}, {1: same[0]}) is None


def test_variance_over_seeds_and_images_is_that_of_resampling_them():
    generator = np.random.default_rng(0)
    n, images, draws = 5, 40, 40_000
    differences = generator.normal(size=(n, images)) + generator.normal(size=(n, 1)) / 3 + generator.normal(size=images)
    seeds = generator.multinomial(n - 1, np.full(n, 1 / n), size=draws) / (n - 1)
    drawn = generator.multinomial(images, np.full(images, 1 / images), size=draws) / images
    of_seeds, of_images = (seeds @ differences.mean(axis=1)).var(), (drawn @ differences.mean(axis=0)).var()
    both = np.einsum("ks,si,ki->k", seeds, differences, drawn, optimize=True).var() - of_seeds - of_images
    assert both > 0
    wanted = max(of_seeds, both) + max(of_images, both) - both
    assert variance(differences) == pytest.approx(wanted, rel=0.05)
    # Control: the plain bootstrap of both ways counts their common part three times.
    assert of_seeds + of_images + both > 1.1 * wanted


def study_of(tmp_path, levels: dict[tuple[str, int], float], seeds: list[int], types: list[str]) -> Results:
    """Return results of one teacher and recipe whose last top-1 is as `levels` says."""
    config = demo()
    axes = {"teachers": ["digits-vit-s"], "recipes": ["reference"], "seeds": seeds, "train_types": types}
    config["grid"] = [config["grid"][0] | axes]
    study = write_study(config, tmp_path, lambda cell: levels[cell.train_type, cell.seed])
    return Results.collect(study.config, study.results / "runs", study.data)


def sentences(results: Results) -> dict[tuple[str, str], str]:
    return {(one.method, one.against): one.sentence for one in comparisons(results)[0]}


def test_sentences(tmp_path):
    gains = {"supervised": (0.0, 0.0, 0.0), "embed-KD": (0.010, 0.020, 0.006), "embed-KD-random": (0.05, 0.051, 0.049)}
    levels = {(name, seed): 0.8 + gain for name, by_seed in gains.items() for seed, gain in enumerate(by_seed)}
    found = sentences(study_of(tmp_path, levels, [0, 1, 2], list(gains)))
    # differences 1.0, 2.0, 0.6: mean 1.2, squares 0.04 + 0.64 + 0.36 = 1.04, s = sqrt(0.52), half width 1.791
    assert found["embed-KD", "supervised"] == (
        "embed-KD is 1.20 points above supervised (95 % CI −0.59 to 2.99, n = 3 seeds; Holm's p = 0.10): "
        "no difference shown."
    )
    # differences 5.0, 5.1, 4.9: s = 0.1, half width 0.248; p = 0.00013, one of the two comparisons with a control
    assert found["embed-KD-random", "supervised"] == (
        "embed-KD-random is 5.00 points above supervised (95 % CI 4.75 to 5.25, n = 3 seeds; Holm's p < 0.001): better."
    )
    # differences -4.0, -3.1, -4.3: mean -3.8, squares 0.04 + 0.49 + 0.25 = 0.78, s = sqrt(0.39), half width 1.551
    assert found["embed-KD", "embed-KD-random"] == (
        "embed-KD is 3.80 points below embed-KD-random (95 % CI of the difference −5.35 to −2.25, n = 3 seeds; "
        "Holm's p = 0.009): worse."
    )


def test_one_seed_says_so(tmp_path):
    levels = {("supervised", 0): 0.8, ("embed-KD", 0): 0.83}
    found = sentences(study_of(tmp_path, levels, [0], ["supervised", "embed-KD"]))
    assert found["embed-KD", "supervised"] == (
        "embed-KD is 3.00 points above supervised (n = 1 seed, so no interval): nothing can be concluded."
    )


def test_an_interval_without_0_is_no_verdict_among_many_comparisons(tmp_path):
    """Differences 1.0, 1.5, 2.0: p = 0.035 alone (t = 5.2, 2 degrees of freedom), 0.11 as one of three."""
    gains = {"supervised": (0.0, 0.0, 0.0), "embed-KD": (0.010, 0.015, 0.020), "vanilla": (0.010, 0.0, -0.005)}
    levels = {(name, seed): 0.8 + gain for name, by_seed in gains.items() for seed, gain in enumerate(by_seed)}
    found = comparisons(study_of(tmp_path, levels, [0, 1, 2], list(gains)))[0]
    (one,) = [row for row in found if (row.method, row.against) == ("embed-KD", "supervised")]
    assert one.difference.low > 0
    assert one.verdict == "no difference shown"
    assert one.sentence.endswith("Holm's p = 0.11): no difference shown among 3 comparisons.")


def test_each_method_meets_supervised_its_controls_and_embed_kd_the_other_methods(tmp_path):
    study = write_study(demo(), tmp_path)
    found, alone = comparisons(Results.collect(study.config, study.results / "runs", study.data))
    pairs = [(one.method, one.against) for one in found if (one.recipe, one.teacher) == ("corrected", "digits-vit-s")]
    controls = ["embed-KD-random", "embed-KD-permuted", "embed-KD-onehot"]
    methods = ["vanilla", "teacher-KD", "embed-KD", *controls]
    against = [*controls, "teacher-KD", "vanilla", "supervised and embed-KD-permuted"]
    assert pairs == [(name, "supervised") for name in methods] + [("embed-KD", name) for name in against]
    assert alone == [
        "Not tested, as the grid lacks runs of vanilla-within-class, teacher-KD-within-class, embed-KD-permuted: "
        "whether the teacher's content matters for vanilla, teacher-KD, embed-KD with Digits ViT-XS."
    ]
    assert {one.recipe: one.epoch for one in found} == {"reference": "last", "corrected": "selected"}


def keep_images(study: Study, cell: Cell) -> None:
    """Write which of 200 test images are correct: as many as the accuracies say, others in each run."""
    folder = study.results / "runs" / cell.folder
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    generator = np.random.default_rng(zlib.crc32(cell.folder.encode()))
    counts = {kind: round(TEST * metrics[kind]["test"]["top1"]) for kind in ("last", "selected")}
    correct = {kind: generator.permutation(np.arange(TEST) < count) for kind, count in counts.items()}
    (folder / CORRECT).write_bytes(packed(correct))
    seal(folder)


def test_a_row_says_what_its_interval_is_over(tmp_path):
    """Runs from before single images were kept are compared over seeds, and the row says so."""
    config = demo()
    types = ["supervised", "vanilla", "embed-KD", "embed-KD-permuted"]
    config["grid"] = [config["grid"][0] | {"teachers": ["digits-vit-s"], "train_types": types}]
    study = write_study(config, tmp_path, lambda cell: top1(cell) + 0.01 * (cell.seed and cell.train_type == "vanilla"))
    for cell in study.cells:
        if cell.train_type != "vanilla":
            keep_images(study, cell)
    results = Results.collect(study.config, study.results / "runs", study.data)
    for arm in arms(results):
        for seed, correct in arm.correct.items():
            place = (*arm.place, arm.teacher, arm.train_type, seed)
            (run,) = (run for cell, run in results.runs.items() if (*axes_of(cell), cell.seed) == place)
            np.testing.assert_array_equal(correct, unpacked(run.path / CORRECT)[arm.epoch])
    assert {arm.epoch for arm in arms(results)} == {"last", "selected"}
    rows = teacher_matters.table(results).records
    with_vanilla = [row for row in rows if "vanilla" in (row["method"], row["against"])]
    assert [row["interval_over"] for row in with_vanilla] == ["seeds"] * 4
    others = [row for row in rows if row not in with_vanilla]
    assert [row["interval_over"] for row in others] == ["seeds and images"] * 8
    # Each seed differs by the same amount here: over seeds alone there is no interval.
    alone = [row for row in others if row["question"] != "content"]
    assert all(row["low_points"] < row["difference_points"] < row["high_points"] for row in alone)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            packed(dict.fromkeys(("last", "selected"), np.arange(TEST) < 3)),
            "'last' is not what top1 in metrics.json counts",
        ),
        (packed({"first": np.arange(TEST) < 3}), "'last' is not what top1 in metrics.json counts"),
        (b"not safetensors", "is damaged"),
    ],
)
def test_images_that_contradict_the_accuracy_are_refused(content, said, tmp_path):
    config = demo()
    axes = {"teachers": ["digits-vit-s"], "train_types": ["supervised", "embed-KD"], "recipes": ["reference"]}
    config["grid"] = [config["grid"][0] | axes]
    study = write_study(config, tmp_path)
    folder = study.folder(train_type="embed-KD", seed=1)
    (folder / CORRECT).write_bytes(content)
    seal(folder)
    with pytest.raises(DataError, match=said) as refused:
        comparisons(Results.collect(study.config, study.results / "runs", study.data))
    assert str(folder / CORRECT) in str(refused.value)


@pytest.mark.parametrize(
    ("embed_kd", "said"),
    [
        ((84.0, 84.5, 85.0), "above each of supervised and embed-KD-permuted, by at least 4.00 points ("),
        ((70.0, 70.5, 71.0), "below each of supervised and embed-KD-permuted, by at most 10.00 points ("),
        ((78.0, 78.5, 79.0), "2.00 points below the better of supervised and embed-KD-permuted ("),
        ((75.0, 75.5, 76.0), "5.00 points below the better of supervised and embed-KD-permuted ("),
        ((80.0, 80.6, 80.9), "level with the better of supervised and embed-KD-permuted ("),
    ],
)
def test_content_is_compared_with_the_better_of_control_and_no_teacher(embed_kd, said):
    place, seeds = ("corrected", "digits", "tiny-32"), range(3)
    supervised = Arm(*place, "none", "supervised", "last", dict(zip(seeds, (80.0, 80.6, 80.9), strict=True)), False)
    control = replace(
        supervised,
        teacher="a",
        train_type="embed-KD-permuted",
        points=dict(zip(seeds, (75.0, 75.4, 76.1), strict=True)),
    )
    method = replace(control, train_type="embed-KD", points=dict(zip(seeds, embed_kd, strict=True)))
    (content,) = (one for one in compare([supervised, method, control])[0] if one.question == "content")
    assert content.sentence.startswith(f"embed-KD is {said}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, ""),
        ({"is_replayed": True}, "embed-KD saw stored views, supervised saw new views in each epoch"),
        ({"epochs": 20}, "20 and 200 epochs"),
    ],
)
def test_sides_that_differ_in_more_than_the_train_type_are_marked(change, said):
    place = ("corrected", "digits", "tiny-32")
    supervised = Arm(*place, "none", "supervised", "last", {0: 80.0, 1: 80.5}, False, epochs=200)
    method = replace(Arm(*place, "digits-vit-s", "embed-KD", "last", {0: 81.0, 1: 82.0}, False, epochs=200), **change)
    ((found,), _) = compare([supervised, method])
    assert found.unlike == said
    assert found.sentence.endswith(f" ‡ {said}." if said else "no difference shown.")


def test_what_is_not_tested_of_one_student_names_it_where_another_has_the_control(tmp_path):
    config = demo()
    block = config["grid"][0] | {"recipes": ["corrected"], "teachers": ["digits-vit-s"]}
    both = block | {"students": ["tiny-32", "small-32"], "train_types": ["supervised", "embed-KD"]}
    config["grid"] = [both, block | {"name": "controls", "train_types": ["embed-KD-permuted"]}]
    study = write_study(config, tmp_path)
    _, alone = comparisons(Results.collect(study.config, study.results / "runs", study.data))
    assert alone == [
        "Not tested, as the grid lacks runs of embed-KD-permuted: whether the teacher's content matters for "
        "embed-KD with Digits ViT-S (digits, small-32, recipe corrected)."
    ]


def test_a_method_without_a_partner_is_told(tmp_path):
    config = demo()
    config["grid"] = [config["grid"][0] | {"train_types": ["embed-KD"], "recipes": ["corrected"]}]
    study = write_study(config, tmp_path)
    found, alone = comparisons(Results.collect(study.config, study.results / "runs", study.data))
    assert found == []
    assert alone == ["No supervised runs of tiny-32 on digits, recipe corrected: no comparison for embed-KD."]


@pytest.mark.parametrize("is_partly_labelled", [False, True])
def test_where_some_images_have_no_label_targets_of_any_other_image_decide(is_partly_labelled, tmp_path):
    """A folder with `unlabeled/` in it counts as `labels: all`: only its runs say that some have none."""
    config = demo()
    block = config["grid"][0] | {"teachers": ["digits-vit-s"], "recipes": ["corrected"]}
    config["grid"] = [block | {"train_types": ["supervised", "vanilla", "vanilla-permuted"]}]
    levels = {"supervised": 0.7, "vanilla": 0.8, "vanilla-permuted": 0.6}
    study = write_study(config, tmp_path, lambda cell: levels[cell.train_type] + 0.01 * cell.seed)
    for cell in study.cells:
        if is_partly_labelled:
            study.change(study.results / "runs" / cell.folder, "metrics.json", "labelled_images", 500)
    found, _ = comparisons(Results.collect(study.config, study.results / "runs", study.data))
    content = [one.against for one in found if one.question == "content"]
    assert content == ["supervised and vanilla-permuted"] * is_partly_labelled
