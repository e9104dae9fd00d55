"""The images on this machine, where they are, against those that the outcomes belong to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fewshot_bench.audit.finding import Finding
from fewshot_bench.datasets import Dataset, OwnOptions, is_available, known_dataset
from fewshot_bench.errors import FewshotBenchError
from fewshot_bench.outcomes import Cell

CHECK = "images"


@dataclass(frozen=True)
class ImagesHere:
    """The dataset of a cell as this machine has it.

    Attributes:
        dataset: its images; None where they are not here.
        reason: why not.
        are_the_same: whether they have the fingerprint that the outcomes name.
    """

    dataset: Dataset | None
    reason: str = ""
    are_the_same: bool = False


def images_here(cell: Cell, place: Path | None, own: OwnOptions) -> ImagesHere:
    """Open the dataset by its name among those that are here; nothing is downloaded, and no code of a name is run.

    Args:
        cell: whose dataset.
        place: where the auditor's own images lie, instead.
        own: how those become a dataset.
    """
    name = cell.protocol.dataset
    try:
        if place is not None:
            dataset = known_dataset(place, own=own)
        elif is_available(name):
            dataset = known_dataset(name)
        else:
            return ImagesHere(None, f"the images of {name} are not here")
        dataset.split(cell.protocol.split)  # type: ignore[arg-type]  # any text is answered by an error
    except FewshotBenchError as error:
        return ImagesHere(None, str(error))
    return ImagesHere(dataset, "", dataset.fingerprint == cell.protocol.dataset_fingerprint)


def check_images(cell: Cell, here: ImagesHere) -> Finding:
    """Whether the images here are those of the outcomes, by the fingerprint of all pixels."""
    if here.dataset is None:
        return Finding(CHECK, "not checked", here.reason)
    own, stored = here.dataset.fingerprint[:12], cell.protocol.dataset_fingerprint[:12]
    if here.are_the_same:
        return Finding(CHECK, "pass", f"fingerprint {own} of {here.dataset.name} is that of the images here")
    return Finding(CHECK, "fail", f"the images of {here.dataset.name} here have fingerprint {own}, not {stored}")
