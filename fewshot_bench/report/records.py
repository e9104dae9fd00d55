"""The same numbers as plain mappings, for `--json`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from fewshot_bench.outcomes import ProtocolCard
from fewshot_bench.report.best import Answer
from fewshot_bench.report.comparison import Comparison
from fewshot_bench.report.comparisons import OverDatasets, TaskComparison
from fewshot_bench.report.per_class import ClassDifferences
from fewshot_bench.report.scores import task_columns
from fewshot_bench.report.summary import MEASURED
from fewshot_bench.report.wording import CLAIMED, is_transductive

_WHOLE = (
    "way", "shot", "queries", "seed", "episodes", "runs", "paired_episodes", "wins", "ties", "losses", "peak_bytes"
)  # fmt: skip


def leaderboard_records(frame: pd.DataFrame, best: Sequence[Answer] = ()) -> list[dict[str, Any]]:
    """A leaderboard as one mapping per row; what does not exist is None.

    Args:
        frame: as `leaderboard` or `sweep_frame` returns it.
        best: which methods are best; each measured row gets the answer for its protocol and kind as `best`.
    """
    found = {(one.protocol, one.is_transductive): one.as_dict() for one in best}
    records = []
    for row in _rows(frame):
        record = {str(column): _plain(str(column), value) for column, value in row.items()}
        if "source" in row:
            kind = (row["protocol_fingerprint"], is_transductive(row))
            record["best"] = found.get(kind) if row["source"] == MEASURED else None
        records.append(record)
    return records


def comparison_record(comparison: Comparison, *, per_class: bool = False) -> dict[str, Any]:
    """A comparison as a mapping; differences are in percentage points, what is infinite or unknown is None.

    Args:
        comparison: of two methods.
        per_class: add the differences class by class.
    """
    test, paired, protocol = comparison.test, comparison.paired, comparison.protocol
    data = comparison.data
    return {
        "method_a": comparison.a,
        "method_b": comparison.b,
        "is_a_transductive": comparison.is_a_transductive,
        "is_b_transductive": comparison.is_b_transductive,
        **({} if protocol is None else _protocol_record(protocol)),
        "episodes": test.n,
        "left_out_of_a": comparison.left_out_of_a,
        "left_out_of_b": comparison.left_out_of_b,
        "difference": 100 * test.mean_difference,
        "diff_ci95_low": 100 * test.ci_low,
        "diff_ci95_high": 100 * test.ci_high,
        "diff_data_ci95_low": _finite(100 * data.low),
        "diff_data_ci95_high": _finite(100 * data.high),
        "intervals": "95% each" if comparison.level == "95%" else comparison.level,
        "sd_difference": 100 * test.sd_difference,
        "t": _finite(test.t),
        "p": test.p,
        "p_corrected": _finite(comparison.p_corrected),
        "p_beyond": _finite(data.p),
        "p_beyond_corrected": _finite(comparison.p_beyond_corrected),
        "beyond": None if data.why_unknown else data.covers,
        "why_unknown": data.why_unknown or None,
        "wilcoxon_p": paired.wilcoxon_p,
        "sign_flip_p": paired.permutation_p,
        "effect_size": _finite(paired.effect_size),
        "probability_of_improvement": paired.probability_of_improvement,
        "correlation": _finite(paired.correlation),
        "variance_reduction": _finite(paired.variance_reduction),
        "wins": test.wins,
        "losses": test.losses,
        "ties": test.ties,
        "verdict": comparison.verdict,
        "headline": comparison.headline,
        "few_classes": comparison.few_classes or None,
        **({"per_class": class_records(comparison.by_class)} if per_class else {}),
    }


def class_records(classes: ClassDifferences | None) -> list[dict[str, Any]] | None:
    """Two methods class by class, the largest differences first; None where they are unknown."""
    if classes is None:
        return None
    return [
        {
            "class": classes.names[one],
            "accuracy_a": 100 * float(classes.accuracy_a[one]),
            "accuracy_b": 100 * float(classes.accuracy_b[one]),
            "difference": 100 * float(classes.differences[one]),
            "half_width": _finite(100 * float(classes.half_widths[one])),
            "episodes": int(classes.episodes[one]),
        }
        for one in classes.order.tolist()
    ]


def task_record(task: TaskComparison) -> dict[str, Any]:
    """The methods of one protocol as a mapping: their means in %, best first, and their letters."""
    return {
        **_protocol_record(task.protocol),
        "correction": task.correction,
        "unpaired": [list(pair) for pair in task.unpaired],
        "methods": [
            {
                "method": name,
                "is_transductive": name in task.transductive,
                "mean": 100 * mean,
                "group": task.letters.get(name),
                "group_split": task.letters_split.get(name),
            }
            for name, mean in task.means.items()
        ],
    }


def datasets_record(result: OverDatasets) -> dict[str, Any]:
    """The tests over datasets as a mapping; accuracies are in %, differences in percentage points."""
    ranks = result.ranks
    return {
        "task": result.task,
        "transductive": sorted(result.transductive & set(result.accuracies.columns)),
        "accuracies": {
            str(dataset): {str(method): 100 * float(value) for method, value in row.items()}
            for dataset, row in result.accuracies.to_dict("index").items()
        },
        "pairs": [
            {
                "method_a": a,
                "method_b": b,
                "is_a_transductive": a in result.transductive,
                "is_b_transductive": b in result.transductive,
                "datasets": paired.test.n,
                "difference": 100 * paired.test.mean_difference,
                "diff_ci95_low": 100 * paired.test.ci_low,
                "diff_ci95_high": 100 * paired.test.ci_high,
                "p": paired.test.p,
                "p_corrected": result.p_corrected[a, b],
                "correction": result.correction,
                "wilcoxon_p": paired.wilcoxon_p,
                "sign_flip_p": paired.permutation_p,
                "smallest_sign_flip_p": paired.smallest_p,
            }
            for (a, b), paired in result.pairs.items()
        ],
        "friedman": None
        if ranks is None
        else {
            "statistic": ranks.statistic,
            "p": ranks.p,
            "iman_davenport": _finite(ranks.iman_davenport),
            "iman_davenport_p": ranks.iman_davenport_p,
            "mean_ranks": dict(zip(map(str, result.accuracies.columns), map(float, ranks.mean_ranks), strict=True)),
            "critical_difference": ranks.critical_difference,
            "can_differ": ranks.can_differ,
        },
    }


def _protocol_record(protocol: ProtocolCard) -> dict[str, Any]:
    return {
        **task_columns(protocol),
        "dataset_fingerprint": protocol.dataset_fingerprint,
        "protocol_fingerprint": protocol.fingerprint,
        "note": CLAIMED if protocol.is_claimed else None,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _rows(frame: pd.DataFrame) -> list[dict[Any, Any]]:
    return frame.to_dict("records")


def _plain(column: str, value: Any) -> Any:
    if value is None or value != value or (isinstance(value, float) and math.isinf(value)):
        return None
    if isinstance(value, np.bool_):
        return bool(value)
    return int(value) if column in _WHOLE else value
