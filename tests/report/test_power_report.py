"""Plans from a pilot and from given spreads."""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from statsmodels.stats.power import TTestIndPower, TTestPower
from stored_cells import cell, fill, study

from fewshot_bench.errors import ComparisonError, ShapeError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report import compare_tasks
from fewshot_bench.report.comparisons import stored_pairs
from fewshot_bench.report.power import Spread, given_spread, plan, plan_record, print_plan, stored_spreads, what_helps
from fewshot_bench.report.scores import images_of_episodes
from fewshot_bench.statistics import BeyondSplit, VarianceParts, class_overlap, data_intervals

pytestmark = pytest.mark.slow


def test_given_spreads_are_planned_with_as_statsmodels_does():
    one = plan(given_spread(10, 0.9), [0.5])
    sd_difference = 10 * np.sqrt(2 - 2 * 0.9)
    paired = TTestPower().solve_power(effect_size=0.5 / sd_difference, alpha=0.05, power=0.8)
    unpaired = TTestIndPower().solve_power(effect_size=0.5 / 10, alpha=0.05, power=0.8)
    assert (one.needs[0].paired, one.needs[0].unpaired) == (np.ceil(paired), np.ceil(unpaired))
    assert one.detectable is None


def test_a_pilot_says_what_its_own_episodes_can_find(tmp_path):
    store = study(tmp_path)
    spreads = stored_spreads(store, "schane", "conv/ce/centroid")
    assert [spread.name for spread in spreads] == ["cifar-fs 5-way 1-shot", "cifar-fs 5-way 5-shot"]
    test = compare_tasks(store, ["schane", "conv/ce/centroid"])[0].comparisons[0].test
    assert spreads[0].sd_difference == pytest.approx(100 * test.sd_difference)
    assert spreads[0].difference == pytest.approx(100 * test.mean_difference)
    one = plan(spreads[0])
    assert one.episodes == test.n == 120
    found = one.detectable[0]
    (needed,) = plan(spreads[0], [found]).needs
    assert abs(needed.paired - 120) <= 1
    assert any(need.difference == pytest.approx(100 * test.mean_difference) for need in one.needs)


def test_more_episodes_find_less():
    small, large = (plan(given_spread(10, 0.9), episodes=count).detectable for count in (600, 6000))
    assert small[0] / large[0] == pytest.approx(np.sqrt(10), rel=0.01)
    assert small[1] > small[0]


@pytest.mark.parametrize("options", [{"power": 1.0}, {"power": 0.01}, {"alpha": 0.0}])
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(ShapeError):
        plan(given_spread(10, 0.9), [0.5], **options)


def test_a_difference_of_nothing_is_refused():
    with pytest.raises(ComparisonError, match="difference of 0"):
        plan(given_spread(10, 0.9), [0.0])


def test_a_plan_fits_a_terminal_and_is_json(tmp_path):
    one = plan(stored_spreads(study(tmp_path), "schane", "conv/ce/centroid")[0], [0.3, 2])
    file = io.StringIO()
    print_plan(one, Console(file=file, width=80))
    text = file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert f"{one.needs[0].paired:,}" in text
    record = json.loads(json.dumps(plan_record(one), allow_nan=False))
    assert [need["difference"] for need in record["needs"]] == [0.3, 2]
    assert record["detectable_paired"] == pytest.approx(one.detectable[0])


# Beyond the split


def pilot_of(
    tmp_path,
    *,
    of_class: float,
    of_image: float = 0,
    noise: float = 1,
    sizes=(60,) * 20,
    episodes=600,
    draw=1,
    **protocol,
) -> OutcomeStore:
    """Two methods whose difference has parts with these standard deviations, in correct answers of 75."""
    one, other = (replace(cell(name, **protocol), class_sizes=sizes) for name in ("conv/a", "conv/b"))
    generator = np.random.default_rng(draw)
    classes, images = images_of_episodes(one.protocol, sizes, np.zeros(episodes, int), np.arange(episodes))
    gains = generator.normal(0, of_class, len(sizes))[classes].mean(axis=1)
    gains += generator.normal(0, of_image, sum(sizes))[images].mean(axis=(1, 2)) + generator.normal(0, noise, episodes)
    level = generator.integers(35, 45, episodes)
    store = OutcomeStore(tmp_path)
    fill(store, other, level[None])
    fill(store, one, np.clip(level + np.round(gains), 0, 75)[None].astype(int))
    return store


