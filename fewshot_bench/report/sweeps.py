"""The points of a sweep as rows and in a terminal: accuracies with intervals, and tests against the best point."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fewshot_bench._io.locations import Location
from fewshot_bench._io.storage import checked_folder, folders_in, is_file, read_bytes
from fewshot_bench._io.text import unguarded
from fewshot_bench.errors import IrregularFileError, OutcomeError
from fewshot_bench.outcomes import Cell, OutcomeStore, marked
from fewshot_bench.report.names import is_transductive, value_text
from fewshot_bench.report.scores import over_trainings, task_scores
from fewshot_bench.report.verdicts import SIGNIFICANCE, p_text, points
from fewshot_bench.statistics import corrected, paired_t_test, summarise, training_spread

SWEEP_COLUMNS = (
    "shot",
    "median",
    "mean",
    "ci95",
    "episodes",
    "runs",
    "difference",
    "diff_ci95_low",
    "diff_ci95_high",
    "p",
    "paired_episodes",
    "is_best",
    "method",
    "method_fingerprint",
    "is_transductive",
)
TRAINING_COLUMNS = ("trainings", "training_sd", "training_ci95")
"""Columns of a sweep whose points have several trainings."""
_LARGEST = 16_000_000  # bytes
_NEEDED = {"shot", "mean", "ci95", "is_best"}
_NUMBERS = ("difference", "diff_ci95_low", "diff_ci95_high", "p")


@dataclass(frozen=True)
class SweepResults:
    """A sweep that is stored: its name and its table, as `sweep_frame` makes it."""

    name: str
    frame: pd.DataFrame


@dataclass(frozen=True)
class SweptPoint:
    """A setting and its cells, one per number of shots, or that many trainings of each."""

    values: Mapping[str, Any]
    cells: Sequence[Cell]


def sweep_frame(store: OutcomeStore, points: Sequence[SweptPoint], *, episodes: int, runs: int) -> pd.DataFrame:
    """Summarise a sweep. Accuracies are in %, differences to the best point in percentage points.

    The best point has the highest mean over the shots of its mean accuracies; of equal ones it is the first.

    Args:
        store: where the outcomes are.
        points: in the order of the grid, all with the same axes and shots.
        episodes: of each run that count, the first ones.
        runs: that count, the first ones.

    Returns:
        A row per point and shot, in that order: the value on each axis, then `SWEEP_COLUMNS`, and where points have
        several trainings, whose means the numbers are, `TRAINING_COLUMNS`. The test is empty for the best point
        itself, and where fewer than two episodes are there.

    Raises:
        OutcomeError: nothing is stored for a cell, a part is damaged, or there are no points.
    """
    if not points:
        raise OutcomeError("a sweep needs at least one point.")
    frames: dict[str, pd.DataFrame] = {}
    for cell in (cell for point in points for cell in point.cells):
        if cell.key not in frames:
            stored = store.read(cell, with_predictions=False)
            frames[cell.key] = stored[(stored["run"] < runs) & (stored["episode"] < episodes)]
    best = _best(points, frames)
    rows = [
        {**_axes(point.values), **_row(trainings, frames, of_best), "is_best": point is best}
        for point in points
        for trainings, of_best in zip(*map(_by_shot, (point, best)), strict=True)
    ]
    more = TRAINING_COLUMNS if any(row["trainings"] > 1 for row in rows) else ()
    return pd.DataFrame(rows, columns=[*_axes(points[0].values), *SWEEP_COLUMNS, *more])


def _by_shot(point: SweptPoint) -> list[list[Cell]]:
    """The trainings of a point for each number of shots."""
    groups: dict[str, list[Cell]] = {}
    for cell in point.cells:
        groups.setdefault(cell.protocol.fingerprint, []).append(cell)
    return list(groups.values())


def _best(points: Sequence[SweptPoint], frames: Mapping[str, pd.DataFrame]) -> SweptPoint:
    def mean_over_shots(point: SweptPoint) -> float:
        return sum(float(frames[cell.key]["accuracy"].mean()) for cell in point.cells) / len(point.cells)

    return max(points, key=mean_over_shots)


def _axes(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values by the name of their column; a name that a column has already gets an underscore."""
    return {f"{name}_" if name in SWEEP_COLUMNS else name: value for name, value in values.items()}


