"""How often a verdict is false where methods are equal, and how often it is given where one is truly better.

    python benchmarks/verdicts.py                                  # all populations
    python benchmarks/verdicts.py --only features --replicates 1000

A replicate draws Gaussian classes and images, and 1,000 episodes of them; several methods classify these by nearest
centroid at 5 shots, each with features of its own. All pairs are compared, or all methods with the first, by the
functions that `compare` and `leaderboard` use. A false verdict is an unqualified "better" or "worse" between methods
that are equal in the population; one of them is enough to make a study wrong.
"""

from __future__ import annotations

import argparse
import gc
import math
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import scipy
from coverage_candidates import Drawn, kurtosis
from gaussian_classes import (
    QUERIES,
    REPAIRED,
    SHARE_OF_CLASSES,
    Features,
    Floats,
    episodes_of,
    hits,
    in_canonical_order,
    normal,
    repaired_images,
    replicates,
    scattered,
    spreads,
    with_noise,
)
from numpy.typing import NDArray
from scipy import stats

from fewshot_bench.report.verdicts import NOTHING_SHOWN, ON_THIS_SPLIT, corrected_claims, verdict
from fewshot_bench.statistics import all_pairs, data_p_of_all_pairs

SHOT = 5
DIMENSIONS, SHARED = 8, 6
LUCK = 0.2
"""Share of the queries that a method of "own luck" answers by guessing."""
FAMILIES: tuple[tuple[int, bool], ...] = ((2, False), (6, False), (20, False), (6, True), (20, True))
"""How many methods, and whether all are compared with the first instead of each other."""

Own = Literal["features", "noise", "luck", "gains"]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Population:
    """What is drawn, and by what the methods differ.

    Attributes:
        title: of its rows.
        own: a quarter of each method's features, their noise, the guesses that it makes anew in every episode, or the
            classes on which it gains, a tenth of them; the first gains a tenth as much on every class.
        noise: standard deviation of the noise on each method's features, [A]; methods of the same noise are equal.
        classes: C; the way is 5, or C where they are fixed.
        is_fixed: whether the classes are the same in every replicate.
        images: per class.
    """

    title: str
    own: Own
    noise: tuple[float, ...]
    classes: int = 20
    is_fixed: bool = False
    images: int = 600


POPULATIONS = {
    "features": Population("own features", "features", (0.0,) * 20),
    "noise": Population("own noise on the same features", "noise", (0.5,) * 20),
    "gains": Population("gains on other classes", "gains", (0.2,) * 20),
    "luck": Population("own luck in every episode", "luck", (0.0,) * 20),
    "fixed": Population("12 fixed classes of 60 images, own noise", "noise", (0.5,) * 6, 12, is_fixed=True, images=60),
}
UNEQUAL = {
    **{f"noise-{sd}": Population("own noise", "noise", (0.5, sd) * 3) for sd in (0.48, 0.45, 0.4)},
    **{f"features-{sd}": Population("own features", "features", (sd, 0.0) * 3) for sd in (0.35, 0.5, 0.7)},
    **{
        f"fixed-{sd}": Population("12 fixed classes", "noise", (0.5, sd) * 3, 12, is_fixed=True, images=60)
        for sd in (0.45, 0.4)
    },
}


@dataclass(frozen=True)
class Tests:
    """The tests of some pairs, P of them, not corrected.

    Attributes:
        differences: of the means, [P].
        p_split: over episodes, [P].
        p_beyond: beyond the split, [P].
        p_student: the same without skewness, [P].
        is_outside: whether 0 is outside the 95% interval that was used before; always where there was none, [P].
        covers: what the data interval covers.
    """

    differences: Floats
    p_split: Floats
    p_beyond: Floats
    p_student: Floats
    is_outside: Bools
    covers: str

    def of(self, pairs: Bools) -> Tests:
        """The tests of some pairs."""
        return Tests(
            self.differences[pairs],
            self.p_split[pairs],
            self.p_beyond[pairs],
            self.p_student[pairs],
            self.is_outside[pairs],
            self.covers,
        )


def shipped(tests: Tests) -> tuple[Floats, Floats]:
    """Holm for both claims."""
    return corrected_claims(tests.p_split, tests.p_beyond)


def before(tests: Tests) -> tuple[Floats, Floats]:
    """Holm over tasks, and an interval that nothing corrects."""
    split, _ = corrected_claims(tests.p_split, tests.p_beyond)
    return split, np.where(tests.is_outside, split, 1.0)


