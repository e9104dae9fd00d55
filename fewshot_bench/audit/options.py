"""What a user says about running stored methods again; without torch, so that a wrong name is answered at once."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path

from fewshot_bench._io.locations import Location

_SEED_BITS = 32


@dataclass(frozen=True, kw_only=True)
class RerunOptions:
    """How a stored method is run again, with what, and what its record may cause.

    Attributes:
        seed: chooses which of the stored episodes are run again, and perturbations; from the operating system by
            default, so that it cannot be known when a result is stored.
        device: a torch device, or "auto".
        dataset: where the images lie, if not under the dataset's name.
        weights: the file of weights that the study names.
        trusts_code: whether what the study names as `module:callable` may be imported.
        downloads: whether weights that the study names may be fetched from a model hub.
    """

    seed: int = field(default_factory=lambda: secrets.randbits(_SEED_BITS))
    device: str = "auto"
    dataset: Path | None = None
    weights: Path | None = None
    trusts_code: bool = False
    downloads: bool = False


@dataclass(frozen=True, kw_only=True)
class AuditOptions(RerunOptions):
    """How an audit runs methods again.

    Attributes:
        episodes: how many stored episodes of each cell to run again; 0 leaves the methods alone. With 100, a forger of
            3% of the episodes is found with 95%, see `Sample`.
        cells: how many cells the audit has, for which the level of its tests is divided.
    """

    episodes: int = 100
    cells: int = 1


@dataclass(frozen=True, kw_only=True)
class ReproductionOptions(RerunOptions):
    """How much is run again, and where the new outcomes go.

    Attributes:
        episodes: how many of the stored episodes of each cell, drawn at random; all of them by default.
        into: a folder of results that keeps the new outcomes, so that an interrupted reproduction can be resumed.
        arguments: of the command line that asks for it, to be recorded with these.
    """

    episodes: int | None = None
    into: Location | None = None
    arguments: tuple[str, ...] = ()