def _row(trainings: Sequence[Cell], frames: Mapping[str, pd.DataFrame], best: Sequence[Cell]) -> dict[str, Any]:
    every = list({cell.key: cell for cell in (*trainings, *best)}.values())
    groups = [trainings] if trainings[0].key == best[0].key else [trainings, best]
    scores = over_trainings(task_scores([frames[cell.key] for cell in every], every), groups)
    cell, is_best = scores.cells[0], len(groups) == 1
    own, both = scores.of(0), scores.of(0) if is_best else scores.pair(0, 1)
    summary = summarise(scores.accuracy[0, own], scores.run[own])
    several = scores.trainings[0] if scores.trainings else None
    spread = None if several is None else training_spread(100 * several.means(own))
    tested: dict[str, Any] = dict.fromkeys(_NUMBERS)
    if not is_best and both.sum() > 1:
        test = paired_t_test(*scores.accuracy[:, both])
        ends = (test.mean_difference, test.ci_low, test.ci_high)
        tested = dict(zip(_NUMBERS, (*(100 * end for end in ends), test.p), strict=True))
    return {
        "shot": cell.protocol.shot,
        "median": 100 * summary.median,
        "mean": 100 * summary.interval.mean,
        "ci95": 100 * summary.interval.half_width,
        "episodes": summary.episodes,
        "runs": summary.runs,
        **tested,
        "paired_episodes": int(both.sum()) if tested["p"] is not None else None,
        "method": cell.method.name,
        "method_fingerprint": cell.method.fingerprint,
        "is_transductive": cell.method.is_transductive,
        "trainings": 1 if spread is None else spread.trainings,
        "training_sd": None if spread is None else spread.sd,
        "training_ci95": None if spread is None else spread.half_width,
    }


_MARK = "*"
_ANY_WIDTH = 10_000


def print_sweep(frame: pd.DataFrame, title: str, console: Console) -> None:
    """Print a sweep per number of shots, and its mean over the shots where there are several.

    Args:
        frame: as `sweep_frame` returns it.
        title: what was swept on what, e.g. "cifar-fs (validation split) 5-way".
        console: where to.
    """
    axes, is_mixed = axes_of(frame), "is_transductive" in frame and frame["is_transductive"].nunique() > 1
    plus_minus = "+/-" if console.options.ascii_only else "±"
    shots = list(dict.fromkeys(frame["shot"]))
    for shot in shots:
        rows = frame[frame["shot"] == shot]
        console.print(Text(f"{marked_line(title, frame)} {shot}-shot, {_budget(rows)}: mean % {plus_minus} 95% CI"))
        _print(rows, axes, [_cell(row, plus_minus, is_mixed=is_mixed) for row in rows.to_dict("records")], console)
        console.print(Text(_remark(rows)))
        console.print()
    if len(shots) > 1:
        rows = mean_over_shots(frame)
        several = ", ".join(str(shot) for shot in shots)
        console.print(Text(f"{marked_line(title, frame)}, mean over {several} shots, which decides: %"))
        _print(rows, axes, [_cell(row, "", is_mixed=is_mixed) for row in rows.to_dict("records")], console)
        console.print()


def marked_line(text: str, rows: pd.DataFrame) -> str:
    """A text about some points of a sweep, marked where all of them are of transductive methods."""
    return marked(text, "is_transductive" in rows and bool(rows["is_transductive"].all()))


def axes_of(frame: pd.DataFrame) -> list[str]:
    """The columns of a sweep's frame that are axes of its grid."""
    return [str(column) for column in frame.columns if column not in (*SWEEP_COLUMNS, *TRAINING_COLUMNS)]


