"""The images of a cell: where they lie on this machine, and whether a backbone was pretrained on their classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from fewshot_bench._io.locations import Location
from fewshot_bench.audit.finding import Finding, Verdict
from fewshot_bench.datasets import Dataset, OwnOptions, is_available, kept_copies, known_dataset
from fewshot_bench.errors import FewshotBenchError
from fewshot_bench.outcomes import Cell
from fewshot_bench.report.leaderboard_rows import pretraining_overlap
from fewshot_bench.study.study import Study

IMAGES = "images"
PRETRAINING = "pretraining"
_OF_OWN_IMAGES = ("fractions", "seed", "least_images", "class_depth", "layout")
_OPTION = "say where they lie with --dataset PATH"
_DEPTH_OF_A_CELL = 3
"""Levels from results/outcomes/<cell> up to the folder that results lie in."""


@dataclass(frozen=True)
class LocalImages:
    """The dataset of a cell as this machine has it.

    Attributes:
        dataset: its images; None where they are not here.
        reason: why not, with the option that says where they are.
        is_same: whether they have the fingerprint that the outcomes name.
    """

    dataset: Dataset | None
    reason: str = ""
    is_same: bool = False


def find_images(cell: Cell, folder: Location, place: Path | None = None) -> LocalImages:
    """Find the images of a cell on this machine; nothing is downloaded, and no code of a name is run.

    They are looked for by the name of the dataset, among the stored copies of users' own images, and in the recorded
    place of own images. The first with the fingerprint of the outcomes is taken.

    Args:
        cell: whose dataset.
        folder: of the cell.
        place: where the user says they lie; then they are looked for there alone.
    """
    if place is not None:
        found = _opened(cell, place)
        return found if isinstance(found, LocalImages) else LocalImages(None, f"{found.rstrip('.')}; {_OPTION}")
    other: LocalImages | None = None
    for candidate in _candidates(cell, folder):
        found = _opened(cell, candidate)
        if isinstance(found, str):
            continue
        if found.is_same:
            return found
        other = other or found
    name, recorded = cell.protocol.dataset, _recorded_place(cell)
    there = f" ({recorded} in the record)" if recorded not in ("", name) else ""
    return other or LocalImages(None, f"the images of {name}{there} are not here; {_OPTION}")


def _opened(cell: Cell, place: str | Path | Dataset) -> LocalImages | str:
    """The images of one place; or why there are none, in words."""
    try:
        dataset = place if isinstance(place, Dataset) else known_dataset(place, own=_own_options(cell))
        dataset.split(cell.protocol.split)  # type: ignore[arg-type]  # any text is answered by an error
    except FewshotBenchError as error:
        return str(error)
    return LocalImages(dataset, "", dataset.fingerprint == cell.protocol.dataset_fingerprint)


def _candidates(cell: Cell, folder: Location) -> Iterator[str | Path | Dataset]:
    name = cell.protocol.dataset
    if is_available(name):
        yield name
    yield from kept_copies(name)
    yield from _where_the_record_says(cell, folder)


def _where_the_record_says(cell: Cell, folder: Location) -> Iterator[Path]:
    """The recorded path of own images, below the current folder or below the folder that the results lie in.

    A stranger's record may say anything, so nothing above or beside these folders is opened, and never a hub. Of an
    absolute path the last part is recorded.
    """
    recorded = _recorded_place(cell)
    path = PurePosixPath(recorded)
    if not path.parts or ":" in recorded or path.is_absolute() or ".." in path.parts or "\\" in recorded:
        return
    tops = [Path.cwd()]
    if isinstance(folder, Path) and len(folder.parents) >= _DEPTH_OF_A_CELL:
        tops.append(folder.parents[_DEPTH_OF_A_CELL - 1])
    for top in dict.fromkeys(tops):
        with suppress(OSError, ValueError):  # not the name of a file
            if (place := top / path).exists() and place.resolve().is_relative_to(top.resolve()):
                yield place


def _recorded_place(cell: Cell) -> str:
    """Where own images lay, as typed, without the folders of an absolute path; empty where that is not recorded."""
    typed = cell.provenance.get("images")
    return typed if isinstance(typed, str) else ""


def _own_options(cell: Cell) -> OwnOptions:
    """How a user's own images become the cell's dataset, as far as that is recorded."""
    record = cell.provenance.get("study")
    if not isinstance(record, Mapping):
        return OwnOptions()
    try:
        options = Study.model_validate({name: record[name] for name in _OF_OWN_IMAGES if name in record}).own_options
    except (FewshotBenchError, ValidationError):  # the study itself is refused where it is read
        return OwnOptions()
    return replace(options, seed=max(0, options.seed))


def check_images(cell: Cell, local: LocalImages) -> Finding:
    """Whether the images here are those of the outcomes, by the fingerprint of all pixels."""
    if local.dataset is None:
        return Finding(IMAGES, "not checked", local.reason)
    own, stored = local.dataset.fingerprint[:12], cell.protocol.dataset_fingerprint[:12]
    if local.is_same:
        return Finding(IMAGES, "pass", f"fingerprint {own} of {local.dataset.name} is that of the images here")
    return Finding(IMAGES, "fail", f"the images of {local.dataset.name} here have fingerprint {own}, not {stored}")


_VERDICTS: dict[str, Verdict] = {"shared": "fail", "unknown": "not checked", "none": "pass"}
_OTHER_IMAGES = ("cifar-fs", "fc100")


def check_pretraining(cell: Cell) -> Finding:
    """Whether the recorded pretraining holds novel classes of the dataset."""
    pretraining: str | None = cell.provenance.get("pretraining")
    found = pretraining_overlap(pretraining, cell.protocol.dataset)
    if found.flag:
        return Finding(PRETRAINING, _VERDICTS[found.kind], found.flag)
    detail = f"on {pretraining}: no novel class" if pretraining else "trained from an initialisation"
    if pretraining is None:
        detail = "not recorded, and no corpus holds these images"
    if found.kind == "none" and cell.protocol.dataset in _OTHER_IMAGES and "ImageNet-" in (pretraining or ""):
        detail = f"on {pretraining}: classes of the same kinds, such as a leopard, but other images"
    return Finding(PRETRAINING, _VERDICTS[found.kind], detail)
