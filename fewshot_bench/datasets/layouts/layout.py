"""What recognising a layout gives: what it is, what can be made of it, and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewshot_bench.datasets.dataset import IdentifiedBy, SplitName
from fewshot_bench.datasets.pixels import Filter, Fit
from fewshot_bench.datasets.store import SplitContent
from fewshot_bench.progress import SILENT, Progress


@dataclass(frozen=True)
class ImportRequest:
    """What a user wants of a source.

    Attributes:
        dataset: the name.
        size: side of the stored images in pixels; None takes the dataset's own.
        fit: likewise.
        interpolation: likewise.
        progress: shown one unit per image.
        stack: closes what was opened for reading, after the import.
    """

    dataset: str
    size: int | None = None
    fit: Fit | None = None
    interpolation: Filter | None = None
    progress: Progress = SILENT
    stack: ExitStack = field(default_factory=ExitStack)


@dataclass(frozen=True)
class Imported:
    """The content of every split, and what is to be known about it.

    Attributes:
        splits: ready to be stored.
        recipe: where the pixels came from and what was done to them.
        identified_by: how an image is known whatever copy it comes from; see `Dataset`.
        warnings: what the user should know, one sentence each.
    """

    splits: Mapping[SplitName, SplitContent]
    recipe: dict[str, Any]
    identified_by: IdentifiedBy = "pixels"
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """A layout that was recognised.

    Attributes:
        layout: what people call it.
        place: the folder or archive in which it lies.
        datasets: what can be made of it.
        missing: what must be there and is not; empty for a complete one.
        read: makes a dataset of it.
    """

    layout: str
    place: Path
    datasets: tuple[str, ...]
    read: Callable[[ImportRequest], Imported]
    missing: tuple[str, ...] = ()
