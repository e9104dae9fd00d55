"""What a plan is going to do, and what it will take: the answer of `run --dry-run`, as data."""

from __future__ import annotations

import math
import shutil
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from fewshot_bench._io.locations import Location
from fewshot_bench.datasets.store import nearest_folder
from fewshot_bench.outcomes import Cell, MethodCard, OutcomeStore, ProtocolCard, episode_frame
from fewshot_bench.outcomes.packing import position_type


class TimeRange(NamedTuple):
    """Seconds: the fastest and the slowest of a few measurements."""

    low: float
    high: float

    def times(self, count: float) -> TimeRange:
        """As many times as long."""
        return TimeRange(self.low * count, self.high * count)


NO_TIME = TimeRange(0.0, 0.0)


@dataclass(frozen=True)
class Machine:
    """Another machine, for which a plan is judged.

    Attributes:
        memory: bytes of its device; None to judge no memory.
        flops: operations per second that its device is assumed to reach; None to give no times.
    """

    memory: int | None = None
    flops: float | None = None

    def time(self, operations: float) -> TimeRange | None:
        """Seconds for counted operations; None without a rate."""
        return None if self.flops is None else TimeRange(operations / self.flops, operations / self.flops)


@dataclass(frozen=True)
class Estimated:
    """What one of many takes: an image, an episode, or getting ready.

    Attributes:
        seconds: None where no time is given.
        operations: where they are counted.
        memory: bytes, where they are counted.
        timed: how many were done at once to be timed; 0 where nothing was timed.
    """

    seconds: TimeRange | None
    operations: float | None = None
    memory: int = 0
    timed: int = 0

    def times(self, count: float) -> tuple[TimeRange | None, float | None]:
        """Seconds and operations of that many."""
        seconds = None if self.seconds is None else self.seconds.times(count)
        return seconds, None if self.operations is None else self.operations * count


@dataclass(frozen=True)
class CellEstimate:
    """One method on one protocol.

    Attributes:
        task: dataset, split, ways and shots.
        method: its name.
        episodes: of all runs, at most; None where only the dataset can tell.
        done: how many of them are stored; None where that cannot be known yet.
        why: what has to come before that can be known; empty where it is known.
        seconds: for the missing episodes; None where they were not timed.
        bytes: of outcomes of the missing episodes, at most; None where they are not known.
        is_transductive: whether the method sees all queries of an episode at once.
        operations: counted for the missing episodes; None where they are timed.
    """

    task: str
    method: str
    episodes: int | None
    done: int | None
    why: str = ""
    seconds: TimeRange | None = None
    bytes: int | None = None
    is_transductive: bool = False
    operations: float | None = None

    @property
    def left(self) -> int | None:
        """Missing episodes; all of them where it is not known which are stored."""
        return None if self.episodes is None else self.episodes - (self.done or 0)


@dataclass(frozen=True)
class WorkEstimate:
    """Something that is done once for several cells: a training, or the embeddings of a split.

    Attributes:
        kind: of the work.
        what: in words.
        units: steps of a training, or images.
        seconds: it takes; None where no time is given.
        bytes: on the disk.
        measured: on how much it was timed, in words.
        operations: counted for it; None where it is timed.
        micro_batch: images that a training keeps in memory at once, where these are fewer than its batch.
    """

    kind: Literal["training", "embeddings", "preparing"]
    what: str
    units: int
    seconds: TimeRange | None
    bytes: int
    measured: str = ""
    operations: float | None = None
    micro_batch: int | None = None


@dataclass(frozen=True)
class DiskSpace:
    """Space on a disk.

    Attributes:
        place: the folder that is written to.
        needed: bytes.
        free: bytes; None where that is not known.
    """

    place: str
    needed: int
    free: int | None


@dataclass(frozen=True)
class Estimates:
    """What a plan is going to do, and what it will take in one process.

    Attributes:
        name: of the plan.
        device: that everything was timed on.
        cells: in the order of the plan, each once.
        work: what comes before them.
        missing: what keeps the plan from running, in sentences.
        notes: what else one should know.
        results: space for outcomes.
        cache: space for embeddings and networks.
        peak_bytes: of memory, as far as the measurements took or counted it.
        free_bytes: of memory; None where the system does not say.
        machine: for which the plan is judged; None for this one.
    """

    name: str
    device: str
    cells: list[CellEstimate]
    work: list[WorkEstimate]
    missing: list[str]
    notes: list[str]
    results: DiskSpace
    cache: DiskSpace
    peak_bytes: int
    free_bytes: int | None
    machine: Machine | None = None

    @property
    def seconds(self) -> TimeRange:
        """Total of everything that was timed."""
        times = [*(work.seconds for work in self.work), *(cell.seconds for cell in self.cells)]
        known = [seconds for seconds in times if seconds is not None]
        return TimeRange(sum(seconds.low for seconds in known), sum(seconds.high for seconds in known))

    @property
    def is_whole(self) -> bool:
        """Whether everything that is missing was timed."""
        is_timed = all(cell.seconds is not None for cell in self.cells if cell.left != 0)
        return is_timed and all(work.seconds is not None for work in self.work)

    def as_dict(self) -> dict[str, Any]:
        """As plain data; keys of another machine only where there is one."""
        content = asdict(self)
        if self.machine is None:
            del content["machine"]
        for row in (*content["cells"], *content["work"]):
            for name in ("operations", "micro_batch"):
                if row.get(name, 0) is None:
                    del row[name]
        for row, cell in zip(content["cells"], self.cells, strict=True):
            row["left"] = cell.left
        return {**content, "seconds": self.seconds, "is_whole": self.is_whole}


def disk_space(place: Location, needed: int) -> DiskSpace:
    """Space in a folder that need not exist yet; a folder that is not on a local disk has no known limit."""
    folder = nearest_folder(place.absolute()) if isinstance(place, Path) else None
    free = None
    with suppress(OSError):  # a disk that does not answer
        free = None if folder is None else shutil.disk_usage(folder).free
    return DiskSpace(str(place), needed, free)


def outcome_bytes(cell: Cell, missing: int, chunk: int) -> int:
    """The most that missing episodes add to a results folder, where a chunk of them is stored together."""
    if not missing:
        return 0
    card = cell.protocol
    parts = math.ceil(missing / chunk)
    part = part_bytes(card.way, card.query, min(chunk, missing), is_whole=card.is_whole)
    return parts * part + len(cell.as_json().encode())


@cache
def part_bytes(way: int, query: int, episodes: int, *, is_whole: bool = False) -> int:
    """Bytes of a part of N-way episodes with Q queries per class and random predictions, which compress worst.

    Args:
        way: N; of a whole split, its number of classes.
        query: Q.
        episodes: in the part, E.
        is_whole: an episode is one image of a whole split, with its confidence.
    """
    random = np.random.default_rng(0)
    queries = 1 if is_whole else way * query
    predictions = random.integers(0, way, (episodes, queries), dtype=position_type(way))
    card = ProtocolCard("none", "", "novel", way, 1, query, 0, 1)
    if is_whole:
        card = replace(card, shot=0, query=1, sampler="whole")
    cell = Cell(MethodCard("random", "", "", ""), card)
    truth = random.integers(0, way, (episodes, 1), dtype=position_type(way)) if is_whole else None
    confidence = random.uniform(1 / way, 1, episodes) if is_whole else None
    with tempfile.TemporaryDirectory() as folder:
        frame = episode_frame(0, np.arange(episodes), predictions, way, 0.001, truth=truth, confidence=confidence)
        OutcomeStore(Path(folder)).append_frame(cell, frame)
        return sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))
