"""Tiny sources of images in the layouts that can be imported, and what tests ask of a folder afterwards."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import stat
import tarfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from archives import png

from fewshot_bench.datasets.official_splits import official_classes

PARTS = ("train", "val", "test")
Member = tuple[str, bytes]
File = TypeVar("File", Path, io.BytesIO)


def class_images(
    classes: Sequence[str] = ("cat", "dog", "owl"), *, images: int = 3, size: int = 12, seed: int = 0
) -> list[Member]:
    """Path and content of noise images in class folders."""
    generator = np.random.default_rng(seed)
    return [
        (f"{name}/{number}.png", png(generator.integers(0, 256, (size, size, 3), dtype=np.uint8)))
        for name in classes
        for number in range(images)
    ]


def write_folder(folder: Path, members: Iterable[Member]) -> Path:
    """The members as files."""
    for name, content in members:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_zip(path: File, members: Iterable[Member], *, compression: int = zipfile.ZIP_DEFLATED) -> File:
    """The members as a zip, whatever their names are."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            member = zipfile.ZipInfo()
            member.filename, member.compress_type, member.external_attr = name, compression, stat.S_IFREG << 16
            archive.writestr(member, content)
    return path


def write_tar(path: File, members: Iterable[Member], *, compression: str = "") -> File:
    """The members as a tar, whatever their names are; `compression` is "", "gz", "bz2" or "xz"."""
    place = {"name": path} if isinstance(path, Path) else {"fileobj": path}
    with tarfile.open(mode=f"w:{compression}", **place) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def class_folder_zip(path: Path) -> Path:
    """A zip of class folders."""
    return write_zip(path, class_images())


def class_folder_tar(path: Path, *, compression: str = "") -> Path:
    """A tar of class folders."""
    return write_tar(path, class_images(), compression=compression)


def cifar_fs_pickles(folder: Path, cifar: Mapping[str, np.ndarray], *, protocol: int = 2) -> Path:
    """CIFAR_FS_*.pickle of MetaOptNet: images and CIFAR-100's labels."""
    folder.mkdir(parents=True, exist_ok=True)
    fine = {name: number for number, name in enumerate(sorted(cifar))}
    for part, names in zip(PARTS, official_classes("cifar-fs").values(), strict=True):
        content = {
            "data": np.concatenate([cifar[name] for name in names]),
            "labels": [fine[name] for name in names for _ in cifar[name]],
        }
        (folder / f"CIFAR_FS_{part}.pickle").write_bytes(pickle.dumps(content, protocol=protocol))
    return folder


def tadam_npz(folder: Path, cifar: Mapping[str, np.ndarray]) -> Path:
    """few-shot-*.npz of TADAM: images and CIFAR-100's labels."""
    folder.mkdir(parents=True, exist_ok=True)
    fine = {name: number for number, name in enumerate(sorted(cifar))}
    for part, names in zip(PARTS, official_classes("fc100").values(), strict=True):
        images = np.concatenate([cifar[name] for name in names])
        targets = np.repeat([fine[name] for name in names], [len(cifar[name]) for name in names])
        np.savez(folder / f"few-shot-{part}.npz", features=images, targets=targets)
    return folder


def mini_cache_pickles(folder: Path, images: Mapping[str, np.ndarray], *, protocol: int = 2) -> Path:
    """mini-imagenet-cache-*.pkl of Ren et al.; `images` holds those of each class, uint8 [I, H, W, 3]."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, names in zip(PARTS, official_classes("mini-imagenet").values(), strict=True):
        ends = np.cumsum([0, *(len(images[name]) for name in names)]).tolist()
        content = {
            "image_data": np.concatenate([images[name] for name in names]),
            "class_dict": {name: list(range(ends[n], ends[n + 1])) for n, name in enumerate(names)},
        }
        (folder / f"mini-imagenet-cache-{part}.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    return folder


def npy(header: str, data: bytes = b"", *, version: tuple[int, int] = (1, 0)) -> bytes:
    """A NumPy file whose header says what we like."""
    text = header.encode("latin1") + b"\n"
    length = len(text).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + length + text + data


def state_of(folder: Path) -> dict[str, tuple[int, str]]:
    """Kind and content of everything in a folder; links are not followed. Equal if nothing was written."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            kind = stat.S_IFMT(path.lstat().st_mode)
            content = os.readlink(path) if stat.S_ISLNK(kind) else ""
            if stat.S_ISREG(kind):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(folder))] = (kind, content)
    return found


def files_in(folder: Path) -> set[str]:
    """Relative names of everything in a folder that is not a folder itself."""
    return {name for name, (kind, _) in state_of(folder).items() if not stat.S_ISDIR(kind)}
