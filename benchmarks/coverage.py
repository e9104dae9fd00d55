"""How often an interval around the mean accuracy holds the truth, when classes and images are drawn anew.

    python benchmarks/coverage.py                                       # all settings
    python benchmarks/coverage.py --only usual --replicates 1500        # one of them, more closely
    python benchmarks/coverage.py --only nested                         # do intervals jump when episodes are added?

A replicate draws Gaussian classes from a population, and images of each; the project's sampler draws episodes from
them, and nearest centroid classifies these. So the mean accuracy of a replicate differs from the truth by the draw of
classes, of images and of episodes. Coverage is how often the truth lies within the interval that a replicate alone
gives. Other methods on the same episodes give paired differences.
"""

from __future__ import annotations

import argparse
import math
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import scipy
from coverage_candidates import CANDIDATES, FIXED_CANDIDATES, Candidate, Drawn, kurtosis, shipped
from gaussian_classes import (
    QUERIES,
    REPAIRED,
    SHARE_OF_CLASSES,
    Features,
    Floats,
    Images,
    accuracies,
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

SHOTS = (1, 5)
OTHERS = ("difference, a noisy copy", "difference, fewer dimensions", "difference, as good")
"""What a method is compared with: its features and noise; without a quarter of them; with another quarter instead."""
QUANTITIES = ("accuracy", *OTHERS)
CONDITIONAL = "gain, splits that hold such a class"
SPARSE_QUANTITIES = ("gain, all splits", CONDITIONAL, "no gain")
AS_GOOD = QUANTITIES.index("difference, as good")

NOISE = 0.2
"""Standard deviation of the noise on each feature that two methods with a sparse gain have of their own."""
NESTED = range(2000, 9001, 1000)
NESTED_SETTINGS = ("usual", "alike", "sparse-exp-20")
NESTED_CANDIDATES: dict[str, Candidate] = {"data": shipped, "kurtosis": kurtosis}

Group = Literal["drawn", "sparse", "fixed"]
GROUPS: dict[Group, str] = {
    "drawn": "Classes and images drawn anew",
    "sparse": "A method that helps on one class in ten",
    "fixed": "Fixed classes, images drawn anew; the way is the number of classes",
}


@dataclass(frozen=True)
class Setting:
    """A population, what is drawn from it, and the tasks.

    Attributes:
        title: of its rows.
        group: of settings that share a table.
        classes: C, in each replicate.
        ways: episodes are divided evenly among these.
        dimensions: of the features.
        distance: standard deviation of the class means, per dimension; 0 leaves nothing to learn.
        spread_sd: standard deviation of the logarithm of a class's own spread.
        is_even: whether every class mean has the same length, so that classes are about equally hard.
        is_exponential: whether sparse gains vary from class to class.
        images: per class.
        episodes: E.
    """

    title: str
    group: Group = "drawn"
    classes: int = 20
    ways: tuple[int, ...] = (5,)
    dimensions: int = 8
    distance: float = 1.0
    spread_sd: float = 0.25
    is_even: bool = False
    is_exponential: bool = False
    images: int = 600
    episodes: int = 3000

    @property
    def quantities(self) -> tuple[str, ...]:
        """What is measured at each number of shots."""
        return SPARSE_QUANTITIES if self.group == "sparse" else QUANTITIES

    @property
    def candidates(self) -> dict[str, Candidate]:
        """What gives intervals there."""
        return FIXED_CANDIDATES if self.group == "fixed" else CANDIDATES


SETTINGS = {
    "usual": Setting("20 classes"),
    "60-images": Setting("60 images per class", images=60),
    "unequal": Setting("very unequal difficulty", spread_sd=0.6),
    "alike": Setting("almost the same difficulty", dimensions=32, distance=0.5, spread_sd=0, is_even=True),
    "chance": Setting("nothing to learn", distance=0, spread_sd=0),
    "many": Setting("160 classes", classes=160),
    "ten-way": Setting("10-way", ways=(10,)),
    "fifteen-way": Setting("15-way", ways=(15,)),
    "varying": Setting("2- to 10-way", ways=tuple(range(2, 11))),
    "sparse-20": Setting("20 classes, equal shares", group="sparse"),
    "sparse-exp-20": Setting("20 classes, exponential shares", group="sparse", is_exponential=True),
    "sparse-50": Setting("50 classes, equal shares", group="sparse", classes=50),
    "sparse-exp-50": Setting("50 classes, exponential shares", group="sparse", classes=50, is_exponential=True),
    "fixed-5-60": Setting("5 classes of 60 images", group="fixed", classes=5, ways=(5,), images=60),
    "fixed-5-600": Setting("5 classes of 600 images", group="fixed", classes=5, ways=(5,)),
    "fixed-12-60": Setting("12 classes of 60 images", group="fixed", classes=12, ways=(12,), images=60),
    "fixed-12-600": Setting("12 classes of 600 images", group="fixed", classes=12, ways=(12,)),
}


@dataclass(frozen=True)
class Results:
    """What replicates give for each shot and quantity, A of them; I candidates.

    Attributes:
        means: over episodes, [R, A].
        truths: what they estimate, [R, A]; the mean over replicates counts.
        counts: whether the replicate is one that the quantity is about, [R, A].
        ends: of the intervals, [R, I, 2, A].
    """

    means: Floats
    truths: Floats
    counts: NDArray[np.bool_]
    ends: Floats


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the arguments, simulate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*SETTINGS, "nested"], action="append", help="may be given again")
    parser.add_argument("--replicates", type=int, default=150)
    parser.add_argument("--episodes", type=int, default=3000, help="per replicate")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args(argv)
    names = arguments.only or [*SETTINGS, "nested"]
    print(f"numpy {np.__version__}, scipy {scipy.__version__}, Python {platform.python_version()}.")
    print(f"{arguments.replicates:,} replicates of {arguments.episodes:,} episodes. Cells are for 1 and 5 shots.")
    for group, title in GROUPS.items():
        settings = [setting for name, setting in SETTINGS.items() if name in names and setting.group == group]
        if settings:
            print(f"\n{title}:\n\n{header(settings[0])}", flush=True)
        notes = []
        for setting in settings:
            given = replace(setting, episodes=arguments.episodes)
            results = simulate(given, arguments.replicates, arguments.processes)
            print("\n".join(table_rows(given, results)), flush=True)
            notes.append(too_short(given, results))
        print("\n" + "\n".join(notes) if notes else "", flush=True)
    if "nested" in names:
        print(f"\n{nested_table(arguments.replicates, arguments.processes)}", flush=True)


