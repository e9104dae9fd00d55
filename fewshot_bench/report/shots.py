"""Accuracy against the number of labelled images per class, from the rows of a leaderboard."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fewshot_bench.report.figures import LONGEST, MOST_LINES, FigureData
from fewshot_bench.report.labels import IS_LABELLED, IS_OWN
from fewshot_bench.report.leaderboard_rows import MEASURED
from fewshot_bench.report.names import in_words, is_transductive, is_whole, marked_names, task_names
from fewshot_bench.report.verdicts import count_text

_OTHER_TASK = ("dataset", "split", "way", "queries", "sampler", "seed")
"""What tasks of one figure have in common: all but the shots."""


@dataclass(frozen=True)
class ShotCurve:
    """A method with so many labelled images per class.

    Attributes:
        label: its name, cut to the room there is.
        name: the whole name.
        shots: ascending.
        means: accuracies in %.
        half_widths: of the 95% intervals over episodes, in points.
        data_half_widths: of those over classes and images as well; NaN where they are unknown.
        is_own: whether the author of the page wants it highlighted.
    """

    label: str
    name: str
    shots: Sequence[int]
    means: Sequence[float]
    half_widths: Sequence[float]
    data_half_widths: Sequence[float]
    is_own: bool = False


@dataclass(frozen=True, kw_only=True)
class ShotsFigure(FigureData):
    """Curves of one kind of task, the highest first.

    Attributes:
        curves: at most `MOST_LINES`, those that are highest at their largest number of shots, and the author's own.
        sentence: what more images brought the highest one, between measured numbers of shots.
    """

    curves: Sequence[ShotCurve] = ()
    sentence: str = ""

    @property
    def ticks(self) -> list[int]:
        """All numbers of shots, ascending."""
        return sorted({shot for curve in self.curves for shot in curve.shots})


def shots_figures(frame: pd.DataFrame) -> list[ShotsFigure]:
    """A figure for each kind of task that a method was measured on with two numbers of shots or more.

    Args:
        frame: a completed leaderboard, `labelled` or not; whole splits and published rows have no curve.
    """
    rows = [row for row in frame[frame["source"] == MEASURED].to_dict("records") if not is_whole(row)]
    tasks: dict[tuple[Any, ...], list[Mapping[Hashable, Any]]] = {}
    for row in rows:
        tasks.setdefault(tuple(row[name] for name in _OTHER_TASK), []).append(row)
    drawn = {task: found for task, same in tasks.items() if (found := _by_method(same))}
    firsts = {str(number): next(iter(found.values()))[0] for number, found in enumerate(drawn.values())}
    names = task_names({key: {**row, "shot": 0} for key, row in firsts.items()})
    titles = [name.replace("-way 0-shot", "-way") for name in names.values()]
    return [_figure(title, found) for title, found in zip(titles, drawn.values(), strict=True)]


def _by_method(rows: Sequence[Mapping[Hashable, Any]]) -> dict[str, list[Mapping[Hashable, Any]]]:
    """The rows of each method with two numbers of shots or more, by shots; another protocol of one size is left out."""
    found: dict[str, dict[int, Mapping[Hashable, Any]]] = {}
    for row in rows:
        found.setdefault(str(row["method"]), {}).setdefault(int(row["shot"]), row)
    return {name: [by_shot[shot] for shot in sorted(by_shot)] for name, by_shot in found.items() if len(by_shot) > 1}


def _figure(title: str, methods: Mapping[str, Sequence[Mapping[Hashable, Any]]]) -> ShotsFigure:
    ordered = sorted(methods, key=lambda name: -float(methods[name][-1]["mean"]))
    kept = [name for place, name in enumerate(ordered) if place < MOST_LINES or methods[name][0].get(IS_OWN)]
    transductive = {name for name in kept if is_transductive(methods[name][0])}
    curves = [
        ShotCurve(
            label,
            name,
            [int(row["shot"]) for row in methods[name]],
            [float(row["mean"]) for row in methods[name]],
            [float(row["ci95"]) for row in methods[name]],
            [float(row["data_ci95"]) for row in methods[name]],
            bool(methods[name][0].get(IS_OWN)),
        )
        for label, name in zip(marked_names(kept, transductive, LONGEST), kept, strict=True)
    ]
    best = methods[kept[0]][0]
    sentence = _sentence(curves[0], kept[0] if best.get(IS_LABELLED) else in_words(kept[0]))
    note = f"the best {len(kept)} of {len(methods)}" if len(methods) > len(kept) else ""
    label = ("labelled images per class (logarithmic)",)
    return ShotsFigure(title=title, note=note, label=label, curves=curves, sentence=sentence)


def _sentence(curve: ShotCurve, name: str) -> str:
    """How the accuracy of a method grew with the shots that were measured; nothing is extrapolated."""
    steps = [
        f"{high - low:+.1f} points from {first} to {second}"
        for first, second, low, high in zip(curve.shots, curve.shots[1:], curve.means, curve.means[1:], strict=False)
    ]
    images = count_text(curve.shots[0], "labelled image")
    return f"{name} reaches {curve.means[0]:.1f}% with {images} per class; {', '.join(steps)}."
