"""One method of a study: whichever of its episodes are not stored yet, from images to outcomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.atomic import remove_abandoned
from fewshot_bench.debugging import show_traceback
from fewshot_bench.engine.engine import Crew, Engine
from fewshot_bench.episodes import Protocol
from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.outcomes.heart import Heart
from fewshot_bench.outcomes.leases import Leases
from fewshot_bench.progress import Progress
from fewshot_bench.study.chunk_queue import ChunkQueue, Left, missing_episodes
from fewshot_bench.study.pieces import Experience, is_failure, reason_of
from fewshot_bench.study.shard import Shard
from fewshot_bench.study.shift import Shift
from fewshot_bench.study.worker import WorkerRecipe


@dataclass
class MethodRun:
    """One method of a study, which can be run a part of its episodes at a time.

    Attributes:
        recipe: makes what makes its workers; called when the first episode is missing.
        planned: its cells, with their protocols.
        store: where the outcomes go.
        engine: who computes them.
        progress: shown one stage for what is missing.
        chunk: episodes of a chunk; as many as the engine wants by default.
        shard: the part of every run that is to be computed here; all of it by default.
        asked_name: what the study calls the method; it may be stored under another name.
        peak_bytes: the most memory that it took, as far as is known.
        failed: how many episodes have failed.
        reason: why the first of these did.
        experience: whether it ever succeeds.
    """

    recipe: Callable[[], WorkerRecipe]
    planned: list[tuple[Cell, Protocol]]
    store: OutcomeStore
    engine: Engine
    progress: Progress
    chunk: int | None = None
    shard: Shard | None = None
    asked_name: str = ""
    peak_bytes: int = 0
    failed: int = 0
    reason: str = ""
    _given_up: dict[tuple[str, int], NDArray[np.int64]] = field(default_factory=dict)
    _not_begun: list[tuple[Cell, int, NDArray[np.int64]]] = field(default_factory=list)
    experience: Experience = field(default_factory=Experience)
    _crew: Crew | None = None
    _open: ExitStack = field(default_factory=ExitStack)

    @property
    def name(self) -> str:
        """What people call the method."""
        return self.planned[0][0].method.name

    def run(self, some: Sequence[tuple[Cell, Protocol]]) -> None:
        """Run the missing episodes of some cells, beside other processes that do the same; wait for theirs."""
        left = [(cell, protocol, self._missing(cell, protocol)) for cell, protocol in some]
        for cell, _, missing in left:
            if not any(map(len, missing)):
                self._clean(cell)
        left = [one for one in left if any(map(len, one[2]))]
        if not left:
            return
        try:
            crew = self._workers()
        except Exception as error:
            self._give_up(left, error)
            return
        for cell, _, _ in left:
            self.store.open_cell(cell)
        queue = ChunkQueue(self.store, left, lambda protocol: self.chunk or crew.chunk(protocol))
        with self.progress.step(_described(left), queue.episodes) as step, Heart(queue.leases):
            Shift(self, crew, queue, step).work()
        queue.clean()
        self._check_all_is_there(left)
        for cell, _, _ in left:
            self.store.open_cell(replace(cell, provenance={**cell.provenance, "peak_bytes": self.peak_bytes}))

    def forget(self) -> None:
        """Let its workers and their embeddings go."""
        self._crew = None
        self._open.close()

    def _missing(self, cell: Cell, protocol: Protocol) -> list[NDArray[np.int64]]:
        """Numbers of the episodes of each run that are to be computed: those that failed before are not tried again."""
        missing = missing_episodes(self.store, cell, protocol, self.shard)
        nothing = np.arange(0)
        return [np.setdiff1d(some, self._given_up.get((cell.key, run), nothing)) for run, some in enumerate(missing)]

    def _clean(self, cell: Cell) -> None:
        """Remove what a process has left of a complete cell that was killed after it had stored its last outcomes."""
        folder = self.store.cell_folder(cell)
        Leases(folder).clean()
        remove_abandoned(folder)

    def _check_all_is_there(self, left: Sequence[Left]) -> None:
        """See that what was stored meanwhile still is.

        Raises:
            OutcomeError: files have vanished.
        """
        for cell, protocol, _ in left:
            if count := sum(map(len, self._missing(cell, protocol))):
                raise OutcomeError(
                    f"{count:,} episodes of {cell.method.name} have vanished from {self.store.cell_folder(cell)} while "
                    "others were computed. See that the disk is there and nothing removes files; then run again."
                )

    def _give_up(self, left: Sequence[Left], error: Exception) -> None:
        """Note that a method cannot even begin: its embeddings are no numbers, or do not fit into the memory.

        Raises:
            Exception: the error, where it is of another kind.
        """
        if not is_failure(error):
            raise error
        show_traceback(error)
        for cell, _, missing in left:
            for run, numbers in enumerate(missing):
                if len(numbers):
                    self._not_begun.append((cell, run, numbers))
                    self._note(cell, run, numbers, reason_of(error))

    def record_not_begun(self) -> None:
        """Record the failure of a method that could not begin; later than others, lest wrong input leave a folder."""
        for cell, run, numbers in self._not_begun:
            self.store.open_cell(cell)
            self.store.record_failure(cell, run, numbers, self.reason)

    def failed_on(self, cell: Cell, run: int, numbers: NDArray[np.int64], reason: str) -> None:
        """Record that episodes failed.

        Args:
            cell: whose they are.
            run: number of the run.
            numbers: which, [E].
            reason: one line.
        """
        self.store.record_failure(cell, run, numbers, reason)
        self._note(cell, run, numbers, reason)

    def _note(self, cell: Cell, run: int, numbers: NDArray[np.int64], reason: str) -> None:
        before = self._given_up.get((cell.key, run), numbers[:0])
        self._given_up[cell.key, run] = np.union1d(before, numbers)
        self.failed += len(numbers)
        self.reason = self.reason or reason

    def _workers(self) -> Crew:
        if self._crew is None:
            self._crew = self._open.enter_context(self.engine.method(self.recipe()))
        return self._crew


def _described(left: Sequence[Left]) -> str:
    cell, protocol, _ = left[0]
    shots = ",".join(dict.fromkeys(str(protocol.shot) for _, protocol, _ in left))
    return f"{protocol.way}-way {shots}-shot, {cell.method.marked_name}"
