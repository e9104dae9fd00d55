"""The progress of a function in another process, shown in this one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from types import TracebackType

from fewshot_bench.progress import Progress, Step


@dataclass(frozen=True)
class Told:
    """How far one stage is.

    Attributes:
        description: of the stage.
        total: units, 0 if that is not known.
        unit: that they are counted in.
        done: how many.
        note: the last one.
        is_open: whether it goes on.
    """

    description: str
    total: int
    unit: str
    done: int = 0
    note: str = ""
    is_open: bool = True


class Recorder:
    """A `Progress` that another thread can ask."""

    def __init__(self) -> None:
        self._told: list[Told] = []

    def told(self) -> Sequence[Told]:
        """All stages so far, in the order they began."""
        return tuple(self._told)

    @contextmanager
    def step(self, description: str, total: int, *, unit: str = "") -> Iterator[Step]:
        """Open a stage; see `Progress`."""
        place = len(self._told)
        self._told.append(Told(description, total, unit))
        try:
            yield _RecordedStep(self._told, place)
        finally:
            self._told[place] = replace(self._told[place], is_open=False)


class _RecordedStep:
    def __init__(self, told: list[Told], place: int) -> None:
        self._told, self._place = told, place

    def advance(self, amount: int = 1, note: str = "") -> None:
        before = self._told[self._place]
        self._told[self._place] = replace(before, done=before.done + amount, note=note or before.note)


class Replayed:
    """Shows what a recorder told, as often as it is asked."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._shown: list[tuple[Told, Step, ExitStack]] = []

    def show(self, told: Sequence[Told]) -> None:
        """Bring what is shown up to date."""
        for place, now in enumerate(told):
            if place == len(self._shown):
                opened = ExitStack()
                step = opened.enter_context(self._progress.step(now.description, now.total, unit=now.unit))
                self._shown.append((replace(now, done=0, note="", is_open=True), step, opened))
            before, step, opened = self._shown[place]
            if (now.done, now.note) != (before.done, before.note):
                step.advance(now.done - before.done, now.note)
            if before.is_open and not now.is_open:
                opened.close()
            self._shown[place] = (now, step, opened)

    def __enter__(self) -> Replayed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, _, opened in reversed(self._shown):
            opened.close()