def printed(one) -> str:
    file = io.StringIO()
    print_plan(one, Console(file=file, width=80))
    assert max(map(len, file.getvalue().splitlines())) <= 80
    return " ".join(file.getvalue().split())


def record_of(one) -> dict:
    return json.loads(json.dumps(plan_record(one), allow_nan=False))


def test_the_floor_beyond_the_split_is_that_of_its_data_interval(tmp_path):
    store = pilot_of(tmp_path, of_class=6)
    (spread,) = stored_spreads(store, "conv/a", "conv/b")
    one = plan(spread, [0.5, 20])
    (scores,) = stored_pairs(store, "conv/a", "conv/b")
    differences = 100 * (scores.accuracy[0] - scores.accuracy[1])
    found = data_intervals(differences[None], class_overlap(scores.classes))
    plan_by_hand = BeyondSplit(found.sample_variances[0], differences.std(ddof=1), class_overlap(scores.classes))
    assert one.floor == pytest.approx(plan_by_hand.floor())
    assert one.detectable_beyond == pytest.approx(plan_by_hand.detectable(600))
    assert one.detectable_beyond > max(one.floor, one.detectable[0])
    assert [need.beyond for need in one.needs] == [None, plan_by_hand.episodes_needed(20)]
    assert one.needs[0].paired < 100_000  # the split alone has an answer
    text = printed(one)
    assert re.search(r"0\.50 points [\d,]+ [\d,]+ never", text)
    assert f"no number of episodes of these 20 classes finds less than {one.floor:.2f} points" in text
    assert f"; {one.detectable_beyond:.2f} beyond it." in text
    record = record_of(one)
    assert record["beyond"]["floor"] == one.floor
    low, high = record["beyond"]["floor_ci90"]
    assert low < one.floor < high
    assert f"points (90% interval {low:.2f} to {high:.2f})." in text
    assert record["detectable_beyond"] == one.detectable_beyond
    assert [need["beyond_episodes"] for need in record["needs"]] == [None, one.needs[1].beyond]
    assert sum(record["beyond"]["variances"].values()) == pytest.approx(found.standard_errors[0] ** 2)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            {"of_class": 6},
            r"9\d% comes from the classes.*: more classes or more datasets would help, more .*episodes.* hardly",
        ),
        (
            {"of_class": 0, "of_image": 40, "noise": 0, "sizes": (40,) * 6, "episodes": 900},
            r"from the images.*: more classes, more datasets or more images per class would help, more episodes hardly",
        ),
        ({"of_class": 0.5, "noise": 15, "episodes": 300}, r"too few to tell what the classes and their images add"),
        (
            {"of_class": 6, "noise": 6, "sizes": (600,) * 20, "episodes": 400},
            r"the classes and their images \(too few episodes to tell them apart\)",
        ),
    ],
)
def test_one_sentence_says_what_would_help(tmp_path, parts, said):
    (spread,) = stored_spreads(pilot_of(tmp_path, **parts), "conv/a", "conv/b")
    assert re.search(said, what_helps(spread))
    assert what_helps(spread).count(".") == 1
    assert what_helps(spread) in printed(plan(spread))
    assert record_of(plan(spread))["beyond"]["what_helps"] == what_helps(spread)