def bonferroni(tests: Tests) -> tuple[Floats, Floats]:
    """Bonferroni for Student's t, without skewness."""
    count = len(tests.p_split)
    return np.minimum(count * tests.p_split, 1), np.minimum(count * tests.p_student, 1)


RULES: dict[str, Callable[[Tests], tuple[Floats, Floats]]] = {
    "verdict": shipped,
    "before": before,
    "Student, Bonferroni": bonferroni,
}
"""Corrected p of both claims."""


@dataclass(frozen=True)
class Counts:
    """What a replicate shows, by families and rules.

    Attributes:
        is_false: whether there is a false unqualified verdict, [F, I].
        is_split: whether there is a verdict on this split between equal methods, [F, I].
        found: truly better methods that are called better, [F, I].
        found_split: those that are called better on this split, [F, I].
        better: pairs with a truly better method, [F].
        difference: mean difference of these pairs.
    """

    is_false: Bools
    is_split: Bools
    found: NDArray[np.int64]
    found_split: NDArray[np.int64]
    better: NDArray[np.int64]
    difference: float


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the arguments, simulate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*POPULATIONS, *UNEQUAL], action="append", help="may be given again")
    parser.add_argument("--replicates", type=int, default=400)
    parser.add_argument("--episodes", type=int, default=1000, help="per replicate")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args(argv)
    print(f"numpy {np.__version__}, scipy {scipy.__version__}, Python {platform.python_version()}.")
    print(f"{arguments.replicates:,} replicates of {arguments.episodes:,} episodes, {SHOT} shots.")
    for populations, columns, rows in ((POPULATIONS, FALSE_COLUMNS, false_rows), (UNEQUAL, FOUND_COLUMNS, found_rows)):
        chosen = [one for name, one in populations.items() if name in (arguments.only or populations)]
        if chosen:
            print(f"\n| {' | '.join(columns)} |\n| --- | --- |{' ---: |' * (len(columns) - 2)}", flush=True)
        for one in chosen:
            work = partial(replicate, one, arguments.episodes)
            print("\n".join(rows(one, replicates(work, arguments.replicates, arguments.processes))), flush=True)


def replicate(population: Population, episodes: int, number: int) -> Counts:
    """Draw, classify, test, and count the verdicts."""
    gc.freeze()  # statsmodels collects garbage in every correction; what is imported by now need not be looked at
    values, drawn = outcomes(population, episodes, number)
    first, second = np.triu_indices(len(values), 1)
    tests = tests_of(values, drawn)
    noise = np.array(population.noise)
    side = np.sign(noise[second] - noise[first])  # who is truly better
    counts = []
    for methods, has_baseline in families_of(population):
        pairs = (second < methods) & ((first == 0) | (not has_baseline))
        counts.append([_counted(rule, tests.of(pairs), side[pairs]) for rule in RULES.values()])
    table = np.array(counts)
    better = side != 0
    difference = float((side * tests.differences)[better].mean()) if better.any() else math.nan
    return Counts(table[..., 0] > 0, table[..., 1] > 0, table[..., 2], table[..., 3], table[:, 0, 4], difference)


def _counted(
    rule: Callable[[Tests], tuple[Floats, Floats]], tests: Tests, side: NDArray[np.int64]
) -> tuple[int, int, int, int, int]:
    """False verdicts, verdicts on this split of equals, methods found, found on this split, truly better methods."""
    is_false = is_split = found = found_split = 0
    for difference, split, beyond, true in zip(tests.differences, *rule(tests), side, strict=True):
        words = verdict(difference, split, beyond, tests.covers)
        if words == NOTHING_SHOWN:
            continue
        is_right = np.sign(difference) == true
        if words.endswith(ON_THIS_SPLIT):
            is_split += true == 0
            found_split += is_right
        else:
            is_false += not is_right
            found += is_right
    return is_false, is_split, found, found_split, int((side != 0).sum())


def families_of(population: Population) -> list[tuple[int, bool]]:
    """The families that a population has methods for."""
    return [family for family in FAMILIES if family[0] <= len(population.noise)]