def simulate(setting: Setting, count: int, processes: int = 1) -> Results:
    """All replicates of a setting."""
    found = replicates(partial(_one, setting), count, processes)
    return Results(*(np.stack([getattr(one, name) for one in found]) for name in ("means", "truths", "counts", "ends")))


def _one(setting: Setting, number: int) -> Results:
    """One replicate; its arrays have no R."""
    parts = [
        (drawn.values.mean(axis=1), truths, counts, np.array([of(drawn) for of in setting.candidates.values()]))
        for drawn, truths, counts in replicate(setting, number)
    ]
    return Results(*(np.concatenate(part, axis=-1) for part in zip(*parts, strict=True)))


def replicate(setting: Setting, number: int) -> Iterator[tuple[Drawn, Floats, NDArray[np.bool_]]]:
    """Draw classes, images and episodes, and classify; for each number of shots.

    Yields:
        The values of the quantities, [A, E], with the classes of the episodes; the truths; which quantities count.
    """
    generator = np.random.default_rng([number, setting.classes])
    methods = population(setting, generator)
    gains = sparse_gains(setting, generator) if setting.group == "sparse" else np.zeros(0)
    repaired = repaired_images(generator, gains, setting.images)
    share, widest = math.ceil(setting.episodes / len(setting.ways)), max(setting.ways)
    sizes = [setting.images] * setting.classes
    drawn = [episodes_of(sizes, way=way, shot=max(SHOTS), seed=number, episodes=share) for way in setting.ways]
    if setting.group == "fixed":
        drawn = [in_canonical_order(images) for images in drawn]
    classes = np.concatenate([_classes(images, setting.images, widest) for images in drawn])
    for shot in SHOTS:
        fixed = drawn[0][:, :, [*range(shot), *range(-QUERIES, 0)]] if setting.group == "fixed" else None
        if setting.group == "sparse":
            rows, truths = _sparse_gain(setting, methods, drawn[0], shot, repaired)
        else:
            rows = np.concatenate([_differences(methods, images, shot) for images in drawn], axis=1)
            truths = rows.mean(axis=1)
            truths[AS_GOOD] = truths[AS_GOOD] if fixed is not None else 0.0
        counts = np.array([quantity != CONDITIONAL or gains.any() for quantity in setting.quantities])
        yield Drawn(rows, classes, setting.classes, fixed), truths, counts


