"""All pairs of the best methods of a protocol, on the episodes that all of them have seen."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from fewshot_bench.report.page.content import Pairs
from fewshot_bench.statistics import all_pairs

MOST_PAIRED = 25


def pairs_of(episodes: Mapping[str, pd.DataFrame], methods: int) -> Pairs | None:
    """Test every method against every other.

    Args:
        episodes: columns run, episode and accuracy (fractions), by the name of the method, best first.
        methods: how many there are on the protocol, these and others.

    Returns:
        Differences and corrected p values, or None where there are fewer than two methods or common episodes.
    """
    names = list(episodes)
    if len(names) < 2:
        return None
    columns = [
        frame.drop_duplicates(["run", "episode"]).set_index(["run", "episode"])["accuracy"].rename(str(place))
        for place, frame in enumerate(episodes.values())
    ]
    common = pd.concat(columns, axis=1, join="inner").sort_index()
    if len(common) < 2:
        return None
    matrix = all_pairs(common.to_numpy(np.float64).T)
    left_out = methods - len(names)
    return Pairs(names, 100 * matrix.mean_differences, matrix.corrected("holm"), len(common), left_out)
