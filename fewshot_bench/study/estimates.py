"""What a plan is going to do, and what it will take: the answer of `run --dry-run`, as data.

How much room outcomes take on a disk, measured on a part that is written elsewhere.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from fewshot_bench._io.locations import Place
from fewshot_bench.datasets.store import nearest_folder
from fewshot_bench.outcomes import Cell, MethodCard, OutcomeStore, ProtocolCard, episode_frame
from fewshot_bench.outcomes.packing import position_type
from fewshot_bench.study.timing import NO_TIME, Span


@dataclass(frozen=True)
class CellForecast:
    """One method on one protocol.

    Attributes:
        task: dataset, split, ways and shots.
        method: its name.
        episodes: of all runs, at most; None where only the dataset can tell.
        done: how many of them are stored; None where that cannot be known yet.
        why: what has to come before that can be known; empty where it is known.
        seconds: for those that are left; None where they were not timed.
        bytes: of outcomes for those that are left, at most; None where they are not known.
        is_transductive: whether the method sees all queries of an episode at once.
    """

    task: str
    method: str
    episodes: int | None
    done: int | None
    why: str = ""
    seconds: Span | None = None
    bytes: int | None = None
    is_transductive: bool = False

    @property
    def left(self) -> int | None:
        """Episodes that are to be computed; all of them where nobody knows what is stored."""
        return None if self.episodes is None else self.episodes - (self.done or 0)


@dataclass(frozen=True)
class WorkForecast:
    """Something that is done once for several cells: a training, or the embeddings of a split.

    Attributes:
        kind: "training", "embeddings" or "preparing".
        what: in words.
        units: steps of a training, or images.
        seconds: None where it was not timed.
        bytes: on the disk.
        measured: on how much it was timed, in words.
    """

    kind: str
    what: str
    units: int
    seconds: Span | None
    bytes: int
    measured: str = ""


@dataclass(frozen=True)
class Room:
    """Space on a disk.

    Attributes:
        place: the folder that is written to.
        needed: bytes.
        free: bytes; None where nobody says.
    """

    place: str
    needed: int
    free: int | None


@dataclass(frozen=True)
class Forecast:
    """What a plan is going to do, and what it will take in one process.

    Attributes:
        name: of the plan.
        device: that everything was timed on.
        cells: in the order of the plan, each once.
        work: what comes before them.
        missing: what is not here and keeps the plan from running, in sentences.
        notes: what else one should know.
        results: space for outcomes.
        cache: space for embeddings and networks.
        peak_bytes: of memory, as far as the measurements took or counted it.
        free_bytes: of memory; None where the system does not say.
    """

    name: str
    device: str
    cells: list[CellForecast]
    work: list[WorkForecast]
    missing: list[str]
    notes: list[str]
    results: Room
    cache: Room
    peak_bytes: int
    free_bytes: int | None

    @property
    def seconds(self) -> Span:
        """Of everything that was timed."""
        return total([*(one.seconds for one in self.work), *(one.seconds for one in self.cells)])

    @property
    def is_whole(self) -> bool:
        """Whether everything that is left was timed."""
        parts: list[WorkForecast | CellForecast] = [*self.work, *(cell for cell in self.cells if cell.left != 0)]
        return all(part.seconds is not None for part in parts)

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        cells = [{**asdict(cell), "left": cell.left} for cell in self.cells]
        return {**asdict(self), "cells": cells, "seconds": self.seconds, "is_whole": self.is_whole}


def total(spans: Sequence[Span | None]) -> Span:
    """One after the other; what was not timed is left out."""
    whole = NO_TIME
    for span in spans:
        whole = whole.plus(span or NO_TIME)
    return whole


def room(place: Place, needed: int) -> Room:
    """Space in a folder that need not be there yet.

    Args:
        place: the folder; what is not on a local disk has no end that anybody knows.
        needed: bytes.
    """
    there = nearest_folder(place.absolute()) if isinstance(place, Path) else None
    free = None
    with suppress(OSError):  # a disk that does not answer
        free = None if there is None else shutil.disk_usage(there).free
    return Room(str(place), needed, free)


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
