"""What each figure shows: rows, curves, intervals, labels and notes, computed once from the results.

`page.plotly` turns these descriptions into Plotly's JSON for the page, `paper_figures` into Matplotlib's pictures for a
paper. Neither computes a number or words a label. Class differences, cost and pairs are drawn on the page alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fewshot_bench.outcomes import marked
from fewshot_bench.report.content import Pairs, ProtocolResults, Quantiles, Ranking
from fewshot_bench.report.labels import IS_OWN
from fewshot_bench.report.leaderboard import kind_order
from fewshot_bench.report.leaderboard_rows import MEASURED
from fewshot_bench.report.names import (
    is_across,
    is_transductive,
    is_whole,
    marked_names,
    row_name,
    short_name,
    short_names,
    value_text,
)
from fewshot_bench.report.sweeps import axes_of, marked_line, mean_over_shots
from fewshot_bench.report.verdicts import (
    ACROSS,
    FOR_THESE_CLASSES,
    NOTHING_SHOWN,
    ON_THIS_SPLIT,
    about_data,
    is_on_this_split,
    p_equation,
    p_text,
    ranks_text,
)
from fewshot_bench.units import time_text

Role = Literal["better", "worse", "neutral"]
Symbol = Literal["right", "left", "diamond", "circle"]

MOST_LINES = 8
LONGEST = 44  # letters of a method's name
CHOSEN = "chosen"
LOOKS: Mapping[str, tuple[Role, Symbol]] = {
    "better": ("better", "right"),
    f"better{FOR_THESE_CLASSES}": ("better", "right"),
    f"better{ON_THIS_SPLIT}": ("better", "diamond"),
    "worse": ("worse", "left"),
    f"worse{FOR_THESE_CLASSES}": ("worse", "left"),
    f"worse{ON_THIS_SPLIT}": ("worse", "diamond"),
    NOTHING_SHOWN: ("neutral", "circle"),
}
"""Colour and symbol of each verdict, by role."""
_SYMBOLS = {"lambda": "λ", "tau": "τ"}
_LOGARITHMIC_FROM = 30.0
_MOST_CLASSES, _LONGEST_CLASS, _LONGEST_PAIRED = 40, 24, 40
_MOST_KINDS, _OTHER_KINDS, _MOST_COST_INTERVALS, _LONGEST_COST, _MOST_TICKS = 7, "others", 100, 60, 9
_LARGE_MATRIX = 10
_MATRIX_MARK = " [T]"
"""Behind the name of a transductive method: a matrix has no room for the word, so the caption says what it means."""


@dataclass(frozen=True, kw_only=True)
class FigureData:
    """What figures of all kinds have.

    Attributes:
        title: what it is about, such as the protocol.
        note: how many rows are shown, or what a test says; may be empty.
        label: below the horizontal axis, in lines.
        why_empty: why there is nothing to draw; empty where there is something.
    """

    title: str
    note: str = ""
    label: Sequence[str] = ()
    why_empty: str = ""

    @property
    def caption(self) -> str:
        """Title, note and label in one line."""
        return f"{_joined(self.title, self.note)}: {' '.join(self.label)}"


@dataclass(frozen=True)
class FigureRow:
    """A row of a figure.

    Attributes:
        label: its name, cut to the room there is.
        details: what it says when it is pointed at, in lines; the first is the full name.
        value: where its mark stands.
        interval: ends of the interval around it, thick where there are two.
        data_interval: ends of the thin interval; NaN where it is unknown.
        verdict: one of `LOOKS`, which gives colour and symbol.
        is_measured: whether outcomes are stored; a published number has an open mark.
        box: quantiles over episodes.
        is_own: whether the author of the page wants it highlighted.
    """

    label: str
    details: Sequence[str]
    value: float
    interval: tuple[float, float] = (math.nan, math.nan)
    data_interval: tuple[float, float] = (math.nan, math.nan)
    verdict: str = NOTHING_SHOWN
    is_measured: bool = True
    box: Quantiles | None = None
    is_own: bool = False


@dataclass(frozen=True, kw_only=True)
class RowsFigure(FigureData):
    """A figure with one row per method or class, from top to bottom.

    Attributes:
        rows: inductive methods first.
        first_transductive: number of the first transductive row if inductive ones stand above it, else 0.
        data_label: what the thin intervals cover; empty where there are none.
    """

    rows: Sequence[FigureRow] = ()
    first_transductive: int = 0
    data_label: str = ""

    @property
    def labels(self) -> list[str]:
        """Of the rows."""
        return [row.label for row in self.rows]

    def by_verdict(self) -> Iterator[tuple[str, Role, Symbol, list[int]]]:
        """Each verdict that rows have, with its looks and the numbers of these rows."""
        for verdict, (role, symbol) in LOOKS.items():
            numbers = [number for number, row in enumerate(self.rows) if row.verdict == verdict]
            if numbers:
                yield verdict, role, symbol, numbers


def forest(protocol: ProtocolResults, most: int) -> RowsFigure:
    """The differences of a protocol's methods to its baseline, with both intervals; the `most` best rows."""
    tested = protocol.tested
    if not len(tested):
        return RowsFigure(title=protocol.name, why_empty="No baseline. Name one with --baseline to see differences.")
    kept = tested.head(most)
    kept = kept.iloc[np.argsort(kind_order(kept), kind="stable")]
    baseline = next(name for name in tested["baseline"] if name)
    names = kept["method"].tolist()
    labels = marked_names(names, protocol.transductive, LONGEST)
    has_data = kept["diff_data_ci95_low"].notna() & (not protocol.is_whole)
    return RowsFigure(
        title=protocol.name,
        note=_best_of(len(kept), len(tested)),
        label=("points above or below", marked_names([baseline], protocol.transductive, LONGEST)[0]),
        rows=[_forest_row(row, label) for row, label in zip(kept.to_dict("records"), labels, strict=True)],
        first_transductive=_first_transductive(names, protocol),
        data_label=f"thin: over {' or '.join(sorted(set(kept['beyond'][has_data])))}" if has_data.any() else "",
    )


