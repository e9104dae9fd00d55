"""The cells of one protocol as rows of the leaderboard: their numbers, their tests, and what identifies them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from fewshot_bench.outcomes import Cell
from fewshot_bench.report.by_seed import by_seed
from fewshot_bench.report.names import BALANCED_FLAG, BASELINE_KINDS, CLAIMED_FLAG
from fewshot_bench.report.scores import TaskScores, data_intervals_of, task_columns
from fewshot_bench.report.trainings import training_seed
from fewshot_bench.report.verdicts import (
    Claim,
    against_the_best,
    beyond_text,
    corrected_claims,
    corrected_with_unknown,
    letters_of,
    verdict,
)
from fewshot_bench.statistics import (
    Correction,
    DataInterval,
    PairedTest,
    Summary,
    TrainingDifference,
    episode_median,
    paired_t_test,
    summarise,
    training_spread,
)

Kind = Literal["shared", "unknown", "none"]

_FROM_IMAGENET = ("mini-imagenet", "tiered-imagenet")
_FROM_CIFAR = ("cifar-fs", "fc100")
_DRAWN = "glyphs"
"""Made by this project; no corpus holds it."""

_BENCHMARKS = (*_FROM_IMAGENET, *_FROM_CIFAR, _DRAWN)
_BASE_SPLIT = "base split of "
SHARED_NOVEL_CLASSES = {
    ("cifar-fs", "fc100"): 11,
    ("fc100", "cifar-fs"): 11,
    ("mini-imagenet", "tiered-imagenet"): 13,
    ("omniglot", "omniglot-lake"): 236,
    ("tiered-imagenet", "mini-imagenet"): 5,
}
"""How many classes the base split of the first has in common with the novel split of the second."""

_CUB_IN_IMAGENET = 8
"""Novel images of cub among Meta-Dataset's 43 of CUB-200-2011 in ILSVRC-2012 (ImageNet_CUBirds_duplicates.txt)."""


@dataclass(frozen=True)
class PretrainingOverlap:
    """Whether a backbone was trained on novel classes.

    Attributes:
        kind: "shared": it was, on some; "unknown": the record does not tell; "none": it was not.
        flag: for people; empty where there is none.
    """

    kind: Kind
    flag: str = ""


def pretraining_overlap(pretraining: str | None, dataset: str) -> PretrainingOverlap:
    """Whether a backbone has seen the classes that it is tested on; of several corpora the worst counts.

    The novel classes of miniImageNet and tieredImageNet are classes of ILSVRC-2012 (ImageNet-1k), and their images are
    its training images: weights from ImageNet have been trained on the answers. The images of the CIFAR sets are from
    80 Million Tiny Images. ImageNet has classes of the same kinds, such as a leopard, but not these images, and that is
    what transfer means; so they are not flagged.

    Args:
        pretraining: `Cell.provenance.get("pretraining")`: corpora in the order of training, separated by commas; empty
            for an initialisation, None where it is not recorded.
        dataset: name of the dataset of the episodes.
    """
    if dataset == _DRAWN:
        return PretrainingOverlap("none")
    if pretraining is None:
        return PretrainingOverlap("unknown", "pretraining not recorded")
    overlaps = [_overlap_with(corpus.strip(), dataset) for corpus in pretraining.split(",") if corpus.strip()]
    for kind in ("shared", "unknown"):
        flags = list(dict.fromkeys(overlap.flag for overlap in overlaps if overlap.kind == kind))
        if flags:
            return PretrainingOverlap(kind, "; ".join(flags))
    return PretrainingOverlap("none")


def _overlap_with(corpus: str, dataset: str) -> PretrainingOverlap:
    if corpus == "unknown":
        return PretrainingOverlap("unknown", "pretraining unknown")
    if corpus == f"train split of {dataset}":
        return PretrainingOverlap("none")  # its classes are those of the test split, as they should be
    if corpus.startswith(_BASE_SPLIT):
        return _overlap_with_base_split(corpus.removeprefix(_BASE_SPLIT), dataset)
    if corpus.startswith("ImageNet-") and dataset in _FROM_IMAGENET:
        return PretrainingOverlap("shared", f"novel classes are in {corpus}")
    if corpus.startswith("ImageNet-") and dataset == "cub":
        return PretrainingOverlap("shared", f"{_CUB_IN_IMAGENET} novel images are in {corpus}")
    if corpus.startswith("ImageNet-") and dataset in _FROM_CIFAR:
        return PretrainingOverlap("none")
    return PretrainingOverlap("unknown", f"overlap with {corpus} unknown")