def tests_of(values: Floats, drawn: Drawn) -> Tests:
    """The tests of all pairs of methods, before correction.

    Args:
        values: accuracies, [A, E].
        drawn: the differences of all pairs, [P, E], with what the episodes share.
    """
    upper = np.triu_indices(len(values), 1)
    split, found = all_pairs(values).p[upper], drawn.found
    # No claim beyond the split is stronger than that on it, as in the leaderboard.
    beyond = np.maximum(data_p_of_all_pairs(values, drawn.overlap)[upper], split)
    student = np.asarray(2 * stats.t.sf(np.abs(found.means) / found.standard_errors, found.freedom))
    low, high = (np.ones(len(split)),) * 2 if drawn.images is not None else kurtosis(drawn)
    return Tests(found.means, split, beyond, student, (low > 0) | (high < 0), drawn.overlap.covers)


def outcomes(population: Population, episodes: int, number: int) -> tuple[Floats, Drawn]:
    """Accuracies of the methods, [A, E], and the differences of all pairs, [P, E], with what the episodes share."""
    generator = np.random.default_rng([number, population.classes])
    # Fixed classes are the same in every replicate.
    of_classes = np.random.default_rng(population.classes) if population.is_fixed else generator
    spread = spreads(of_classes, population.classes)

    def draw(dimensions: int) -> Features:
        centres = normal(of_classes, population.classes, 1, dimensions)
        return scattered(generator, centres, spread, population.images)

    sizes, way = [population.images] * population.classes, population.classes if population.is_fixed else 5
    images = episodes_of(sizes, way=way, shot=SHOT, seed=number, episodes=episodes)
    if population.is_fixed:
        images = in_canonical_order(images)
    shared = draw(SHARED if population.own == "features" else DIMENSIONS)
    rows = []
    for method, sd in enumerate(population.noise):
        own = [draw(DIMENSIONS - SHARED)] if population.own == "features" else []
        features = np.concatenate([shared, *own], axis=1)
        correct = hits(with_noise(generator, features, sd) if sd else features, images, SHOT)
        if population.own == "luck":
            guesses, lucky = (generator.random(correct.shape) < chance for chance in (LUCK, 1 / way))
            correct = np.where(guesses, lucky, correct)
        if population.own == "gains":
            special = generator.random(population.classes) < SHARE_OF_CLASSES
            share = np.where(special, 1.0, 0.0) if method else np.full(population.classes, SHARE_OF_CLASSES)
            correct |= repaired_images(generator, REPAIRED * share, population.images)[images[:, :, -QUERIES:]]
        rows.append(correct.mean(axis=(1, 2)))
    values = np.stack(rows)
    first, second = np.triu_indices(len(values), 1)
    classes = images[:, :, 0].astype(np.int64) // population.images
    fixed = images if population.is_fixed else None
    return values, Drawn(values[first] - values[second], classes, population.classes, fixed)


FALSE_COLUMNS = ("equal methods have", "compared", *(f"false: {rule}" for rule in RULES), "on this split")
FOUND_COLUMNS = (
    "methods have", "compared", "true difference", *(f"found: {rule}" for rule in RULES), "on this split alone",
    *(f"false: {rule}" for rule in RULES),
)  # fmt: skip


def false_rows(population: Population, counts: list[Counts]) -> Iterator[str]:
    """Studies with a false verdict, in percent with the standard error."""
    for number, family in enumerate(families_of(population)):
        cells = [_percent(np.array([one.is_false[number, rule] for one in counts])) for rule in range(len(RULES))]
        split = _percent(np.array([one.is_split[number, 0] for one in counts]))
        yield f"| {population.title} | {_family(family)} | {' | '.join(cells)} | {split} |"


def found_rows(population: Population, counts: list[Counts]) -> Iterator[str]:
    """Truly better methods that are called so, in percent."""
    difference = 100 * np.mean([one.difference for one in counts])
    for number, family in enumerate(families_of(population)):
        better = sum(int(one.better[number]) for one in counts)
        found = sum(one.found[number] for one in counts)
        split = sum(int(one.found_split[number, 0]) for one in counts)
        false = [_percent(np.array([one.is_false[number, rule] for one in counts])) for rule in range(len(RULES))]
        cells = [f"{100 * number / better:.1f}" for number in (*found, split)]
        yield f"| {population.title} | {_family(family)} | {difference:.2f} | {' | '.join([*cells, *false])} |"


def _family(family: tuple[int, bool]) -> str:
    methods, has_baseline = family
    if has_baseline:
        return f"{methods - 1} with a baseline"
    return "one pair" if methods == 2 else f"all pairs of {methods}"


def _percent(happened: Bools) -> str:
    """How often something happens, with the standard error."""
    share = float(happened.mean())
    return f"{100 * share:.1f} ± {100 * math.sqrt(share * (1 - share) / len(happened)):.1f}"


if __name__ == "__main__":
    main()