def _forest_row(row: Mapping[Any, Any], label: str) -> FigureRow:
    ends = (row["diff_ci95_low"], row["diff_ci95_high"])
    data_ends = (row["diff_data_ci95_low"], row["diff_data_ci95_high"])
    details = [row_name(row), f"{row['difference']:+.2f} points: {row['verdict']}"]
    if is_across(row):
        details.append(ACROSS)
    if is_whole(row):
        data_ends = (math.nan, math.nan)  # the interval over test images is the one there is
    details.append(f"95% over {'test images' if is_whole(row) else 'episodes'}: {ends[0]:+.2f} to {ends[1]:+.2f}")
    if data_ends[0] == data_ends[0]:
        details.append(f"95% over {row['beyond']}: {data_ends[0]:+.2f} to {data_ends[1]:+.2f}")
    claims = {"p_corrected": "on this split", "p_beyond_corrected": "beyond it"}
    for name, where in {"p_corrected": "over test images"}.items() if is_whole(row) else claims.items():
        if row[name] == row[name]:
            details.append(f"p {p_text(row[name])} {where}")
    is_measured = row["source"] == MEASURED
    if not is_measured:
        details += [f"published: {row['source']}", *([row["note"]] if isinstance(row.get("note"), str) else [])]
    if row["p_training"] == row["p_training"]:
        low, high = row["diff_training_ci95_low"], row["diff_training_ci95_high"]
        details.append(f"95% over trainings: {low:+.2f} to {high:+.2f}, p {p_text(row['p_training_corrected'])}")
    verdict, is_own = about_data(row["verdict"]), bool(row.get(IS_OWN))
    return FigureRow(label, details, row["difference"], ends, data_ends, verdict, is_measured, is_own=is_own)


def distributions(protocol: ProtocolResults) -> RowsFigure:
    """How the accuracies of the episodes of each method spread, from quantiles."""
    if not protocol.quantiles:
        return RowsFigure(title=protocol.name, why_empty="No outcomes.")
    names = list(protocol.quantiles)
    labels = marked_names(names, protocol.transductive, LONGEST)
    return RowsFigure(
        title=protocol.name,
        note=_best_of(len(names), len(protocol.measured)),
        label=("recall of a class, %" if protocol.is_whole else "accuracy of an episode, %",),
        rows=[
            FigureRow(label, _box_details(protocol, name, box), box.median, box=box, is_own=name in protocol.own)
            for label, (name, box) in zip(labels, protocol.quantiles.items(), strict=True)
        ],
        first_transductive=_first_transductive(names, protocol),
    )