def _overlap_with_base_split(trained_on: str, dataset: str) -> PretrainingOverlap:
    shared = SHARED_NOVEL_CLASSES.get((trained_on, dataset), 0)
    if shared:
        return PretrainingOverlap("shared", f"{shared} novel classes are in the base split of {trained_on}")
    if trained_on == dataset or (trained_on in _BENCHMARKS and dataset in _BENCHMARKS):
        return PretrainingOverlap("none")  # the splits of a dataset share no class
    return PretrainingOverlap("unknown", f"overlap with the base split of {trained_on} unknown")


Format = Literal["text", "flag", "count", "percent", "rate", "p"]
COLUMNS: dict[str, Format] = {
    "method": "text", "dataset": "text", "split": "text", "way": "count", "shot": "count", "queries": "count",
    "sampler": "text", "seed": "count", "episodes": "count", "runs": "count",
    "median": "percent", "median_ci95": "percent", "mean": "percent", "ci95": "percent", "data_ci95": "percent",
    "episode_median": "percent", "episode_median_low": "percent", "episode_median_high": "percent",
    "group": "text", "group_split": "text", "against_best": "text", "baseline": "text",
    "difference": "percent", "diff_ci95_low": "percent", "diff_ci95_high": "percent",
    "diff_data_ci95_low": "percent", "diff_data_ci95_high": "percent",
    "test": "text", "p": "p", "p_corrected": "p", "p_beyond": "p", "p_beyond_corrected": "p", "beyond": "text",
    "verdict": "text", "correction": "text", "effect_size": "percent", "wins": "count", "ties": "count",
    "losses": "count", "paired_episodes": "count", "is_transductive": "flag", "flags": "text", "source": "text",
    "backbone": "text", "adaptation": "text", "episodes_per_second": "rate", "peak_bytes": "count",
    "dataset_fingerprint": "text", "method_fingerprint": "text", "protocol_fingerprint": "text", "versions": "text",
    "training_seed": "count", "trainings": "count", "training_sd": "percent", "training_ci95": "percent",
    "diff_training_ci95_low": "percent", "diff_training_ci95_high": "percent",
    "p_training": "p", "p_training_corrected": "p", "training_of": "text",
    "class_recall": "percent", "calibration_error": "percent", "p_by_seed": "p", "p_by_seed_corrected": "p",
    "reported": "percent", "reported_ci95": "percent", "reported_by": "text", "reported_difference": "percent",
    "reported_diff_ci95_low": "percent", "reported_diff_ci95_high": "percent", "reported_p": "p",
    "reported_p_corrected": "p", "reported_verdict": "text", "note": "text",
}  # fmt: skip
"""The columns of the leaderboard, and how the CSV writes each: percent with 4 decimals, rates with 1, p in full."""
OF_WHOLE_SPLITS = ("class_recall", "calibration_error", "p_by_seed", "p_by_seed_corrected")
"""Columns of a leaderboard that has rows on whole splits: mean recall of the classes, expected calibration error, and p
of the t-test against the baseline that is paired by seed."""
MEASURED, ONE_TRAINING = "measured", "one training"
"""Source of the rows of methods, and of those of a training where a method has several: these are not ranked."""
PAIRED = "paired t"
_NO_TEST = dict.fromkeys(
    (
        "difference", "diff_ci95_low", "diff_ci95_high", "diff_data_ci95_low", "diff_data_ci95_high", "p",
        "p_corrected", "p_beyond", "p_beyond_corrected", "diff_training_ci95_low", "diff_training_ci95_high",
        "p_training", "p_training_corrected", "p_by_seed", "p_by_seed_corrected",
        "effect_size", "wins", "ties", "losses", "paired_episodes",
    ),
    math.nan,
)  # fmt: skip