def mean_over_shots(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per point: its values, the mean accuracy over the shots, and whether it is the best."""
    shots = frame["shot"].nunique()
    kept = [*axes_of(frame), "is_best", *(name for name in ("is_transductive",) if name in frame)]
    points_ = frame.iloc[::shots][kept].reset_index(drop=True)
    return points_.assign(mean=frame["mean"].to_numpy().reshape(-1, shots).mean(axis=1))


def _print(rows: pd.DataFrame, axes: Sequence[str], cells: Sequence[Text], console: Console) -> None:
    """As a grid where it is one of lambda and tau and fits the terminal, as a list otherwise."""
    if set(axes) == {"lambda", "tau"}:
        table = _crossed(rows, cells)
        if console.measure(table, options=console.options.update(width=_ANY_WIDTH)).maximum <= console.width:
            console.print(table)
            return
    console.print(_listed(rows, axes, cells))


def _crossed(rows: pd.DataFrame, cells: Sequence[Text]) -> Table:
    table = _table()
    table.add_column("lambda \\ tau", no_wrap=True)
    across = list(dict.fromkeys(rows["tau"]))
    for tau in across:
        table.add_column(value_text(tau), justify="right", no_wrap=True)
    placed = dict(zip(zip(rows["lambda"], rows["tau"], strict=True), cells, strict=True))
    for value in dict.fromkeys(rows["lambda"]):
        table.add_row(value_text(value), *(placed[value, tau] for tau in across))
    return table


def _listed(rows: pd.DataFrame, axes: Sequence[str], cells: Sequence[Text]) -> Table:
    table = _table()
    for axis in axes:
        table.add_column(axis, justify="right")
    table.add_column("mean %", justify="right", no_wrap=True)
    is_tested = "p" in rows
    for header in ("points to best (95% CI)", "p") if is_tested else ():
        table.add_column(header, justify="right", no_wrap=True)
    lines = sorted(zip(rows.to_dict("records"), cells, strict=True), key=lambda line: -float(line[0]["mean"]))
    for row, cell in lines:
        table.add_row(*(value_text(row[axis]) for axis in axes), cell, *(_test(row) if is_tested else ()))
    return table


def _test(row: dict[Any, Any]) -> tuple[str, str]:
    if row["p"] is None or row["p"] != row["p"]:
        return "", ""
    return points(row["difference"], row["diff_ci95_low"], row["diff_ci95_high"]), p_text(row["p"])


def _cell(row: dict[Any, Any], plus_minus: str, *, is_mixed: bool) -> Text:
    """A mean with its half-width; the best is bold and marked on the left; `is_mixed` marks transductive points."""
    half_width = f" {plus_minus} {row['ci95']:.2f}" if plus_minus and row["ci95"] == row["ci95"] else ""
    sd = row.get("training_sd")
    half_width += f" (SD {sd:.2f})" if plus_minus and sd is not None and sd == sd else ""
    mark, style = (_MARK, "bold") if row["is_best"] else ("", "")
    return Text(marked(f"{mark}{row['mean']:.2f}{half_width}", is_mixed and is_transductive(row)), style)


def _remark(rows: pd.DataFrame) -> str:
    """What the tests against the chosen point show; points that share their outcomes count once."""
    tested = rows[rows["p"].notna()].drop_duplicates("method_fingerprint")
    count = int(rows["trainings"].max()) if "trainings" in rows else 1
    trainings = f"; means over {count} trainings with the SD over them, of these trainings" if count > 1 else ""
    if not len(tested):
        return f"{_MARK} the chosen point{trainings}"
    p = corrected(tested["p"].to_numpy(float))
    worse = int(((p < SIGNIFICANCE) & (tested["difference"] < 0)).sum())
    return (
        f"{_MARK} the chosen point; {worse} of {len(tested)} others are worse on this split (paired t, Holm, 5%)"
        + trainings
    )


def _budget(rows: pd.DataFrame) -> str:
    runs, episodes = int(rows["runs"].iloc[0]), int(rows["episodes"].iloc[0])
    return f"{runs} run{'' if runs == 1 else 's'} of {episodes:,} episode{'' if episodes == 1 else 's'}"


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)


def stored_sweeps(folder: Location) -> list[SweepResults]:
    """Every complete sweep below RESULTS/sweeps, by name.

    Raises:
        OutcomeError: a table cannot be read, or is not that of a sweep.
    """
    folders = [folder / name for name in folders_in(folder)]
    places = [(checked_folder(path) if isinstance(path, Path) else path) / "sweep.csv" for path in folders]
    return [SweepResults(place.parent.name, _read_sweep(place)) for place in places if is_file(place)]


def _read_sweep(path: Location) -> pd.DataFrame:
    try:
        frame = pd.read_csv(io.BytesIO(read_bytes(path, _LARGEST)))
    except IrregularFileError:
        raise
    except (OSError, ValueError, OutcomeError) as error:
        raise OutcomeError(f"{path} cannot be read ({error}). Repeat that sweep, which writes it again.") from error
    flags = [name for name in ("is_best", "is_transductive") if name in frame]
    if not len(frame) or not set(frame.columns) >= _NEEDED or any(frame[name].dtype != bool for name in flags):
        raise OutcomeError(f"{path} is not a table of a sweep. Repeat that sweep, which writes it again, or delete it.")
    return frame.map(lambda value: unguarded(value) if isinstance(value, str) else value)
