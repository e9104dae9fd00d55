"""Rank correlations of measures of embeddings with few-shot accuracy, over networks that have both."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.text import Text

from fewshot_bench._io.locations import Location
from fewshot_bench._io.storage import write_atomically
from fewshot_bench._io.text import guarded, printable
from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.report.embeddings.cards import FOLDER, EmbeddingCard, card_of_cell, stored_cards
from fewshot_bench.report.embeddings.output import by_label, labels
from fewshot_bench.report.leaderboard_output import new_table, print_table
from fewshot_bench.report.paper_figures import drawing, save_picture
from fewshot_bench.statistics import RankCorrelation, rank_correlation

CORRELATIONS_FILE, POINTS_FILE, PICTURE = "correlations.csv", "accuracies.csv", "correlations"
LEAST_NETWORKS = 4
_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#6d737b"
_KINDS = (("networks", "over_networks", _BLUE, -0.16, 3.0), ("trainings", "over_trainings", _ORANGE, 0.16, 1.5))


@dataclass(frozen=True)
class NetworkAccuracy:
    """A network that was measured, and its accuracy on the episodes of a task.

    Attributes:
        task: dataset, way, shot and the adaptation.
        network: its name on the card.
        training: the settings that trainings with different seeds share.
        accuracy: mean over all stored episodes, in %.
        measures: by name and variant; those that do not exist are missing.
        weights: digest of the network's weights.
        method: name of the method whose accuracy it is.
    """

    task: str
    network: str
    training: str
    accuracy: float
    measures: dict[str, float]
    weights: str
    method: str


@dataclass(frozen=True)
class MeasureCorrelation:
    """The rank correlation of a measure with accuracy.

    Attributes:
        task: dataset, way, shot and the adaptation.
        measure: name and variant.
        over_networks: each network counts once.
        over_trainings: trainings that differ only in their seed count once, by their means.
    """

    task: str
    measure: str
    over_networks: RankCorrelation
    over_trainings: RankCorrelation


@dataclass(frozen=True)
class Correlations:
    """Everything about measures and accuracy: the points, and the correlations of each task's measures."""

    points: Sequence[NetworkAccuracy]
    found: Sequence[MeasureCorrelation]


def correlate_with_accuracy(results: Location, store: OutcomeStore, *, seed: int = 0) -> Correlations:
    """Correlate every stored measure with the stored accuracy of the same networks on the same episodes.

    A cell counts where its network, preprocessing and images are those of a card. Tasks with fewer than four networks
    are left out.

    Args:
        results: the folder with `embeddings`.
        store: with the outcomes.
        seed: of the resampled networks.

    Raises:
        OutcomeError: no card is stored, or too few networks have both a card and outcomes; or a file is damaged.
    """
    cards, _ = stored_cards(results)
    if not cards:
        raise OutcomeError(f"there are no embedding cards in {results / FOLDER}. Run: fewshot-bench embeddings NETWORK")
    points = [_point(store, cell, card) for cell in store.cells() if (card := card_of_cell(cards, cell)) is not None]
    tasks: dict[str, list[NetworkAccuracy]] = {}
    for point in sorted(points, key=lambda point: (point.task, point.network)):
        tasks.setdefault(point.task, []).append(point)
    large = {task: found for task, found in tasks.items() if len(found) >= LEAST_NETWORKS}
    if not large:
        most = max(map(len, tasks.values()), default=0)
        raise OutcomeError(
            f"{most} networks have both an embedding card and outcomes of the same task in {results}; a correlation "
            f"needs {LEAST_NETWORKS} or more. Measure more of them: fewshot-bench embeddings NETWORK ..."
        )
    names = labels(cards)
    correlations = [_correlation(task, name, found, seed) for task, found in large.items() for name in names]
    kept = [point for found in large.values() for point in found]
    return Correlations(kept, [each for each in correlations if each.over_networks.pairs >= LEAST_NETWORKS])


def _point(store: OutcomeStore, cell: Cell, card: EmbeddingCard) -> NetworkAccuracy:
    accuracy = store.read(cell, with_predictions=False)["accuracy"].mean()
    settings = cell.method.hyper_parameters
    recorded = settings.get("base")
    base = recorded if isinstance(recorded, dict) else {}  # empty for a network that was not trained here
    training = {
        "base": {name: value for name, value in base.items() if name != "seed"},
        # Random weights differ in their seed; a file of weights, whose training is not known, is one of its own.
        "weights": "" if base or not card.network.pretraining else card.network.weights,
        "backbone": cell.method.backbone,
        "preprocessing": card.network.preprocessing,
    }
    adaptation = settings.get("adaptation")
    chosen = adaptation.items() if isinstance(adaptation, dict) else ()
    words = ",".join(f"{name}={value}" for name, value in sorted(chosen))
    return NetworkAccuracy(
        f"{cell.protocol.task} {cell.method.adaptation}" + (f" ({words})" if words else ""),
        card.network.name,
        json.dumps(training, sort_keys=True),
        100 * float(accuracy),
        {name: each.value for name, each in by_label(card.measures).items() if each.value is not None},
        card.network.weights,
        cell.method.name,
    )


