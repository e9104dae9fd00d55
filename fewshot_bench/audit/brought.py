"""What somebody brings along to run a stored method again, which the record itself may not decide."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path

_SEED_BITS = 32


def unforeseeable_seed() -> int:
    """A seed from the operating system: whoever stored a result cannot have known it."""
    return secrets.randbits(_SEED_BITS)


@dataclass(frozen=True, kw_only=True)
class Brought:
    """Where the method is run, with what, and what the record may have done for it.

    Attributes:
        seed: chooses which of the stored episodes are run again, and disturbances; unforeseeable by default.
        device: a torch device, or "auto".
        dataset: where the images lie, if not under the dataset's name.
        weights: the file of weights that the study names.
        trusts_code: whether what the study names as `module:callable` may be imported.
        downloads: whether weights that the study names may be fetched from a model hub.
    """

    seed: int = field(default_factory=unforeseeable_seed)
    device: str = "auto"
    dataset: Path | None = None
    weights: Path | None = None
    trusts_code: bool = False
    downloads: bool = False
