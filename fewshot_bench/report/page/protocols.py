"""The leaderboard cut into protocols, with the columns that an older one lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from fewshot_bench.outcomes import STANDARD_SAMPLER, Cell
from fewshot_bench.report.leaderboard import kind_order
from fewshot_bench.report.summary import MEASURED
from fewshot_bench.report.wording import is_transductive, task_names

_NUMBERS = (
    "median", "median_ci95", "mean", "ci95", "data_ci95", "difference", "diff_ci95_low", "diff_ci95_high",
    "diff_data_ci95_low", "diff_data_ci95_high", "p", "p_corrected", "p_beyond", "p_beyond_corrected",
    "episodes_per_second", "peak_bytes",
)  # fmt: skip
_TEXTS = (
    "method", "dataset", "baseline", "group", "group_split", "beyond", "verdict", "flags", "test", "backbone",
    "adaptation", "protocol_fingerprint", "method_fingerprint",
)  # fmt: skip
_USUAL = {"source": MEASURED, "split": "novel", "sampler": STANDARD_SAMPLER, "correction": "holm"}
Identity = tuple[str, str]


def completed(frame: pd.DataFrame, cells: Mapping[Identity, Cell]) -> pd.DataFrame:
    """A leaderboard with every column that the page uses; what nobody knows stays empty.

    Args:
        frame: as `leaderboard` returns it, of this or an older release.
        cells: by the fingerprints of protocol and method; they say what an older leaderboard left out.
    """
    whole = frame.copy()
    for name in _NUMBERS:
        whole[name] = pd.to_numeric(whole[name], errors="coerce") if name in whole else np.nan
    for name, usual in (dict.fromkeys(_TEXTS, "") | _USUAL).items():
        column = whole[name].astype(object) if name in whole else pd.Series("", whole.index, dtype=object)
        whole[name] = column.where(column.notna() & (column != ""), usual)
    known = [cells.get(identity) for identity in identities(whole)]
    backbones = [cell.method.backbone if cell else "" for cell in known]
    adaptations = [cell.method.adaptation if cell else "" for cell in known]
    whole["backbone"] = [value or other for value, other in zip(whole["backbone"], backbones, strict=True)]
    whole["adaptation"] = [value or other for value, other in zip(whole["adaptation"], adaptations, strict=True)]
    whole["mean"] = whole["mean"].fillna(whole["median"])
    marks = [is_transductive(row) for row in whole.to_dict("records")]
    whole["is_transductive"] = [
        mark or (cell is not None and cell.method.is_transductive) for mark, cell in zip(marks, known, strict=True)
    ]
    return whole


def identities(frame: pd.DataFrame) -> list[Identity]:
    """Fingerprints of protocol and method of each row."""
    return list(zip(frame["protocol_fingerprint"], frame["method_fingerprint"], strict=True))


def rows_by_protocol(frame: pd.DataFrame) -> dict[str, list[int]]:
    """The positions of the rows of each protocol that was measured; a published row names its protocol too.

    Inductive methods come first, then transductive ones, each best first, as in the leaderboard.

    Args:
        frame: a completed leaderboard.

    Returns:
        By the fingerprint of the protocol, in the order of the leaderboard.
    """
    measured = frame.loc[frame["source"] == MEASURED, "protocol_fingerprint"]
    found: dict[str, list[int]] = {fingerprint: [] for fingerprint in measured}
    for place, fingerprint in enumerate(frame["protocol_fingerprint"]):
        if fingerprint in found:
            found[fingerprint].append(place)
    means, kinds = frame["mean"].tolist(), kind_order(frame)
    return {
        key: sorted(rows, key=lambda row: (kinds[row], _last_if_unknown(means[row]))) for key, rows in found.items()
    }


def protocol_names(frame: pd.DataFrame, rows: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """What people call each protocol: its task, and where several have that name, what tells these apart."""
    records = frame.to_dict("records")
    first = {
        key: next(records[place] for place in places if records[place]["source"] == MEASURED)
        for key, places in rows.items()
    }
    return task_names(first)


def _last_if_unknown(mean: float) -> float:
    return -mean if mean == mean else float("inf")
