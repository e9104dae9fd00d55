"""The canonical store: memory-mapped uint8 arrays in canonical order, and a small JSON file that names them.

<datasets>/<name>/dataset.json                         written last, by one rename
<datasets>/<name>/<generation>/<split>.npy             uint8 [I, H, W, C], grouped by class
<datasets>/<name>/<generation>/<split>.names.npy       official file names, UTF-8, where the dataset has them

An import writes a new generation beside the old one, so that a dataset opens at every moment. An interrupted
import leaves a generation that nothing names; the next import removes it. Disk space is checked before hours of work.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import tokenize
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from fewshot_bench._io.locations import datasets_folder
from fewshot_bench._io.storage import write_atomically
from fewshot_bench.datasets.dataset import (
    ALL_SPLIT_NAMES,
    Dataset,
    IdentifiedBy,
    ImageSplit,
    SplitName,
    split_fingerprint,
)
from fewshot_bench.datasets.duplicates import Duplicates, find_duplicates
from fewshot_bench.errors import DatasetError
from fewshot_bench.units import bytes_text


def check_disk_space(folder: Path, needed: int, what: str) -> None:
    """Raise DatasetError, naming what needs the space, if fewer bytes are free than needed in a folder."""
    existing = nearest_folder(folder)
    if existing is None:
        return
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise DatasetError(
            f"{what} need {bytes_text(needed)}, but {existing} has {bytes_text(free)} free. Make room, "
            "or set FEWSHOT_BENCH_HOME to a folder on another disk."
        )


def nearest_folder(folder: Path) -> Path | None:
    """The folder itself or its nearest parent that exists, which is on the same disk."""
    return next((place for place in (folder, *folder.parents) if place.is_dir()), None)


_FORMAT = 2
_PATIENCE = 60.0  # seconds to wait for another process that writes the same dataset
_DESCRIPTION = "dataset.json"
_UNREADABLE = (OSError, EOFError, ValueError, OverflowError, MemoryError, RecursionError, tokenize.TokenError)


def is_stored(name: str, *, folder: Path | None = None) -> bool:
    """Whether a dataset of that name has been imported."""
    is_a_name = name == Path(name).name
    return is_a_name and ((folder or datasets_folder()) / name / _DESCRIPTION).is_file()


def stored_names(*, folder: Path | None = None) -> list[str]:
    """Names of all stored datasets, sorted."""
    folder = folder or datasets_folder()
    return sorted(path.parent.name for path in folder.glob(f"*/{_DESCRIPTION}")) if folder.is_dir() else []


def stored_bytes(name: str) -> int:
    """Space that a stored dataset takes on disk."""
    return sum(path.stat().st_size for path in (datasets_folder() / name).rglob("*") if path.is_file())


def open_stored(name: str, *, folder: Path | None = None) -> Dataset:
    """Open an imported dataset; the images stay on disk until they are read.

    Args:
        name: the dataset's name.
        folder: where it is stored; the folder of imported datasets by default.

    Raises:
        DatasetError: the stored files are damaged.
    """
    place = (folder or datasets_folder()) / name
    try:
        return _open(place, name)
    except DatasetError:
        return _open(place, name)  # it was replaced after the JSON was read


def read_description(name: str, *, folder: Path | None = None) -> dict[str, Any]:
    """The description of a stored dataset, without its images; raises DatasetError if it is damaged."""
    place = (folder or datasets_folder()) / name
    try:
        description = json.loads((place / _DESCRIPTION).read_text(encoding="utf-8"))
        if description["format"] != _FORMAT:
            raise DatasetError(
                f"{place} is of store format {description['format']}, not {_FORMAT}. {_reimport_hint(name)}"
            )
        if description.pop("digest", None) != _digest(description):
            raise ValueError(f"{_DESCRIPTION} is not as it was written")
        return _checked(description)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(place, name, error) from error


def _checked(description: Mapping[str, Any]) -> dict[str, Any]:
    """The description, if all fields that are read elsewhere are there."""
    types = {"name": str, "generation": str, "recipe": dict, "identified_by": str, "duplicates": dict, "splits": dict}
    for key, kind in types.items():
        if not isinstance(description[key], kind):
            raise ValueError(f"'{key}' is not a {kind.__name__}")
    Duplicates(**description["duplicates"])
    for split, facts in description["splits"].items():
        if split not in ALL_SPLIT_NAMES or not facts["class_sizes"]:
            raise ValueError(f"'{split}' is not a split with classes")
        if not all(isinstance(facts[key], str) for key in ("fingerprint", "names")):
            raise ValueError(f"'{split}' has no digests")
    return dict(description)


def _digest(description: Mapping[str, Any]) -> str:
    """Of the description without its digest, as text that does not depend on how it is laid out."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _open(place: Path, name: str) -> Dataset:
    description = read_description(name, folder=place.parent)
    try:
        generation = place / _plain_name(description["generation"])
        splits = {
            split: _open_split(generation, description["name"], split, description["splits"][split])
            for split in ALL_SPLIT_NAMES
            if split in description["splits"]
        }
        return Dataset(description["name"], splits, description["recipe"], description["identified_by"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(place, name, error) from error


def damaged_splits(name: str) -> list[SplitName]:
    """Splits whose bytes on disk are no longer those that were stored; reads every image.

    Raises:
        DatasetError: the dataset cannot be opened at all.
    """
    dataset = open_stored(name)
    return [
        split
        for split, images in dataset.splits.items()
        if split_fingerprint(images.images, images.class_names, images.class_sizes) != images.fingerprint
        or read_description(name)["splits"][split]["names"] != images.names_digest()
    ]


def _plain_name(name: str) -> str:
    if not name or name != Path(name).name or name.startswith("."):
        raise ValueError(f"{name!r} is not a generation")
    return name


def _open_split(folder: Path, dataset: str, split: SplitName, facts: Mapping[str, Any]) -> ImageSplit:
    images = _mapped(folder / f"{split}.npy")
    sizes = tuple(int(size) for size in facts["class_sizes"])
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) != sum(sizes):
        raise ValueError(f"{split}.npy does not hold {sum(sizes):,} uint8 images")
    if len(facts["class_names"]) != len(sizes):
        raise ValueError(f"{split} has {len(facts['class_names'])} class names and {len(sizes)} class sizes")
    names = None
    if facts["has_image_names"]:
        names = _mapped(folder / f"{split}.names.npy")
        if names.dtype.kind != "S" or names.shape != (len(images),):
            raise ValueError(f"{split}.names.npy does not hold {len(images):,} names")
    return ImageSplit(
        dataset,
        split,
        images,
        tuple(facts["class_names"]),
        sizes,
        facts["fingerprint"],
        image_names=names,
    )


def _mapped(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        return array
    except _UNREADABLE as error:
        raise ValueError(f"{path.name}: {' '.join(str(error).split())}") from error


def _damaged(place: Path, name: str, error: Exception) -> DatasetError:
    return DatasetError(f"the stored copy of {name} in {place} is damaged ({error}). {_reimport_hint(name)}")


def _reimport_hint(name: str) -> str:
    return f"Import it again with: fewshot-bench data import {name} --from PATH --replace"


class SplitContent(Protocol):
    """The content of one split; its classes are read after the last block, when unreadable images are known.

    Attributes:
        planned: images at most.
        class_names: in canonical order, [C].
        class_sizes: images per class, [C].
        image_shape: height, width, channels.
        image_names: the official name of each image, [I]; None where the pixels are the identity.
    """

    @property
    def planned(self) -> int: ...  # noqa: D102  # the class says it
    @property
    def class_names(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def class_sizes(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def image_shape(self) -> tuple[int, int, int]: ...  # noqa: D102
    @property
    def image_names(self) -> Sequence[str] | None: ...  # noqa: D102

    def blocks(self) -> Iterator[NDArray[np.uint8]]:
        """The images in canonical order, uint8 [B, H, W, C] each."""


@dataclass(frozen=True, eq=False)
class WholeSplit:
    """A split whose images are in memory already, uint8 [I, H, W, C]."""

    images: NDArray[np.uint8]
    class_names: tuple[str, ...]
    class_sizes: tuple[int, ...]
    image_names: Sequence[str] | None = None

    @property
    def planned(self) -> int:
        """All images."""
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def blocks(self) -> Iterator[NDArray[np.uint8]]:
        """All images at once."""
        yield self.images


def store_dataset(
    name: str,
    splits: Mapping[SplitName, SplitContent],
    preprocessing: Mapping[str, Any],
    *,
    replace: bool = False,
    identified_by: IdentifiedBy = "pixels",
    late_facts: Callable[[Duplicates], Mapping[str, Any]] = lambda _: {},
    folder: Path | None = None,
    label: str = "",
) -> Dataset:
    """Write a dataset under its name, all or nothing, one block of images in memory at a time.

    Args:
        name: the name under which it is stored.
        splits: the content of each split.
        preprocessing: where the pixels came from and what was done to them, stored with them.
        replace: whether a stored dataset with other pixels may be replaced.
        identified_by: see `Dataset`.
        late_facts: more of it, known when all images have been read and compared.
        folder: where to store it; the folder of imported datasets by default.
        label: what the dataset calls itself, if not its name.

    Raises:
        DatasetError: another dataset of that name is stored and `replace` is false; there is not enough space; a
            split has other images than its class sizes say; another process is writing the same dataset.
    """
    with writing(name, folder=folder) as writer:
        needed = sum(content.planned * int(np.prod(content.image_shape)) for content in splits.values())
        check_disk_space(writer.place, needed, f"the images of {name}")
        for split, content in splits.items():
            writer.add(split, content)
        writer.check_is_free(replace=replace)
        duplicates = writer.duplicates()
        writer.install(
            {
                "name": label or name,
                "recipe": {**preprocessing, **late_facts(duplicates)},
                "identified_by": identified_by,
                "duplicates": duplicates.as_dict(),
            }
        )
    return open_stored(name, folder=folder)


@contextmanager
def writing(name: str, *, folder: Path | None = None) -> Iterator[StoreWriter]:
    """A new generation of a dataset, removed unless installed; raises DatasetError beside another writer."""
    parent = folder or datasets_folder()
    parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(parent / f".{name}.lock")
    try:
        lock.acquire(timeout=_PATIENCE)
    except Timeout as error:
        raise DatasetError(
            f"another process is importing {name} into {parent}. Wait until it has finished, then try again."
        ) from error
    with lock:
        place = parent / name
        _remove_leftovers(place)
        writer = StoreWriter(place, secrets.token_hex(8))
        writer.folder.mkdir(parents=True)
        try:
            yield writer
        finally:
            _remove_leftovers(place)


def _remove_leftovers(place: Path) -> None:
    """Remove all generations but the described one, and the folder if it has no description."""
    if not place.is_dir():
        return
    try:
        current = json.loads((place / _DESCRIPTION).read_text(encoding="utf-8"))["generation"]
    except (OSError, ValueError, KeyError, TypeError):
        current = None
    for path in place.iterdir():
        if path.name in (current, _DESCRIPTION):
            continue
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    if not any(place.iterdir()):
        place.rmdir()


@dataclass
class StoreWriter:
    """A generation of a dataset that is being written."""

    place: Path
    generation: str
    splits: dict[SplitName, dict[str, Any]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where its files lie until, and after, it is installed."""
        return self.place / self.generation

    def add(self, split: SplitName, content: SplitContent) -> None:
        """Write one split, flushed to the disk; raises DatasetError if the blocks hold other images than announced."""
        path = self.folder / f"{split}.npy"
        written = 0
        with path.open("xb") as file:
            first_row = _write_header(file, (content.planned, *content.image_shape))
            for block in content.blocks():
                if block.dtype != np.uint8 or block.shape[1:] != content.image_shape:
                    raise DatasetError(
                        f"the {split} split should hold uint8 images of {list(content.image_shape)}; the source gave "
                        f"{block.dtype} {list(block.shape[1:])}."
                    )
                file.write(np.ascontiguousarray(block).data)
                written += len(block)
            if written != sum(content.class_sizes):
                raise DatasetError(
                    f"the {split} split should hold {sum(content.class_sizes):,} images; the source gave {written:,}."
                )
            if written != content.planned:
                file.seek(0)
                if _write_header(file, (written, *content.image_shape)) != first_row:
                    raise AssertionError("NumPy leaves room for the first axis to grow; this one does not")
            file.flush()
            os.fsync(file.fileno())
        self._describe(split, content, np.load(path, mmap_mode="r", allow_pickle=False))

    def _describe(self, split: SplitName, content: SplitContent, images: NDArray[np.uint8]) -> None:
        fingerprint = split_fingerprint(images, content.class_names, content.class_sizes)
        names: NDArray[np.bytes_] | None = None
        if content.image_names is not None:
            # Names of files need not be Unicode; what is not is written as Python would print it.
            texts = [name.encode(errors="backslashreplace") for name in content.image_names]
            names = np.array(texts, dtype=np.bytes_)
            if len(names) != len(images):
                raise DatasetError(f"the {split} split has {len(images):,} images but {len(names):,} names.")
            with (self.folder / f"{split}.names.npy").open("xb") as file:
                np.save(file, names, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
        stored = ImageSplit(
            self.place.name, split, images, content.class_names, content.class_sizes, fingerprint, image_names=names
        )
        self.splits[split] = {
            "class_names": content.class_names,
            "class_sizes": content.class_sizes,
            "image_shape": content.image_shape,
            "fingerprint": fingerprint,
            "has_image_names": names is not None,
            "names": stored.names_digest(),
        }

    def check_is_free(self, *, replace: bool) -> None:
        """Raise DatasetError if other pixels are stored under that name and `replace` is false."""
        if not replace and (self.place / _DESCRIPTION).exists():
            stored = _fingerprints(self.place)
            if stored is not None and stored != {split: facts["fingerprint"] for split, facts in self.splits.items()}:
                raise DatasetError(
                    f"a {self.place.name} with other pixels is already stored in {self.place}. Add --replace to"
                    " replace it."
                )

    def duplicates(self) -> Duplicates:
        """Images that occur more than once in what was written."""
        return find_duplicates(
            {split: _open_split(self.folder, self.place.name, split, facts) for split, facts in self.splits.items()}
        )

    def install(self, facts: Mapping[str, Any]) -> None:
        """Make this generation the dataset."""
        description = {"format": _FORMAT, "generation": self.generation, **facts, "splits": self.splits}
        description["digest"] = _digest(description)
        write_atomically(self.place / _DESCRIPTION, json.dumps(description, indent=1).encode())


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> int:
    """Write NumPy's header; returns where the first row begins."""
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.tell()


def _fingerprints(place: Path) -> object:
    try:
        splits = json.loads((place / _DESCRIPTION).read_text(encoding="utf-8"))["splits"]
        return {split: facts["fingerprint"] for split, facts in splits.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