def population(setting: Setting, generator: np.random.Generator) -> list[Features]:
    """Features of the same images under the method and under each of the others, each [C * I, D]."""
    # Fixed classes are the same in every replicate.
    of_classes = np.random.default_rng(setting.classes) if setting.group == "fixed" else generator
    spread = spreads(of_classes, setting.classes, setting.spread_sd)

    def draw() -> Features:
        centres = np.float32(setting.distance) * normal(of_classes, setting.classes, 1, setting.dimensions)
        if setting.is_even:
            length = setting.distance * math.sqrt(setting.dimensions)
            centres *= np.float32(length) / np.linalg.norm(centres, axis=-1, keepdims=True)
        return scattered(generator, centres, spread, setting.images)

    features, kept = draw(), 3 * setting.dimensions // 4
    if setting.group == "sparse":
        return [with_noise(generator, features, NOISE), with_noise(generator, features, NOISE)]
    fewer = np.ascontiguousarray(features[:, :kept])
    as_good = np.concatenate([fewer, draw()[:, kept:]], axis=1)
    return [features, with_noise(generator, features, 0.5), fewer, as_good]


def sparse_gains(setting: Setting, generator: np.random.Generator) -> Floats:
    """Share of the images of each class that are always classified correctly, [C]; 0 for most classes."""
    special = generator.random(setting.classes) < SHARE_OF_CLASSES
    sizes = generator.exponential(size=setting.classes) if setting.is_exponential else np.ones(setting.classes)
    return np.asarray(special * np.minimum(REPAIRED * sizes, 1.0))


