"""The images on this machine, where they are, against those that the outcomes belong to.

Whether the backbone has seen the classes that it is tested on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fewshot_bench._io.locations import Place
from fewshot_bench.audit.finding import Finding, Verdict
from fewshot_bench.audit.rebuild import Brought
from fewshot_bench.datasets import Dataset, OwnOptions, is_available, kept_copies, known_dataset
from fewshot_bench.errors import FewshotBenchError
from fewshot_bench.outcomes import Cell
from fewshot_bench.report.leaderboard_rows import pretraining_overlap

CHECK = "images"
_OPTION = "say where they lie with --dataset PATH"
_ALL_IN_CELLS_OF = 3
"""Folders from results/outcomes/<cell> up to the one that results lie in."""


@dataclass(frozen=True)
class ImagesHere:
    """The dataset of a cell as this machine has it.

    Attributes:
        dataset: its images; None where they are not here.
        reason: why not, with the option that says where they are.
        are_the_same: whether they have the fingerprint that the outcomes name.
    """

    dataset: Dataset | None
    reason: str = ""
    are_the_same: bool = False


def images_here(cell: Cell, options: Brought, folder: Place) -> ImagesHere:
    """Find the images of a cell among those that are here; nothing is downloaded, and no code of a name is run.

    They are looked for by the name of the dataset, among the stored copies of somebody's own images, and where the
    record says that own images were. The first with the fingerprint of the outcomes is taken.

    Args:
        cell: whose dataset.
        options: which may say where the images lie; then they are looked for there alone.
        folder: of the cell.
    """
    wrong: ImagesHere | None = None
    name = cell.protocol.dataset
    if options.dataset is not None:
        found = _opened(cell, options.dataset)
        return found if isinstance(found, ImagesHere) else ImagesHere(None, f"{found.rstrip('.')}; {_OPTION}")
    for place in _candidates(cell, folder):
        found = _opened(cell, place)
        if isinstance(found, str):
            continue
        if found.are_the_same:
            return found
        wrong = wrong or found
    recorded = _recorded_place(cell)
    there = f" ({recorded} in the record)" if recorded not in ("", name) else ""
    return wrong or ImagesHere(None, f"the images of {name}{there} are not here; {_OPTION}")


def _opened(cell: Cell, place: str | Path | Dataset) -> ImagesHere | str:
    """The images of one place; in words, why there are none."""
    try:
        dataset = place if isinstance(place, Dataset) else known_dataset(place, own=own_options(cell))
        dataset.split(cell.protocol.split)  # type: ignore[arg-type]  # any text is answered by an error
    except FewshotBenchError as error:
        return str(error)
    return ImagesHere(dataset, "", dataset.fingerprint == cell.protocol.dataset_fingerprint)


def _candidates(cell: Cell, folder: Place) -> Iterator[str | Path | Dataset]:
    name = cell.protocol.dataset
    if is_available(name):
        yield name
    yield from kept_copies(name)
    yield from _where_the_record_says(cell, folder)


def _where_the_record_says(cell: Cell, folder: Place) -> Iterator[Path]:
    """Where own images may lie: at the recorded path from this folder, or from that in which the results lie.

    A stranger's record may say anything, so only what lies below these folders is opened, and never a hub. Of an
    absolute path the last part is recorded.
    """
    recorded = _recorded_place(cell)
    path = PurePosixPath(recorded)
    if not path.parts or ":" in recorded or path.is_absolute() or ".." in path.parts or "\\" in recorded:
        return
    tops = [Path.cwd()]
    if isinstance(folder, Path) and len(folder.parents) >= _ALL_IN_CELLS_OF:
        tops.append(folder.parents[_ALL_IN_CELLS_OF - 1])
    for top in dict.fromkeys(tops):
        with suppress(OSError, ValueError):  # no name that a file could have
            if (place := top / path).exists() and place.resolve().is_relative_to(top.resolve()):
                yield place


def _recorded_place(cell: Cell) -> str:
    """Where own images were, as it was typed, without the folders of an absolute path; empty where none is recorded."""
    typed = cell.provenance.get("images")
    return typed if isinstance(typed, str) else ""


def own_options(cell: Cell) -> OwnOptions:
    """How somebody's own images become the cell's dataset, as far as the record says it."""
    record = cell.provenance.get("study")
    if not isinstance(record, Mapping):
        return OwnOptions()
    try:
        fractions = record.get("fractions")
        return OwnOptions(
            fractions=None if fractions is None else _three(fractions),
            seed=max(0, int(record.get("seed", 0))),
            least_images=int(record.get("least_images", 1)),
            class_depth=record.get("class_depth"),
            layout=record.get("layout", "auto"),
        )
    except (FewshotBenchError, TypeError, ValueError, OverflowError):  # the study itself is refused where it is read
        return OwnOptions()


def _three(fractions: object) -> tuple[float, float, float]:
    if not isinstance(fractions, list | tuple):
        raise TypeError(fractions)
    base, validation, novel = (float(fraction) for fraction in fractions)
    return base, validation, novel


def check_images(cell: Cell, here: ImagesHere) -> Finding:
    """Whether the images here are those of the outcomes, by the fingerprint of all pixels."""
    if here.dataset is None:
        return Finding(CHECK, "not checked", here.reason)
    own, stored = here.dataset.fingerprint[:12], cell.protocol.dataset_fingerprint[:12]
    if here.are_the_same:
        return Finding(CHECK, "pass", f"fingerprint {own} of {here.dataset.name} is that of the images here")
    return Finding(CHECK, "fail", f"the images of {here.dataset.name} here have fingerprint {own}, not {stored}")


CHECK_PRETRAINING = "pretraining"
_VERDICTS: dict[str, Verdict] = {"shared": "fail", "unknown": "not checked", "none": "pass"}
_OTHER_IMAGES = ("cifar-fs", "fc100")


def check_pretraining(cell: Cell) -> Finding:
    """What is recorded of the pretraining, against the novel classes of the dataset."""
    pretraining: str | None = cell.provenance.get("pretraining")
    found = pretraining_overlap(pretraining, cell.protocol.dataset)
    if found.flag:
        return Finding(CHECK_PRETRAINING, _VERDICTS[found.kind], found.flag)
    detail = f"on {pretraining}: no novel class" if pretraining else "trained from an initialisation"
    if pretraining is None:
        detail = "not recorded, and no corpus holds these images"
    if found.kind == "none" and cell.protocol.dataset in _OTHER_IMAGES and "ImageNet-" in (pretraining or ""):
        detail = f"on {pretraining}: classes of the same kinds, such as a leopard, but other images"
    return Finding(CHECK_PRETRAINING, _VERDICTS[found.kind], detail)