def _box_details(protocol: ProtocolResults, name: str, box: Quantiles) -> list[str]:
    unit = "classes" if protocol.is_whole else "episodes"
    return [
        protocol.display_name(name),
        f"median {box.median:.1f}, mean {box.mean:.2f}",
        f"half of the {unit}: {box.first_quartile:.1f} to {box.third_quartile:.1f}",
        f"nine in ten: {box.low:.1f} to {box.high:.1f}",
    ]


def _joined(*texts: str) -> str:
    return ", ".join(filter(None, texts))


def _best_of(shown: int, count: int) -> str:
    return f"the best {shown} of {count}" if count > shown else ""


def _first_transductive(names: Sequence[str], protocol: ProtocolResults) -> int:
    return next((number for number, name in enumerate(names) if name in protocol.transductive), 0)


@dataclass(frozen=True, kw_only=True)
class RanksFigure(RowsFigure):
    """Mean ranks over datasets, each with an interval as long as Nemenyi's critical difference."""

    critical_difference: float

    @property
    def differ(self) -> NDArray[np.bool_]:
        """Which methods are further apart than the critical difference, [A, A]."""
        ranks = np.array([row.value for row in self.rows])
        return np.asarray(np.abs(np.subtract.outer(ranks, ranks)) > self.critical_difference)


def ranks(ranking: Ranking, longest: int = LONGEST) -> RanksFigure:
    """Mean ranks of methods over datasets (Demsar, 2006); two methods differ if and only if their intervals part.

    Args:
        ranking: of three methods or more.
        longest: letters of a name.
    """
    count, half = len(ranking.methods), ranking.critical_difference / 2
    labels = marked_names(ranking.methods, ranking.transductive, longest)
    names = map(ranking.display_name, ranking.methods)
    rows = [
        FigureRow(label, (name, f"mean rank {rank:.2f}"), rank, (rank - half, rank + half))
        for label, name, rank in zip(labels, names, ranking.mean_ranks, strict=True)
    ]
    return RanksFigure(
        title=ranking.name,
        note=f"{ranks_text(count, ranking.critical_difference)}; Friedman {p_equation(ranking.p)}",
        label=(_joined("mean rank", _best_of(count, count + ranking.left_out)),),
        rows=rows,
        critical_difference=ranking.critical_difference,
    )


@dataclass(frozen=True)
class Curve:
    """Accuracy along the horizontal axis for one combination of the other axes and one number of shots.

    Attributes:
        line: number of the combination, which gives the colour.
        shot: of its tasks.
        label: the combination.
        label_with_shot: the same where curves of several shots share a panel.
        x: values of the axis, ascending.
        means: in %.
        half_widths: of the 95% intervals; 0 where there is none.
        chosen: number of the chosen point; None where it is on another curve.
    """

    line: int
    shot: int
    label: str
    label_with_shot: str
    x: Sequence[float]
    means: Sequence[float]
    half_widths: Sequence[float]
    chosen: int | None


@dataclass(frozen=True, kw_only=True)
class SweepFigure(FigureData):
    """Accuracy on the validation split along one axis of a sweep, as Figure 2 of Long et al. (2023), with intervals.

    Attributes:
        axis: name of the horizontal axis.
        curves: line by line, each by its shots.
        shots: in the order of the sweep.
        ticks: the values of the axis, ascending, and their texts.
        is_logarithmic: whether the values span so much that a logarithmic axis shows them better.
        vertical_label: beside the vertical axis.
    """

    axis: str = ""
    curves: Sequence[Curve] = ()
    shots: Sequence[int] = ()
    ticks: Mapping[float, str] = field(default_factory=dict)
    is_logarithmic: bool = False
    vertical_label: str = "validation accuracy, %"


