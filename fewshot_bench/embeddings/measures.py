"""Measure embeddings, each measure with an interval over classes, and compare two networks on the same images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from numpy.typing import ArrayLike

from fewshot_bench._io.notebooks import ShownByFields
from fewshot_bench.arguments import checked_arguments
from fewshot_bench.embeddings.cka import KernelAlignment
from fewshot_bench.embeddings.class_geometry import ClassGeometry
from fewshot_bench.embeddings.embedded_classes import GROUPS, EmbeddedClasses, embedded_classes
from fewshot_bench.embeddings.similarities import Pairs
from fewshot_bench.embeddings.spectrum import Spectrum
from fewshot_bench.errors import ShapeError
from fewshot_bench.progress import SILENT, Progress
from fewshot_bench.statistics import jackknife_interval

_INF = math.inf


@dataclass(frozen=True)
class Measure(ShownByFields):
    """The title of a measure in tables, and the range of its values.

    Attributes:
        title: in tables.
        lowest: the smallest possible value.
        highest: the largest possible value; None for D, the dimensions of the embeddings.
    """

    title: str
    lowest: float = -_INF
    highest: float | None = _INF

    def bounds(self, size: int) -> tuple[float, float]:
        """The range of values for embeddings with D = `size`."""
        return self.lowest, size if self.highest is None else self.highest


MEASURES: Mapping[str, Measure] = {
    "isotropy_score": Measure("isotropy score", 0, 1),
    "isoscore": Measure("IsoScore", 0, 1),
    "participation_ratio": Measure("participation ratio", 1, None),
    "rankme": Measure("RankMe", 1, None),
    "same_class_cosine": Measure("mean cosine, same class", -1, 1),
    "different_class_cosine": Measure("mean cosine, different classes", -1, 1),
    "cosine_auc": Measure("AUC of cosines", 0, 1),
    "alignment": Measure("alignment", 0, 4),
    "uniformity": Measure("uniformity", -_INF, 0),
    "nc1": Measure("NC1", 0),
    "ncm_accuracy": Measure("nearest-class-mean accuracy", 0, 1),
    "linear_cka": Measure("linear CKA", -_INF, 1),
}
"""The measures by name, in the order of tables."""


@dataclass(frozen=True)
class Measured(ShownByFields):
    """The value of a measure, or the difference of two networks in it.

    Attributes:
        name: of the measure, a key of `MEASURES`.
        variant: of the embeddings: raw, centred, l2, or cl2 (centred, then L2-normalised); for CKA plain or debiased.
        value: NaN where the measure does not exist.
        low: lower end of the 95% interval over classes; None without intervals, or where it is unknown.
        high: upper end.
        replicates: the value without each group of classes, [G]; empty without intervals.
    """

    name: str
    variant: str
    value: float
    low: float | None = None
    high: float | None = None
    replicates: tuple[float, ...] = field(default=(), repr=False, compare=False)


class _Part(Protocol):
    def values(self, without: int | None = None) -> dict[tuple[str, str], float]: ...


@checked_arguments
def measure(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    intervals: bool = True,
    seed: int = 0,
    groups: int = GROUPS,
    progress: Progress = SILENT,
) -> tuple[Measured, ...]:
    """All measures of one network's embeddings.

    Args:
        embeddings: an array or tensor [I, D], in any order.
        labels: the class of each, [I].
        intervals: whether to compute intervals over classes, by a jackknife that leaves out groups of classes.
        seed: decides which classes form a group where there are more classes than groups.
        groups: how many at most.
        progress: shown one unit per group, and one for all classes.

    Raises:
        ShapeError: the arrays do not belong together.
        EmbeddingError: a value is not finite, an embedding is zero, all are equal, or the classes allow no pair.

    >>> import fewshot_bench as fb
    >>> embeddings = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]]
    >>> found = fb.measure(embeddings, [0, 0, 1, 1], intervals=False)
    >>> {one.name: round(one.value, 2) for one in found if one.name.endswith("class_cosine")}
    {'same_class_cosine': 0.8, 'different_class_cosine': 0.0}
    """
    split = embedded_classes(embeddings, labels, groups=groups, seed=seed)
    return _measured(split, [Spectrum(split), Pairs(split), ClassGeometry(split)], intervals, progress)


@checked_arguments
def compare_embeddings(
    a: ArrayLike,
    b: ArrayLike,
    labels: ArrayLike,
    *,
    measured: tuple[Sequence[Measured], Sequence[Measured]] | None = None,
    intervals: bool = True,
    seed: int = 0,
    groups: int = GROUPS,
) -> tuple[Measured, ...]:
    """How two networks differ in each measure, a minus b, and how similar they are (linear CKA).

    The same classes are left out for both, so that the interval of a difference is that of paired values.

    Args:
        a: embeddings of the first network, [I, D].
        b: of the second, [I, D'], of the same images in the same order.
        labels: the class of each, [I].
        measured: results of `measure` for each, with the same seed and groups, to avoid computing them again.
        intervals: whether to compute intervals over classes.
        seed: as of `measure`.
        groups: as of `measure`.

    Raises:
        ShapeError: the arrays, or what was measured, do not belong together.
        EmbeddingError: as of `measure`.

    >>> import fewshot_bench as fb
    >>> tight = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]]
    >>> loose = [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-0.8, 0.6]]
    >>> found = fb.compare_embeddings(tight, loose, [0, 0, 1, 1], intervals=False)
    >>> {one.name: round(one.value, 2) for one in found if one.name in ("same_class_cosine", "cosine_auc")}
    {'same_class_cosine': 0.2, 'cosine_auc': 0.25}
    """
    splits = [embedded_classes(side, labels, groups=groups, seed=seed) for side in (a, b)]
    if measured is None:
        first, second = (measure(side, labels, intervals=intervals, seed=seed, groups=groups) for side in (a, b))
    else:
        first, second = (tuple(side) for side in measured)
    if [_key(row) for row in first] != [_key(row) for row in second]:
        raise ShapeError("the two networks were measured differently. Measure both with the same groups and seed.")
    differences = []
    for left, right in zip(first, second, strict=True):
        replicates = [x - y for x, y in zip(left.replicates, right.replicates, strict=True)]
        differences.append(_with_interval(splits[0], left.name, left.variant, left.value - right.value, replicates))
    return *differences, *_measured(splits[0], [KernelAlignment(*splits)], intervals, SILENT)


def _key(row: Measured) -> tuple[str, str, int]:
    return row.name, row.variant, len(row.replicates)


def _measured(
    split: EmbeddedClasses, parts: Sequence[_Part], intervals: bool, progress: Progress
) -> tuple[Measured, ...]:
    values: list[dict[tuple[str, str], float]] = []
    with progress.step("measure", 1 + intervals * split.groups) as step:
        for without in [None, *range(split.groups)] if intervals else [None]:
            values.append({key: value for part in parts for key, value in part.values(without).items()})
            step.advance()
    return tuple(
        _with_interval(
            split,
            *key,
            values[0][key],
            [other.get(key, math.nan) for other in values[1:]],
            MEASURES[key[0]].bounds(split.rows.shape[1]),
        )
        for key in sorted(values[0], key=lambda key: list(MEASURES).index(key[0]))
    )


def _with_interval(
    split: EmbeddedClasses,
    name: str,
    variant: str,
    value: float,
    replicates: Sequence[float],
    bounds: tuple[float, float] = (-_INF, _INF),
) -> Measured:
    if not replicates:
        return Measured(name, variant, value)
    low, high = jackknife_interval(value, replicates, split.classes_of_groups, bounds=bounds)
    return Measured(
        name,
        variant,
        value,
        None if math.isnan(low) else low,
        None if math.isnan(high) else high,
        tuple(replicates),
    )