def _sparse_gain(
    setting: Setting, methods: list[Features], images: Images, shot: int, repaired: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Differences of a method with a sparse gain from one without, twice, and before the gain, [3, E]; the truths."""
    before, other = hits(methods[0], images, shot), accuracies(methods[1], images, shot)
    after = before | repaired[images[:, :, -QUERIES:]]
    gain, nothing = after.mean(axis=(1, 2)) - other, before.mean(axis=(1, 2)) - other
    share = REPAIRED * (1 - math.exp(-1 / REPAIRED)) if setting.is_exponential else REPAIRED
    truth = SHARE_OF_CLASSES * share * (1 - before.mean())
    return np.stack([gain, gain, nothing]), np.array([truth, truth, 0.0])


def _differences(methods: list[Features], images: Images, shot: int) -> Floats:
    """Accuracy of the first method and its differences from the others, [A, E]."""
    first, *others = (accuracies(features, images, shot) for features in methods)
    return np.stack([first, *(first - other for other in others)])


def _classes(images: Images, per_class: int, widest: int) -> NDArray[np.int64]:
    """Classes of episodes, [E, N], filled up with -1."""
    found = images[:, :, 0].astype(np.int64) // per_class
    return np.pad(found, ((0, 0), (0, widest - found.shape[1])), constant_values=-1)


def header(setting: Setting) -> str:
    """The first two lines of a table."""
    first, *others = setting.candidates
    columns = ("setting", "mean of", "± needed", f"± {first}", first, "below, above", *others)
    return f"| {' | '.join(columns)} |\n| --- | --- |{' ---: |' * (len(columns) - 2)}"


def table_rows(setting: Setting, results: Results) -> Iterator[str]:
    """One row for each quantity, its cells for each number of shots."""
    for position, quantity in enumerate(setting.quantities):
        places = range(position, results.means.shape[1], len(setting.quantities))
        cells = zip(*(_cells(results, place) for place in places), strict=True)
        yield f"| {setting.title} | {quantity} | {' | '.join(' · '.join(shots) for shots in cells)} |"


def _cells(results: Results, place: int) -> list[str]:
    """What one quantity gives at one number of shots."""
    counts = results.counts[:, place]
    truth, means = results.truths[:, place].mean(), results.means[counts, place]
    low, high = results.ends[counts, :, 0, place], results.ends[counts, :, 1, place]
    below, above = 100 * (truth < low).mean(axis=0), 100 * (truth > high).mean(axis=0)
    needed, given = 1.96 * 100 * means.std(ddof=1), 100 * (high - low)[:, 0].mean() / 2
    rows = zip(low.T, below, above, strict=True)
    covers = ["none" if np.isnan(ends).any() else f"{100 - under - over:.1f}" for ends, under, over in rows]
    return [f"{needed:.2f}", f"{given:.2f}", covers[0], f"{below[0]:.1f}, {above[0]:.1f}", *covers[1:]]


def too_short(setting: Setting, results: Results) -> str:
    """By how much an interval over episodes would have to be longer, for each quantity and number of shots."""
    task = list(setting.candidates).index("task")
    half = (results.ends[:, task, 1] - results.ends[:, task, 0]).mean(axis=0) / 2
    times = 1.96 * results.means.std(axis=0, ddof=1) / half
    shots = times.reshape(len(SHOTS), -1).T
    cells = (
        f"{quantity} {' · '.join(f'{of:.1f}' for of in row)}"
        for quantity, row in zip(setting.quantities, shots, strict=True)
        if quantity != CONDITIONAL
    )
    return f"{setting.title}: needed, in half-widths of the task interval: {'; '.join(cells)}."


def nested_table(count: int, processes: int = 1) -> str:
    """How much a half-width grows when episodes are added, which should only make it smaller."""
    lines = [
        f"The largest growth of a half-width between {min(NESTED):,}, {min(NESTED) + 1000:,}, … {max(NESTED):,} of the "
        "same episodes, in percent: its mean over replicates, and the 95th percentile:\n",
        f"| setting | mean of | {' | '.join(NESTED_CANDIDATES)} |",
        f"| --- | --- |{' ---: |' * len(NESTED_CANDIDATES)}",
    ]
    for name in NESTED_SETTINGS:
        setting = replace(SETTINGS[name], episodes=max(NESTED))
        growth = 100 * np.stack(replicates(partial(_nested, setting), count, processes))
        for position, quantity in enumerate(setting.quantities):
            if quantity == CONDITIONAL:
                continue
            found = growth[:, :, position]
            cells = (f"{of.mean():.1f}, {np.quantile(of, 0.95):.1f}" for of in found.T)
            lines.append(f"| {setting.title} | {quantity} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _nested(setting: Setting, number: int) -> Floats:
    """Largest relative growth of the half-widths of one replicate at the most shots, [I, A]."""
    *_, (drawn, _, _) = replicate(setting, number)
    lengths = []
    for episodes in NESTED:
        part = Drawn(drawn.values[:, :episodes], drawn.classes[:episodes], drawn.class_count)
        ends = np.array([candidate(part) for candidate in NESTED_CANDIDATES.values()])
        lengths.append(ends[:, 1] - ends[:, 0])
    steps = np.stack(lengths[1:]) / np.stack(lengths[:-1])
    return np.asarray(np.maximum(steps.max(axis=0) - 1, 0))


if __name__ == "__main__":
    main()