def sweep(frame: pd.DataFrame, title: str) -> SweepFigure:
    """The curves of a sweep along lambda, or along the first axis of at least two numbers.

    Args:
        frame: as `sweep_frame` returns it.
        title: what was swept.

    Returns:
        At most `MOST_LINES` lines, those that come closest to the best point, in the order of the grid.
    """
    numeric = [name for name in axes_of(frame) if _is_numeric(frame[name]) and frame[name].nunique() > 1]
    if not numeric:
        return SweepFigure(title=title, why_empty="no picture: no axis of the grid has two numbers to draw along.")
    axis = "lambda" if "lambda" in numeric else numeric[0]
    others = [name for name in axes_of(frame) if name != axis]
    shots = list(dict.fromkeys(frame["shot"]))
    lines = [rows for _, rows in frame.groupby(others, sort=False)] if others else [frame]
    best = np.argsort([-float(mean_over_shots(rows)["mean"].max()) for rows in lines], kind="stable")[:MOST_LINES]
    curves = []
    for number, place in enumerate(sorted(best)):
        ordered = lines[place].sort_values(axis, kind="stable")
        curves += [_curve(ordered[ordered["shot"] == shot], number, axis, others, len(shots) > 1) for shot in shots]
    ticks = sorted({value for curve in curves for value in curve.x})
    return SweepFigure(
        title=title,
        label=(_SYMBOLS.get(axis, axis.replace("_", " ")),),
        axis=axis,
        curves=curves,
        shots=shots,
        ticks={tick: value_text(tick) for tick in ticks},
        is_logarithmic=ticks[0] > 0 and ticks[-1] / ticks[0] >= _LOGARITHMIC_FROM,
    )


def _is_numeric(column: pd.Series) -> bool:
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in column.tolist())


def _curve(rows: pd.DataFrame, line: int, axis: str, others: Sequence[str], has_shots: bool) -> Curve:
    first, shot = rows.iloc[0], int(rows["shot"].iloc[0])
    settings = ", ".join(f"{_SYMBOLS.get(name, name.replace('_', ' '))} = {value_text(first[name])}" for name in others)
    with_shot = _joined(settings, f"{shot}-shot" if has_shots or not settings else "")
    chosen = rows["is_best"].tolist()
    return Curve(
        line,
        shot,
        marked_line(settings or "mean, 95% CI", rows),
        marked_line(with_shot, rows),
        rows[axis].tolist(),
        rows["mean"].tolist(),
        rows["ci95"].fillna(0).tolist(),
        chosen.index(True) if any(chosen) else None,
    )


def classes(protocol: ProtocolResults) -> RowsFigure:
    """The differences of the best method and the baseline, or of the two best, by class, the largest first."""
    pair = protocol.by_class
    if pair is None:
        return RowsFigure(
            title=protocol.name, why_empty="Unknown: it takes two methods, their predictions and the class sizes."
        )
    found = pair.classes
    order = found.order[:_MOST_CLASSES]
    names = [found.names[number] for number in order.tolist()]
    unit = "images" if protocol.is_whole else "episodes"
    numbers = (found.accuracy_a, found.accuracy_b, found.differences, found.half_widths)
    columns = [*((100 * column[order]).tolist() for column in numbers), found.episodes[order].tolist()]
    rows = [
        FigureRow(
            label,
            (name, f"{accuracy_a:.1f}% against {accuracy_b:.1f}%, {episodes:,} {unit}"),
            difference,
            (difference - half_width, difference + half_width),
            verdict="better" if difference >= 0 else "worse",
        )
        for label, name, accuracy_a, accuracy_b, difference, half_width, episodes in zip(
            short_names(names, _LONGEST_CLASS), names, *columns, strict=True
        )
    ]
    shown = f"the {len(order)} largest of {len(found.names)} classes" if len(found.names) > len(order) else ""
    is_mixed = (pair.a in protocol.transductive) != (pair.b in protocol.transductive)
    a, b = (marked_names([name], protocol.transductive, _LONGEST_PAIRED)[0] for name in (pair.a, pair.b))
    return RowsFigure(
        title=protocol.name,
        note="; ".join(filter(None, (shown, ACROSS if is_mixed else ""))),
        label=(f"points by which {a}", f"is above {b}"),
        rows=rows,
    )


_NOT_CONFUSED = "Unknown: it takes predictions and class sizes, which imported accuracies lack."