def protocol_rows(
    scores: TaskScores, names: Mapping[str, str], baseline: int | None, correct: Correction = "holm"
) -> list[dict[str, Any]]:
    """Summarise the cells of one protocol; accuracies are in %, differences in percentage points.

    Args:
        scores: of the methods; see `over_trainings`.
        names: what to call each method, by the key of its cell.
        baseline: position of the method that the others are tested against; None for no test.
        correct: how both p are corrected for the number of tests against the baseline, and of the pairs behind the
            letters.

    Returns:
        For each method, in order, a value for each of `COLUMNS`; None or NaN for what does not exist.
    """
    tests = [_tested(scores, row, baseline) for row in range(len(scores.cells))]
    differences = _with_data_intervals(tests, scores, baseline)
    claims = corrected_claims([test["p"] for test in tests], [test["p_beyond"] for test in tests], correct)
    over = corrected_with_unknown([test["p"] for test in tests], [test["p_training"] for test in tests], correct)
    seeds = corrected_with_unknown([test["p"] for test in tests], [test["p_by_seed"] for test in tests], correct)
    for test, split, beyond, training, by_seeds in zip(tests, *claims, over, seeds, strict=True):
        test |= {
            "p_corrected": float(split),
            "p_beyond_corrected": float(beyond),
            "p_training_corrected": float(training),
            "p_by_seed_corrected": float(by_seeds),
        }
    numbers, wrong = [_numbers(scores, row) for row in range(len(scores.cells))], scores.why_no_classes
    failed = scores.failed or [0] * len(scores.cells)
    letters = {claim: letters_of(scores, correct, claim) for claim in get_args(Claim)}
    against_best = against_the_best(scores, names, correct)
    data = data_intervals_of(scores, scores.accuracy)
    across = [_across(scores, row, baseline, test) for row, test in enumerate(tests)]
    baseline_name = None if baseline is None else names[scores.cells[baseline].key]
    return [
        {
            "method": names[cell.key],
            **task_columns(cell.protocol),
            **numbers[row],
            "data_ci95": _data_width(numbers[row], interval),
            "group": letters["beyond"][row],
            "group_split": letters["split"][row],
            "against_best": against_best[row],
            "baseline": baseline_name,
            **test,
            "test": PAIRED if test["p"] == test["p"] else None,
            "beyond": beyond_text(interval if tested is None else tested),
            "verdict": _verdict(
                test,
                "" if tested is None else tested.covers,
                has_trainings=baseline is not None and scores.has_trainings(row, baseline),
            ),
            "correction": correct,
            **_identity(cell),
            **_trainings(scores, row),
            "flags": "; ".join(
                [
                    *_flags(cell, numbers[row], failed[row]),
                    *_missing(scores, row),
                    *across[row],
                    *([wrong] if wrong else []),
                ]
            )
            or None,
            "episodes_per_second": _per_second(int(scores.of(row).sum()), scores.seconds[row]),
        }
        for row, (cell, test, interval, tested) in enumerate(zip(scores.cells, tests, data, differences, strict=True))
    ]


