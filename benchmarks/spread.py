"""How alike queries of one class are, in measured outcomes and in what published intervals imply.

    python benchmarks/spread.py
    python benchmarks/spread.py --results results

The intraclass correlation r of being classified correctly decides how far accuracies spread over episodes:
sd^2 = m (1 - m) / (N Q) * (1 + (Q - 1) r). It is what `is_plausible_sd` draws its range from. In outcomes it is found
from the predictions by an analysis of variance; in published rows from mean, interval and the number of episodes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.outcomes import Outcomes, OutcomeStore
from fewshot_bench.report.published import PublishedResult, published_results
from fewshot_bench.statistics import implied_sd, is_plausible_sd, plausible_sd_range

MEASURED = Path(__file__).parents[1] / "results" / "cifar-fs-conv4-finetune"
# Episodes that the cited papers name, for rows of their own numbers; all with 15 queries per class.
EPISODES = {"Snell": ("mini-imagenet", 600), "Dhillon": ("", 1000)}
QUERIES = 15


def main() -> None:
    """Parse the arguments, compute, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=MEASURED)
    store = OutcomeStore(parser.parse_args().results / "outcomes")
    print("| measured | mean, % | sd, points | r from predictions | r from the sd | between classes |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for cell in store.cells():
        print(measured(store.outcomes(cell)))
    print("\n| published | episodes | mean ± 95% CI, % | sd, points | r | plausible sd | at 600 episodes: r |")
    print("| --- | ---: | ---: | ---: | ---: | --- | ---: |")
    for row in published_results():
        episodes = row.episodes or episodes_of(row)
        if row.half_width is not None and row.way is not None and episodes is not None:
            print(published(row, row.half_width, row.way, episodes))


def measured(outcomes: Outcomes) -> str:
    """A row about one cell."""
    way, query = outcomes.cell.protocol.way, outcomes.cell.protocol.query
    correct = (outcomes.predictions.reshape(-1, way, query) == np.arange(way)[:, None]).astype(np.float64)
    mean, sd = float(correct.mean()), float(outcomes.accuracy.std(ddof=1))
    of_classes = np.corrcoef(correct.mean(axis=2).T)
    between = (float(of_classes.sum()) - way) / (way * (way - 1))
    return (
        f"| {outcomes.cell.method.name} | {100 * mean:.1f} | {100 * sd:.1f} | {intraclass_correlation(correct):.2f} "
        f"| {likeness(sd, mean, way, query):.2f} | {between:.2f} |"
    )


def intraclass_correlation(correct: NDArray[np.float64]) -> float:
    """Of whether queries of one class in one episode are correct, [E, N, Q], by a one-way analysis of variance."""
    query = correct.shape[2]
    between = query * float(correct.mean(axis=2).var(ddof=1))
    within = float(correct.var(axis=2, ddof=1).mean())
    return float((between - within) / (between + (query - 1) * within))


def likeness(sd: float, mean: float, way: int, query: int) -> float:
    """The r that a standard deviation over episodes implies."""
    return float((sd**2 * way * query / (mean * (1 - mean)) - 1) / (query - 1))


def published(row: PublishedResult, half_width: float, way: int, episodes: int) -> str:
    """A row about one published number."""
    query, mean = row.queries or QUERIES, row.accuracy / 100
    sd, sd_of_600 = (implied_sd(half_width / 100, count) for count in (episodes, 600))
    low, high = plausible_sd_range(mean, way=way, query=query)
    verdict = f"{100 * low:.1f} to {100 * high:.1f}" + (
        "" if is_plausible_sd(sd, mean, way=way, query=query) else ": no"
    )
    return (
        f"| {row.backbone}, {row.method}, {row.dataset}, {row.shot} shot | {episodes:,} "
        f"| {row.accuracy:.2f} ± {half_width:.2f} | {100 * sd:.1f} | {likeness(sd, mean, way, query):.2f} | {verdict} "
        f"| {likeness(sd_of_600, mean, way, query):.2f} |"
    )


def episodes_of(row: PublishedResult) -> int | None:
    """What the cited paper says where the table does not."""
    for author, (dataset, episodes) in EPISODES.items():
        if author in row.source and row.dataset.startswith(dataset):
            return episodes
    return None


if __name__ == "__main__":
    main()