def confused_pairs(protocol: ProtocolResults) -> RowsFigure:
    """The pairs of classes that the best method confuses most, the largest share first."""
    if protocol.confused is None:
        return RowsFigure(title=protocol.name, why_empty=_NOT_CONFUSED)
    pairs = protocol.confused.classes.pairs
    if not pairs:
        return RowsFigure(title=protocol.name, why_empty="No two classes met in ten episodes.")
    unit = "test images of the two" if protocol.is_whole else "episodes with both"
    names = [f"{pair.a}, {pair.b}: {100 * pair.share:.0f}%" for pair in pairs]
    return RowsFigure(
        title=protocol.name,
        note=_of_method(protocol),
        label=("share of the queries of the two classes", "that are taken for the other one, %"),
        rows=[
            FigureRow(
                label,
                (
                    f"{pair.a} and {pair.b}: {100 * pair.share:.1f}%",
                    f"{pair.a} taken for {pair.b}: {100 * pair.a_as_b:.1f}%",
                    f"{pair.b} taken for {pair.a}: {100 * pair.b_as_a:.1f}%",
                    f"{pair.meetings:,} {unit}",
                ),
                100 * pair.share,
                verdict=NOTHING_SHOWN,
            )
            for label, pair in zip(short_names(names, LONGEST), pairs, strict=True)
        ],
    )


def _of_method(protocol: ProtocolResults) -> str:
    assert protocol.confused is not None
    return marked_names([protocol.confused.method], protocol.transductive, LONGEST)[0]


