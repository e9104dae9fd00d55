"""The leaderboard cut into protocols, with the columns that an older one lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fewshot_bench.outcomes import Cell
from fewshot_bench.report.page.content import MEASURED

_NUMBERS = (
    "median", "median_ci95", "mean", "ci95", "data_ci95", "difference", "diff_ci95_low", "diff_ci95_high",
    "diff_data_ci95_low", "diff_data_ci95_high", "p", "p_corrected", "episodes_per_second", "peak_bytes",
)  # fmt: skip
_TEXTS = (
    "method", "dataset", "split", "baseline", "group", "flags", "test", "backbone", "adaptation", "sampler",
    "protocol_fingerprint", "method_fingerprint",
)  # fmt: skip
_SETTING = ("dataset", "way", "shot")
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
    for name in _TEXTS:
        column = whole[name].astype(object) if name in whole else pd.Series("", whole.index, dtype=object)
        whole[name] = column.where(column.notna(), "")
    source = whole["source"].astype(object) if "source" in whole else pd.Series(MEASURED, whole.index, dtype=object)
    whole["source"] = source.where(source.notna() & (source != ""), MEASURED)
    known = [cells.get(identity) for identity in identities(whole)]
    backbones = [cell.method.backbone if cell else "" for cell in known]
    adaptations = [cell.method.adaptation if cell else "" for cell in known]
    whole["backbone"] = [value or other for value, other in zip(whole["backbone"], backbones, strict=True)]
    whole["adaptation"] = [value or other for value, other in zip(whole["adaptation"], adaptations, strict=True)]
    whole["mean"] = whole["mean"].fillna(whole["median"])
    return whole


def identities(frame: pd.DataFrame) -> list[Identity]:
    """Fingerprints of protocol and method of each row."""
    return list(zip(frame["protocol_fingerprint"], frame["method_fingerprint"], strict=True))


def rows_by_protocol(frame: pd.DataFrame) -> dict[str, list[int]]:
    """The positions of the rows of each protocol, best first; published rows join every protocol of their setting.

    Args:
        frame: a completed leaderboard.

    Returns:
        By the fingerprint of the protocol, in the order of the leaderboard.
    """
    records = frame[[*_SETTING, "protocol_fingerprint", "source", "mean"]].to_dict("records")
    found: dict[str, list[int]] = {}
    settings: dict[tuple[Any, ...], list[str]] = {}
    for place, row in enumerate(records):
        if row["source"] == MEASURED:
            fingerprint = row["protocol_fingerprint"]
            if fingerprint not in found:
                settings.setdefault(tuple(row[name] for name in _SETTING), []).append(fingerprint)
            found.setdefault(fingerprint, []).append(place)
    for place, row in enumerate(records):
        if row["source"] != MEASURED:
            for fingerprint in settings.get(tuple(row[name] for name in _SETTING), ()):
                found[fingerprint].append(place)
    return {key: sorted(rows, key=lambda row: _worst_first(records[row]["mean"])) for key, rows in found.items()}


def protocol_names(frame: pd.DataFrame, rows: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """What people call each protocol; the seed, then the fingerprint, is added where names would be equal."""
    first = {key: frame.iloc[places[0]] for key, places in rows.items()}
    names = {key: _name(row) for key, row in first.items()}
    names = _told_apart(names, {key: f" seed {row.get('seed')}" for key, row in first.items()})
    return _told_apart(names, {key: f" ({key[:8]})" for key in first})


def _told_apart(names: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    taken = list(names.values())
    return {key: name + more[key] if taken.count(name) > 1 else name for key, name in names.items()}


def _worst_first(mean: float) -> float:
    return -mean if mean == mean else float("inf")


def _name(row: pd.Series) -> str:
    split = f" ({row['split']} split)" if row["split"] not in ("novel", "") else ""
    sampler = f" {row['sampler']}" if row["sampler"] not in ("standard", "") else ""
    return f"{row['dataset']}{split} {row['way']}-way {row['shot']}-shot{sampler}"
