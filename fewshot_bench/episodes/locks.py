"""Lock files: one small TOML file per published protocol, with the digest its episodes must have."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from fewshot_bench._io.storage import read_named
from fewshot_bench._io.toml import tomllib
from fewshot_bench.datasets.dataset import Dataset
from fewshot_bench.episodes.protocol import SAMPLER_VERSION, Protocol
from fewshot_bench.episodes.sampler import draw, resolved_protocol
from fewshot_bench.errors import EpisodeError, IrregularFileError, OutcomeError, UnknownNameError

_NO_LOCK = (
    *(OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError),
    *(EpisodeError, UnknownNameError, RecursionError),
)
_LARGEST = 8_000_000  # bytes; the sizes of as many classes as a split may have, and the digests of as many runs


@dataclass(frozen=True)
class Lock:
    """A protocol, the data it was published for, and the digests of its episodes.

    Attributes:
        protocol: the protocol.
        images: identity of the whole dataset by its images, whatever was done to their pixels; without a digest if
            only the class sizes were known when the protocol was published.
        class_sizes: images per class of the split, [C], to verify without the images.
        sha256: one digest per run, see `episode_digests`.
    """

    protocol: Protocol
    images: str
    class_sizes: tuple[int, ...]
    sha256: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """The result of verifying a lock file."""

    path: Path
    protocol: Protocol
    episodes_match: bool
    images_match: bool | None
    is_here: bool = False

    @property
    def is_good(self) -> bool:
        """Whether the episodes match, and the images too if they are present."""
        return self.episodes_match and self.images_match is not False

    def as_dict(self) -> dict[str, Any]:
        """The verdict as plain data."""
        return {"lock": str(self.path), "episodes_match": self.episodes_match, "images_match": self.images_match}

    def __str__(self) -> str:
        episodes = "episodes match" if self.episodes_match else "EPISODES DIFFER"
        unknown = "images not compared (names unknown)" if self.is_here else "images not here"
        images = {True: "images match", False: "IMAGES DIFFER", None: unknown}[self.images_match]
        return f"{self.path.name}: {episodes}, {images}"


def episode_digests(class_sizes: Sequence[int], protocol: Protocol) -> tuple[str, ...]:
    """Digest of every run's episodes, 64 hexadecimal digits each.

    SHA-256 of the image indices as little-endian int32, episode by episode: [N, K + Q], support first; [N, K + N * Q]
    with -1 after the last query of a class if queries are uneven; preceded by N and K if they vary.

    Args:
        class_sizes: images per class of the split, [C].
        protocol: how many episodes and runs, and of what.

    Raises:
        EpisodeError: the split has too few classes, images or episodes.
    """
    return tuple(_digest(class_sizes, resolved_protocol(protocol, class_sizes), run) for run in range(protocol.runs))


def _digest(class_sizes: Sequence[int], protocol: Protocol, run: int) -> str:
    groups = draw(protocol, class_sizes, run, np.arange(protocol.episodes))
    if protocol.sampler != "varied":
        return hashlib.sha256(groups[0].images.astype("<i4").tobytes()).hexdigest()
    content = [b""] * protocol.episodes
    for group in groups:
        shape = np.array([group.way, group.shot], dtype="<i4").tobytes()
        for number, images in zip(group.numbers, group.images, strict=True):
            content[number] = shape + images.astype("<i4").tobytes()
    return hashlib.sha256(b"".join(content)).hexdigest()


def lock(dataset: Dataset, protocol: Protocol) -> Lock:
    """Freeze a protocol over a dataset."""
    sizes = dataset.split(protocol.split).class_sizes
    protocol = resolved_protocol(protocol, sizes)
    return Lock(protocol, dataset.identity, sizes, episode_digests(sizes, protocol))


def write_lock(frozen: Lock, folder: Path) -> Path:
    """Write a lock file named after its protocol; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{frozen.protocol.name}.toml"
    fields = frozen.protocol.as_fields() | {
        "images": frozen.images,
        "class_sizes": list(frozen.class_sizes),
        "sha256": list(frozen.sha256),
    }
    path.write_text(tomli_w.dumps(fields), encoding="utf-8")
    return path


def read_lock(path: Path) -> Lock:
    """Read a lock file; raises EpisodeError if it is not one, or of another sampler version."""
    try:
        fields: dict[str, Any] = tomllib.loads(read_named(path, _LARGEST).decode())
        images = str(fields.pop("images"))
        sizes = tuple(int(size) for size in fields.pop("class_sizes"))
        sha256 = tuple(str(digest) for digest in fields.pop("sha256"))
        protocol = Protocol(**fields)
    except IrregularFileError as error:
        raise EpisodeError(f"{path} is not a lock file of episodes: it is {error.finding}.") from error
    except KeyError as error:
        raise EpisodeError(f"{path} is not a lock file of episodes: it has no key {error}.") from error
    except (OutcomeError, *_NO_LOCK) as error:
        raise EpisodeError(f"{path} is not a lock file of episodes: {error}.") from error
    if protocol.sampler_version != SAMPLER_VERSION:
        raise EpisodeError(
            f"{path} was made by sampler version {protocol.sampler_version}; this is version {SAMPLER_VERSION}. "
            "Use the release of fewshot-bench that made it."
        )
    return Lock(protocol, images, sizes, sha256)


def verify_lock(path: Path, dataset: Dataset | None) -> Verdict:
    """Draw the episodes of a lock file again and compare; without the images, the episodes alone."""
    frozen = read_lock(path)
    images_match = None if dataset is None else _same_images(frozen.images, dataset.identity)
    sizes = frozen.class_sizes
    if dataset is not None:
        sizes = dataset.split(frozen.protocol.split).class_sizes
    try:
        episodes_match = episode_digests(sizes, frozen.protocol) == frozen.sha256
    except EpisodeError:  # this copy is too small to give them
        episodes_match = False
    return Verdict(path, frozen.protocol, episodes_match, images_match, dataset is not None)


def _same_images(published: str, here: str) -> bool | None:
    """Whether two identities mean the same images; None if one of them does not say."""
    kind, _, digest = published.partition(":")
    return published == here if digest and here.startswith(f"{kind}:") else None


def lock_files(places: Sequence[Path] | None) -> list[Path]:
    """Lock files in files and folders, by default the published ones.

    Raises:
        EpisodeError: a place does not exist, or no lock file is there.
    """
    found: list[Path] = []
    for place in places or [published_locks_folder()]:
        if not place.exists():
            raise EpisodeError(f"{place} does not exist; give lock files (.toml) or a folder of them.")
        found += sorted(place.glob("*.toml")) if place.is_dir() else [place]
    if not found:
        shown = ", ".join(str(place) for place in places or [published_locks_folder()])
        raise EpisodeError(f"there are no lock files (.toml) in {shown}. Make some with: fewshot-bench episodes freeze")
    return found


def published_locks_folder() -> Path:
    """Folder of the lock files that come with this project, in a wheel or in a checkout."""
    shipped = Path(__file__).parent / "locks"
    return shipped if shipped.is_dir() else Path(__file__).parents[2] / "episodes"