def confusion_matrix(protocol: ProtocolResults) -> MatrixFigure:
    """What the best method takes for what, classes that are confused with each other side by side."""
    if protocol.confused is None:
        return MatrixFigure(title=protocol.name, why_empty=_NOT_CONFUSED)
    found = protocol.confused.classes
    if found.matrix is None:
        return MatrixFigure(title=protocol.name, why_empty="Too many classes for a matrix: see the pairs above.")
    order = found.order
    shares = 100 * found.matrix[np.ix_(order, order)]
    names = [found.names[number] for number in order]
    places = range(len(names))
    return MatrixFigure(
        title=protocol.name,
        note=_of_method(protocol),
        labels=[f"{name}  {number}" for number, name in enumerate(short_names(names, _LONGEST_CLASS), 1)],
        values=shares.tolist(),
        details=[
            [
                "" if shares[a, b] != shares[a, b] else f"{names[a]} taken for {names[b]}: {shares[a, b]:.1f}%"
                for b in places
            ]
            for a in places
        ],
        limit=max(float(np.nanmax(shares, initial=0.0)), 0.1),
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class CostFigure(FigureData):
    """Accuracy against seconds per episode, and against peak memory where it was measured.

    Attributes:
        rows: a row per method, with `kind`, `label`, `seconds`, `gib`, `mean` and `ci95`.
        has_memory: whether any method has a peak.
        needs_legend: whether there are several kinds.
        has_intervals: whether intervals are drawn; many hide each other and take long to draw.
        ticks: seconds and their texts.
        unit: what takes these seconds.
    """

    rows: pd.DataFrame = field(default_factory=pd.DataFrame)
    has_memory: bool = False
    needs_legend: bool = False
    has_intervals: bool = True
    ticks: Mapping[float, str] = field(default_factory=dict)
    unit: str = "episode"


def cost(protocol: ProtocolResults) -> CostFigure:
    """What accuracy costs; adaptations that are too rare to get a colour are put together."""
    rows = protocol.measured
    rows = rows[rows["episodes_per_second"] > 0]
    if not len(rows):
        return CostFigure(title=protocol.name, why_empty="No times are recorded.")
    common = rows["adaptation"].value_counts().index[:_MOST_KINDS].tolist()
    records = rows.to_dict("records")
    kinds = [row["adaptation"] if row["adaptation"] in common else _OTHER_KINDS for row in records]
    seconds = 1 / rows["episodes_per_second"]
    rows = rows.assign(
        seconds=seconds,
        gib=rows["peak_bytes"] / 2**30,
        kind=[marked(kind, is_transductive(row)) for kind, row in zip(kinds, records, strict=True)],
        label=[marked(short_name(row["method"], _LONGEST_COST), is_transductive(row)) for row in records],
    )
    # Ticks at 1, 2 and 5 of each power of ten, or at 1 alone, with their unit: Plotly writes 2m for 2 ms.
    first, last = math.floor(math.log10(seconds.min())), math.ceil(math.log10(seconds.max()))
    digits = (1, 2, 5) if 3 * (last - first) < _MOST_TICKS else (1,)
    ticks = [digit * 10.0**power for power in range(first, last + 1) for digit in digits]
    return CostFigure(
        title=protocol.name,
        rows=rows,
        has_memory=bool(rows["gib"].notna().any()),
        needs_legend=rows["kind"].nunique() > 1 or bool(protocol.transductive),
        has_intervals=len(rows) <= _MOST_COST_INTERVALS,
        ticks={tick: time_text(tick) for tick in ticks},
        unit="image" if protocol.is_whole else "episode",
    )


@dataclass(frozen=True, kw_only=True)
class MatrixFigure(FigureData):
    """Every method against every other.

    Attributes:
        labels: of the methods, with the numbers of their columns.
        values: differences in points; None where a cell stays empty, [A, A].
        texts: what stands in the cells, [A, A]; empty for a large matrix, whose coloured cells have shown differences.
        details: what a cell says when it is pointed at, in lines, [A, A].
        limit: of the colour scale, in points.
    """

    labels: Sequence[str] = ()
    values: Sequence[Sequence[float]] = ()
    texts: Sequence[Sequence[str]] = ()
    details: Sequence[Sequence[Sequence[str]]] = ()
    limit: float = 0.0


def matrix(protocol: ProtocolResults) -> MatrixFigure:
    """The pairs of a protocol.

    A small matrix has its numbers, starred where a difference is shown beyond this split, with a ring where it is shown
    on this split alone. In a large one, cells without a star are empty: hundreds of numbers can neither be read nor
    drawn quickly.
    """
    pairs = protocol.pairs
    if pairs is None:
        return MatrixFigure(title=protocol.name, why_empty="No two methods have episodes in common.")
    count = len(pairs.methods)
    places, is_small = range(count), count <= _LARGE_MATRIX
    names = marked_names(pairs.methods, protocol.transductive, 26 if is_small else 20, _MATRIX_MARK)
    marks = [[_mark(pairs.verdict(row, column)) for column in places] for row in places]
    cells = [list(zip(*row, strict=True)) for row in zip(pairs.difference.tolist(), marks, strict=True)]
    texts = [["" if value != value else f"{value:+.1f}{mark}" for value, mark in row] for row in cells]
    for place in places:
        texts[place][place] = ""
    common = pairs.episodes[np.triu_indices(count, 1)]
    least, most = int(common.min()), int(common.max())
    episodes = f"{most:,}" if least == most else f"{least:,} to {most:,}"
    return MatrixFigure(
        title=protocol.name,
        note=_joined(
            f"{episodes} common {'test images' if protocol.is_whole else 'episodes'}",
            _best_of(count, count + pairs.left_out),
        ),
        labels=[f"{name}  {number}" for number, name in enumerate(names, 1)],
        values=[[value if is_small or mark == "*" else math.nan for value, mark in row] for row in cells],
        texts=texts if is_small else (),
        details=[[_pair_details(pairs, row, column, protocol) for column in places] for row in places],
        limit=max(float(np.nanmax(np.abs(pairs.difference))), 0.01),
    )


def _mark(verdict: str) -> str:
    return "" if verdict == NOTHING_SHOWN else "°" if is_on_this_split(verdict) else "*"


def _pair_details(pairs: Pairs, row: int, column: int, protocol: ProtocolResults) -> list[str]:
    split, beyond = float(pairs.p[row, column]), float(pairs.p_beyond[row, column])
    if split != split or row == column:
        return []
    is_mixed = (pairs.methods[row] in protocol.transductive) != (pairs.methods[column] in protocol.transductive)
    verdict = "; ".join(filter(None, (pairs.verdict(row, column), ACROSS if is_mixed else "")))
    if protocol.is_whole:
        return [verdict, f"p {p_text(split)} over test images"]
    return [verdict, f"p {p_text(split)} on this split, {p_text(beyond)} beyond it"]
