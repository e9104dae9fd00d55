"""The `cifar100.zip` of the CIFAR-FS distribution: cifar100/data/<class>/<image>.png, 100 x 600 files."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewshot_bench.datasets.cifar import CifarClasses
from fewshot_bench.errors import DatasetError
from fewshot_bench.progress import SILENT, Progress

# A 32 x 32 PNG holds 3 KB of pixels; a member that claims far more is not one of them and is not unpacked.
_LARGEST_MEMBER = 1 << 16
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    SyntaxError,
    Image.DecompressionBombError,
)


def read_cifar_zip(path: Path, *, progress: Progress = SILENT) -> CifarClasses:
    """Read every image of the archive, without unpacking it.

    Args:
        path: the zip file.
        progress: shown one unit per image.

    Returns:
        Images of each class, in the archive's order.

    Raises:
        DatasetError: the file is missing, truncated, or has another layout.
    """
    if not path.is_file():
        raise DatasetError(f"{path} is not a file; --from expects the cifar100.zip of the CIFAR-FS distribution.")
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, path, progress)
    except zipfile.BadZipFile as error:
        raise DatasetError(
            f"{path} is not a complete zip archive ({error}). It was probably cut off while downloading: "
            "obtain it again."
        ) from error


def _read(archive: zipfile.ZipFile, path: Path, progress: Progress) -> CifarClasses:
    members = [(member, _class_of(member.filename)) for member in archive.infolist()]
    images = [(member, name) for member, name in members if name]
    if not images:
        raise DatasetError(
            f"{path} holds no cifar100/data/<class>/<image>.png files; --from expects the cifar100.zip of the "
            "CIFAR-FS distribution."
        )
    classes: dict[str, list[NDArray[np.uint8]]] = {}
    with progress.step(f"reading {path.name}", len(images)) as step:
        for member, name in images:
            classes.setdefault(name, []).append(_decode(archive, member, path))
            step.advance()
    return {name: np.stack(members) for name, members in classes.items()}


def _class_of(filename: str) -> str:
    parts = PurePosixPath(filename).parts
    is_image = len(parts) >= 3 and parts[-3] == "data" and parts[-1].lower().endswith(".png")
    return parts[-2] if is_image and not parts[-1].startswith(".") and "__MACOSX" not in parts else ""


def _decode(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> NDArray[np.uint8]:
    if member.file_size > _LARGEST_MEMBER:
        raise DatasetError(
            f"{member.filename} in {path} is {member.file_size:,} bytes; no 32 x 32 image is that large."
        )
    try:
        with Image.open(io.BytesIO(archive.read(member)), formats=("PNG",)) as image:
            if image.size != (32, 32):
                raise DatasetError(f"{member.filename} in {path} is {image.size[0]} x {image.size[1]}, not 32 x 32.")
            return np.asarray(image.convert("RGB"))
    except _DAMAGED as error:
        raise DatasetError(f"{member.filename} in {path} is damaged ({error}). Obtain the archive again.") from error