def _correlation(task: str, measure: str, points: Sequence[NetworkAccuracy], seed: int) -> MeasureCorrelation:
    measured = [point for point in points if measure in point.measures]
    frame = pd.DataFrame(
        {
            "training": [point.training for point in measured],
            "value": [point.measures[measure] for point in measured],
            "accuracy": [point.accuracy for point in measured],
        }
    )
    means = frame.groupby("training")[["value", "accuracy"]].mean()
    over_networks, over_trainings = (
        rank_correlation(rows["value"].to_numpy(float), rows["accuracy"].to_numpy(float), seed=seed)
        for rows in (frame, means)
    )
    return MeasureCorrelation(task, measure, over_networks, over_trainings)


def correlation_rows(found: Correlations) -> list[dict[str, Any]]:
    """A row for each task and measure."""
    return [
        {
            "task": each.task,
            "measure": each.measure,
            "spearman": each.over_networks.rho,
            "ci95_low": each.over_networks.low,
            "ci95_high": each.over_networks.high,
            "networks": each.over_networks.pairs,
            "spearman_trainings": each.over_trainings.rho,
            "ci95_low_trainings": each.over_trainings.low,
            "ci95_high_trainings": each.over_trainings.high,
            "trainings": each.over_trainings.pairs,
        }
        for each in found.found
    ]


def correlations_record(found: Correlations) -> dict[str, Any]:
    """Points and correlations as plain data; what does not exist is None."""
    rows = [{name: None if value != value else value for name, value in row.items()} for row in correlation_rows(found)]
    return {"correlations": rows, "networks": [asdict(point) for point in found.points]}


def store_correlations(found: Correlations, results: Location) -> list[Location]:
    """Write RESULTS/embeddings/correlations.csv and accuracies.csv, and draw the correlations.

    Returns:
        The files of the figure.

    Raises:
        NoPictureError: Matplotlib is not installed; the tables are written all the same.
    """
    folder = results / FOLDER
    points = [
        {
            "task": point.task,
            "network": guarded(point.network),
            "method": guarded(point.method),
            "weights": point.weights,
            "accuracy": point.accuracy,
            **point.measures,
        }
        for point in found.points
    ]
    for name, rows in ((CORRELATIONS_FILE, correlation_rows(found)), (POINTS_FILE, points)):
        text = pd.DataFrame(rows).to_csv(index=False, float_format="%.6g", lineterminator="\n")
        write_atomically(folder / name, text.encode())
    return draw_correlations(found, folder / PICTURE)


def print_correlations(found: Correlations, console: Console) -> None:
    """Print the correlations of each task, the strongest first."""
    for task in dict.fromkeys(each.task for each in found.found):
        of_task = [each for each in found.found if each.task == task]
        table = new_table("measure", "over networks", "over trainings")
        for each in sorted(of_task, key=lambda each: -abs(np.nan_to_num(each.over_networks.rho))):
            columns = (each.over_networks, each.over_trainings)
            table.add_row(Text(printable(each.measure)), *(Text(_correlation_text(column)) for column in columns))
        counts = of_task[0].over_networks.pairs, of_task[0].over_trainings.pairs
        print_table(
            console,
            f"Spearman's rank correlation with accuracy [95% interval over networks], {printable(task)}, "
            f"{counts[0]} networks of {counts[1]} kinds of training",
            table,
        )


def _correlation_text(found: RankCorrelation) -> str:
    if found.rho != found.rho:
        return "-"
    interval = "" if found.low != found.low else f" [{found.low:+.2f}, {found.high:+.2f}]"
    return f"{found.rho:+.2f}{interval}"


def draw_correlations(found: Correlations, stem: Location) -> list[Location]:
    """Draw a row per measure and a panel per task: thick over networks, thin over trainings."""
    tasks = list(dict.fromkeys(each.task for each in found.found))
    measures = list(dict.fromkeys(each.measure for each in found.found))
    with drawing(4.2 * len(tasks) + 3.2, 0.27 * len(measures) + 1.7) as canvas:
        panels = canvas.subplots(1, len(tasks), squeeze=False, sharey=True)[0]
        for axes, task in zip(panels, tasks, strict=True):
            axes.axvline(0, color=_GREY, linewidth=1, zorder=0)
            of_task = {each.measure: each for each in found.found if each.task == task}
            for label, kind, colour, shift, width in _KINDS:
                rows = [(n + shift, getattr(of_task[name], kind)) for n, name in enumerate(measures) if name in of_task]
                rows = [(place, row) for place, row in rows if row.rho == row.rho]
                lines = [(place, row.low, row.high) for place, row in rows if row.low == row.low]
                if lines:
                    axes.hlines(*zip(*lines, strict=True), color=colour, linewidth=width)
                points = [row.rho for _, row in rows], [place for place, _ in rows]
                axes.plot(*points, "o", color=colour, markersize=4, label=label)
            axes.set_xlim(-1.05, 1.05)
            axes.set_title("\n".join(textwrap.wrap(task, 44)), fontsize=9)
            axes.grid(axis="x", color="0.92")
            axes.set_axisbelow(True)
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.tick_params(axis="y", length=0)
        panels[0].set_yticks(range(len(measures)), measures, fontsize=9)
        panels[0].set_ylim(len(measures) - 0.4, -0.6)
        panels[0].legend(loc="lower left", fontsize=8, framealpha=0.9)
        canvas.supxlabel("Spearman's rank correlation with accuracy, 95% bootstrap intervals", fontsize=10)
        return save_picture(canvas, stem)
