"""Mean ranks of methods over several datasets, with Nemenyi's critical difference (Demsar, 2006)."""

from __future__ import annotations

import pandas as pd

from fewshot_bench.report.page.content import Ranking
from fewshot_bench.report.summary import MEASURED
from fewshot_bench.statistics import friedman

MOST_RANKED = 25
_SIZE = ("split", "way", "shot", "queries", "sampler")


def rankings(frame: pd.DataFrame) -> list[Ranking]:
    """Rank the methods for each size of task that three of them were run with on two datasets or more.

    A dataset with several seeds counts once, by its mean. Of very many methods the best are ranked among themselves.

    Args:
        frame: a completed leaderboard; published rows do not count, for they are of other episodes.
    """
    measured = frame[frame["source"] == MEASURED]
    sizes = [name for name in _SIZE if name in measured]
    found = []
    for _, rows in measured.groupby(sizes, sort=False, dropna=False):
        table = rows.pivot_table(index="dataset", columns="method", values="mean").dropna(axis=1)
        if len(table) >= 2 and table.shape[1] >= 3:
            found.append(_ranking(rows.iloc[0], table))
    return found


def _ranking(row: pd.Series, table: pd.DataFrame) -> Ranking:
    methods = table.shape[1]
    by_rank = table.rank(axis=1, ascending=False).mean().sort_values(kind="stable")
    table = table[by_rank.index[:MOST_RANKED]]
    test = friedman(table.to_numpy())
    order = sorted(range(table.shape[1]), key=lambda place: float(test.mean_ranks[place]))
    return Ranking(
        name=f"{row['way']}-way {row['shot']}-shot over {', '.join(str(dataset) for dataset in table.index)}",
        methods=[str(table.columns[place]) for place in order],
        mean_ranks=[float(test.mean_ranks[place]) for place in order],
        critical_difference=test.critical_difference,
        p=test.iman_davenport_p,
        left_out=methods - table.shape[1],
    )
