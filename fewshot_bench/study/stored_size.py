"""How much room outcomes take on a disk, measured on a part that is written elsewhere."""

from __future__ import annotations

import math
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from fewshot_bench.outcomes import Cell, MethodCard, OutcomeStore, ProtocolCard, episode_frame
from fewshot_bench.outcomes.packing import position_type


def outcome_bytes(cell: Cell, left: int, chunk: int) -> int:
    """The most that episodes which are still to be computed add to a results folder.

    Args:
        cell: whose they are.
        left: how many.
        chunk: how many are stored together.
    """
    if not left:
        return 0
    card = cell.protocol
    parts = math.ceil(left / chunk)
    return parts * part_bytes(card.way, card.query, min(chunk, left)) + len(cell.as_json().encode())


@cache
def part_bytes(way: int, query: int, episodes: int) -> int:
    """Bytes of a part of that many episodes whose predictions are random, which compress worst.

    Args:
        way: N.
        query: Q, queries per class.
        episodes: E.
    """
    predictions = np.random.default_rng(0).integers(0, way, (episodes, way * query), dtype=position_type(way))
    cell = Cell(MethodCard("random", "", "", ""), ProtocolCard("none", "", "novel", way, 1, query, 0, 1))
    with tempfile.TemporaryDirectory() as folder:
        frame = episode_frame(0, np.arange(episodes), predictions, way, 0.001)
        OutcomeStore(Path(folder)).append_frame(cell, frame)
        return sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))