def training_rows(scores: TaskScores, methods: TaskScores, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Summarise each training of the methods that have several; nothing is tested, for they are not methods.

    Args:
        scores: of every training.
        methods: of the methods, as `over_trainings` makes them of these scores.
        names: what to call each training, by the key of its cell.

    Returns:
        As `protocol_rows`, with the method's fingerprint as `training_of`.
    """
    method_of = {
        cell.key: method.method.fingerprint
        for method, several in zip(methods.cells, methods.trainings or (), strict=bool(methods.trainings))
        for cell in (several.cells if several is not None else ())
    }
    rows = [row for row, cell in enumerate(scores.cells) if cell.key in method_of]
    if not rows:
        return []
    data = data_intervals_of(scores, scores.accuracy[rows])
    failed = scores.failed or [0] * len(scores.cells)
    found = []
    for row, interval in zip(rows, data, strict=True):
        cell, numbers = scores.cells[row], _numbers(scores, row)
        found.append(
            {
                "method": names[cell.key],
                **task_columns(cell.protocol),
                **numbers,
                "data_ci95": _data_width(numbers, interval),
                "beyond": beyond_text(interval),
                **_NO_TEST,
                **_identity(cell),
                "source": ONE_TRAINING,
                "training_seed": training_seed(cell.method),
                "training_of": method_of[cell.key],
                "flags": "; ".join([*_flags(cell, numbers, failed[row]), *_missing(scores, row)]) or None,
                "episodes_per_second": _per_second(int(scores.of(row).sum()), scores.seconds[row]),
            }
        )
    return found


def _trainings(scores: TaskScores, row: int) -> dict[str, Any]:
    """How many trainings a method has, and how they spread; nothing of one that is not trained on a base split."""
    several = scores.trainings[row] if scores.trainings else None
    seed = training_seed(scores.cells[row].method)
    if several is None:
        return {"trainings": math.nan if seed is None else 1, "training_seed": math.nan if seed is None else seed}
    spread = training_spread(100 * several.means(scores.of(row)))
    return {"trainings": spread.trainings, "training_sd": spread.sd, "training_ci95": spread.half_width}


def _verdict(test: Mapping[str, Any], covers: str, *, has_trainings: bool) -> str | None:
    """What the tests of a row show; None where there is none."""
    if test["p"] != test["p"]:
        return None
    return verdict(
        test["difference"],
        test["p_corrected"],
        test["p_beyond_corrected"],
        covers,
        p_training=test["p_training_corrected"],
        has_trainings=has_trainings,
    )


def _identity(cell: Cell) -> dict[str, Any]:
    method, protocol = cell.method, cell.protocol
    return {
        "is_transductive": method.is_transductive,
        "source": MEASURED,
        "backbone": method.backbone,
        "adaptation": method.adaptation,
        "peak_bytes": cell.provenance.get("peak_bytes", math.nan),
        "dataset_fingerprint": protocol.dataset_fingerprint,
        "method_fingerprint": method.fingerprint,
        "protocol_fingerprint": protocol.fingerprint,
        "versions": "; ".join(f"{package} {cell.versions[package]}" for package in sorted(cell.versions)),
    }


def _flags(cell: Cell, numbers: Mapping[str, Any], failed: int) -> list[str]:
    """What a reader should know before believing the row."""
    overlap = pretraining_overlap(cell.provenance.get("pretraining"), cell.protocol.dataset).flag
    card, stopping = cell.protocol, []
    uneven = "" if card.has_even_queries or card.is_claimed or card.is_whole else ", which these episodes do not have"
    for rule in cell.provenance.get("stopping", []):
        reached = "" if numbers["ci95"] <= rule["half_width"] else ", not reached"
        stopping.append(f"until ±{rule['half_width']:g}{reached}")
    return [
        *([CLAIMED_FLAG] if cell.protocol.is_claimed else []),
        *([f"{failed:,} failed"] if failed else []),
        *(["transductive"] if cell.method.is_transductive else []),
        *([f"{BALANCED_FLAG}{uneven}"] if cell.method.assumes_balanced_queries else []),
        *([overlap] if overlap else []),
        *stopping,
    ]


def _data_width(numbers: Mapping[str, Any], interval: DataInterval | None) -> float:
    """The half-width of a data interval; NaN where a whole split has none over its images."""
    is_unknown = interval is None or ("class_recall" in numbers and math.isnan(numbers["ci95"]))
    return math.nan if interval is None or is_unknown else 100 * interval.half_width


def _missing(scores: TaskScores, row: int) -> list[str]:
    """Flags of a whole split: images that are missing, or accuracies that are all equal."""
    own = scores.of(row)
    missing = scores.images_without(own)
    alike = "all images right or all wrong, so there is no interval"
    return [
        *([f"only {int(own.sum()):,} of {int(own.sum()) + missing:,} test images"] if missing else []),
        *([alike] if scores.protocol.is_whole and _is_constant(scores, row) else []),
    ]


def _is_constant(scores: TaskScores, row: int) -> bool:
    """Whether a method has the same accuracy on every image, from which no interval follows."""
    return bool(np.ptp(scores.accuracy[row, scores.of(row)]) == 0)


def _across(scores: TaskScores, row: int, baseline: int | None, test: Mapping[str, Any]) -> list[str]:
    """That the baseline of a test is of the other kind, inductive or transductive."""
    if baseline is None or test["p"] != test["p"]:
        return []
    mine, other = (scores.cells[place].method.is_transductive for place in (row, baseline))
    return [BASELINE_KINDS[other]] if mine != other else []


def _numbers(scores: TaskScores, row: int) -> dict[str, Any]:
    """Point estimates of one cell with their intervals."""
    own = scores.of(row)
    accuracy = scores.accuracy[row, own]
    summary = summarise(accuracy, scores.run[own])
    if scores.protocol.is_whole:
        return _numbers_of_images(scores, row, summary)
    middle = episode_median(accuracy)
    return {
        "episodes": summary.episodes,
        "runs": summary.runs,
        "median": 100 * summary.median,
        "median_ci95": 100 * summary.median_interval.half_width,
        "mean": 100 * summary.interval.mean,
        "ci95": 100 * summary.interval.half_width,
        "episode_median": 100 * middle.median,
        "episode_median_low": 100 * middle.low,
        "episode_median_high": 100 * middle.high,
    }


def _numbers_of_images(scores: TaskScores, row: int, summary: Summary) -> dict[str, Any]:
    """Point estimates of a cell on a whole split; instead of a median over images, which is 0 or 1, the mean."""
    recall = scores.class_recall(row)
    mean = {"median": 100 * summary.interval.mean, "median_ci95": 100 * summary.interval.half_width}
    if _is_constant(scores, row):
        mean["median_ci95"] = math.nan
    return {
        "episodes": summary.episodes,
        "runs": summary.runs,
        **mean,
        "mean": mean["median"],
        "ci95": mean["median_ci95"],
        "class_recall": 100 * float(np.nanmean(recall)) if recall.size else math.nan,
        "calibration_error": 100 * scores.calibration_errors[row] if scores.calibration_errors else math.nan,
    }


def _tested(scores: TaskScores, row: int, baseline: int | None) -> dict[str, Any]:
    """The test of one cell against the baseline, on the episodes that both have."""
    if baseline is None or row == baseline:
        return dict(_NO_TEST)
    both = scores.pair(row, baseline)
    if both.sum() < 2:
        return dict(_NO_TEST)
    test = paired_t_test(scores.accuracy[row, both], scores.accuracy[baseline, both])
    training = scores.training_difference(row, baseline)
    seeds = by_seed(scores, row, baseline)
    return {
        **_NO_TEST,
        **({} if seeds is None or seeds.paired is None else {"p_by_seed": seeds.paired.p}),
        **({} if training is None else _over_trainings(training)),
        "difference": 100 * test.mean_difference,
        "diff_ci95_low": 100 * test.ci_low,
        "diff_ci95_high": 100 * test.ci_high,
        "p": test.p,
        "effect_size": _effect_size(test),
        "wins": test.wins,
        "ties": test.ties,
        "losses": test.losses,
        "paired_episodes": test.n,
    }


def _over_trainings(training: TrainingDifference) -> dict[str, float]:
    low, high = 100 * training.low, 100 * training.high
    return {"diff_training_ci95_low": low, "diff_training_ci95_high": high, "p_training": training.p}


def _with_data_intervals(
    tests: list[dict[str, Any]], scores: TaskScores, baseline: int | None
) -> list[DataInterval | None]:
    """Fill in the data intervals of the differences and their p, all at once; those of tested rows are returned too."""
    if baseline is None:
        return [None] * len(tests)
    intervals = data_intervals_of(scores, scores.accuracy - scores.accuracy[baseline])
    tested = [interval if test["p"] == test["p"] else None for test, interval in zip(tests, intervals, strict=True)]
    for test, interval in zip(tests, tested, strict=True):
        if interval is not None:
            test["diff_data_ci95_low"], test["diff_data_ci95_high"] = 100 * interval.low, 100 * interval.high
            test["p_beyond"] = float(np.maximum(interval.p, test["p"]))
    return tested


def _effect_size(test: PairedTest) -> float:
    """Cohen's d_z; 0 where nothing differs, without end where everything differs alike."""
    if test.sd_difference:
        return test.mean_difference / test.sd_difference
    return math.copysign(math.inf, test.mean_difference) if test.mean_difference else 0.0


def _per_second(episodes: int, seconds: float) -> float:
    return episodes / seconds if seconds > 0 else math.nan
