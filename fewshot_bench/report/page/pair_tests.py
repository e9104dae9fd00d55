"""All pairs of the best methods of a protocol, on the episodes that all of them have seen."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from fewshot_bench.report.page.content import Pairs
from fewshot_bench.statistics import paired_t_test

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
    common = pd.concat(columns, axis=1, join="inner")
    if len(common) < 2:
        return None
    values = common.to_numpy(np.float64).T
    difference, p = np.zeros((len(names),) * 2), np.ones((len(names),) * 2)
    pairs = list(combinations(range(len(names)), 2))
    tests = [paired_t_test(values[a], values[b]) for a, b in pairs]
    corrected = multipletests([test.p for test in tests], method="holm")[1]
    for (a, b), test, value in zip(pairs, tests, corrected, strict=True):
        difference[a, b], difference[b, a] = 100 * test.mean_difference, -100 * test.mean_difference
        p[a, b] = p[b, a] = value
    return Pairs(names, difference, p, len(common), methods - len(names))
