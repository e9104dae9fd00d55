"""Mean ranks of methods over several datasets, with Nemenyi's critical difference (Demsar, 2006)."""

from __future__ import annotations

import pandas as pd

from fewshot_bench.report.over_datasets import accuracies_by_dataset, size_text
from fewshot_bench.report.page.content import Ranking
from fewshot_bench.report.summary import MEASURED
from fewshot_bench.report.wording import is_transductive
from fewshot_bench.statistics import friedman

MOST_RANKED = 25
_SIZE = ["split", "way", "shot", "queries", "sampler"]


def rankings(frame: pd.DataFrame) -> list[Ranking]:
    """Rank the methods for each size of task that three of them were run with on two datasets or more.

    A dataset with several seeds counts once, by its mean. Of very many methods the best are ranked among themselves.

    Args:
        frame: a completed leaderboard; published rows do not count, for they are of other episodes.
    """
    measured = frame[frame["source"] == MEASURED]
    found = []
    for _, rows in measured.groupby(_SIZE, sort=False, dropna=False):
        tasks = [
            (str(same["dataset"].iloc[0]), dict(zip(same["method"], same["mean"], strict=True)))
            for _, same in rows.groupby("protocol_fingerprint", sort=False)
        ]
        table = accuracies_by_dataset(tasks)
        if table is not None and table.shape[1] > 2:
            transductive = frozenset(row["method"] for row in rows.to_dict("records") if is_transductive(row))
            found.append(_ranking(size_text(rows.iloc[0].to_dict()), table, transductive))
    return found


def _ranking(size: str, table: pd.DataFrame, transductive: frozenset[str]) -> Ranking:
    best = table.iloc[:, :MOST_RANKED]
    test = friedman(best.to_numpy())
    by_rank = pd.Series(test.mean_ranks, index=best.columns).sort_values(kind="stable")
    return Ranking(
        name=f"{size} over {', '.join(table.index)}",
        methods=by_rank.index.tolist(),
        mean_ranks=by_rank.tolist(),
        critical_difference=test.critical_difference,
        p=test.iman_davenport_p,
        left_out=table.shape[1] - best.shape[1],
        transductive=transductive & set(best.columns),
    )