@pytest.mark.parametrize(
    ("variances", "said"),
    [
        (
            {"episodes": 9, "images": 20, "classes": 71},
            "Of the uncertainty beyond this split, about 71% comes from the classes, 20% from the images and 9% from "
            "the episodes: more classes or more datasets would help, more episodes hardly.",
        ),
        (
            {"episodes": 40, "images": 35, "classes": 25},
            "Of the uncertainty beyond this split, about 40% comes from the episodes, 35% from the images and 25% from "
            "the classes: more classes, more datasets, more episodes or more images per class would help.",
        ),
        (
            {"episodes": 2, "images": 98, "classes": 0},
            "Of the uncertainty beyond this split, about 98% comes from the images, 2% from the episodes and 0% from "
            "the classes: more classes, more datasets or more images per class would help, more episodes hardly.",
        ),
        (
            {"episodes": 30, "classes and images": 70},
            "Of the uncertainty beyond this split, about 70% comes from the classes and their images and 30% from "
            "the episodes: more classes, more datasets or more episodes would help.",
        ),
        (
            {"episodes and images": 4, "classes": 96},
            "Of the uncertainty beyond this split, about 96% comes from the classes and 4% from the episodes and their "
            "images: more classes or more datasets would help, more episodes with images of their own hardly.",
        ),
        (
            {"episodes": 92, "classes and images": 8},
            "Of the uncertainty beyond this split, about 92% comes from the episodes and 8% from the classes and their "
            "images: more episodes would help, more classes, datasets or images per class hardly.",
        ),
    ],
)
def test_the_sentence_names_the_large_parts_as_help_and_the_small_ones_as_none(variances, said):
    overlap = class_overlap(np.random.default_rng(0).random((60, 20)).argsort(axis=1)[:, :5])
    sample = sum(variance for source, variance in variances.items() if "episodes" not in source)
    beyond = BeyondSplit(sample, math.sqrt(60 * (100 - sample)), overlap, variance_limits=(sample, sample))
    spread = Spread("made up", 10, 10, 0.5, 60, 1.0, beyond=beyond, parts=VarianceParts(variances), why_no_beyond="")
    assert what_helps(spread) == said


def test_classes_that_show_no_variance_by_chance_are_given_no_certainty(tmp_path):
    (spread,) = stored_spreads(pilot_of(tmp_path, of_class=0, noise=12, episodes=320, draw=2), "conv/a", "conv/b")
    one = plan(spread, [2])
    assert one.floor == 0 < one.floor_limits[1]
    text = printed(one)
    assert f"no limit shows so far; these 20 classes may set one of up to {one.floor_limits[1]:.2f} points." in text
    assert f"≥ {one.needs[0].beyond:,}" in text


def test_fixed_classes_are_planned_for_other_images_of_them(tmp_path):
    store = pilot_of(tmp_path, of_class=0, of_image=12, noise=0, sizes=(60,) * 5)
    (spread,) = stored_spreads(store, "conv/a", "conv/b")
    one = plan(spread, [0.1])
    text = printed(one)
    assert "Beyond this split (other images of these classes), no number of episodes of these 300 images finds" in text
    assert "Of the uncertainty about other images of these classes, " in text
    assert "more images per class would help" in text
    assert "more classes" not in text
    assert "datasets" not in text
    assert record_of(one)["beyond"]["covers"] == "images of these classes"


def test_the_one_question_is_left_where_the_classes_are_unknown(tmp_path):
    store = pilot_of(tmp_path, of_class=2, sizes=(60,) * 20)
    for folder in tmp_path.rglob("cell.json"):
        content = json.loads(folder.read_text())
        content["class_sizes"] = []
        folder.write_text(json.dumps(content))
    (spread,) = stored_spreads(OutcomeStore(store.folder), "conv/a", "conv/b")
    for one, why in (
        (plan(spread), "the class sizes are not recorded"),
        (plan(given_spread(10, 0.9)), "--sd and --correlation say nothing about classes"),
    ):
        text = printed(one)
        assert f"Beyond the split: unknown, {why}." in text
        assert text.count("eyond") == 1
        record = record_of(one)
        assert (record["beyond"], record["why_no_beyond"]) == (None, why)
        assert record["detectable_beyond"] is None


def test_protocols_that_differ_by_their_seed_have_names_of_their_own(tmp_path):
    for seed in (0, 1):
        pilot_of(tmp_path, of_class=2, episodes=40, seed=seed)
    names = [spread.name for spread in stored_spreads(OutcomeStore(tmp_path), "conv/a", "conv/b")]
    assert names == ["cifar-fs 5-way 1-shot, seed 0", "cifar-fs 5-way 1-shot, seed 1"]


def test_methods_that_differ_alike_on_every_episode_have_no_plan_beyond_the_split(tmp_path):
    (spread,) = stored_spreads(pilot_of(tmp_path, of_class=0, noise=0), "conv/a", "conv/b")
    assert (spread.beyond, spread.why_no_beyond) == (None, "the differences do not vary")
    assert "The differences do not vary" in printed(plan(spread))
