"""Tensors by name in a safetensors file, with metadata and a digest of their content.

Torch is imported only where tensors are written or read, so that listing such files does not need it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors

from fewshot_bench._io.storage import whole_or_not

if TYPE_CHECKING:
    from torch import Tensor

_DIGEST = "tensors_sha256"


class DamagedFileError(ValueError):
    """A file of tensors cannot be read, or holds other tensors than were written."""


class ForeignFileError(DamagedFileError):
    """A file of tensors was written by another program."""


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, types, shapes and bytes of tensors, 64 hexadecimal digits."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}\n".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors atomically: a reader never sees half a file.

    Args:
        path: its folder is made if needed.
        tensors: on the CPU, contiguous, without shared memory.
        metadata: about them.

    Raises:
        OSError: the disk is full, or the folder cannot be written to.
    """
    from safetensors.torch import save_file

    with whole_or_not(path) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata={**metadata, _DIGEST: tensors_digest(tensors)})
        except safetensors.SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Map a file of `write_tensors` into memory, and compare it with its digest.

    Processes that map the same file share its memory. One that writes to a tensor gets its own copy, and the file does
    not change.

    Returns:
        The tensors on the CPU, and the metadata without the digest.

    Raises:
        DamagedFileError: the file is missing or damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            names = file.keys()
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in names}
    except (safetensors.SafetensorError, OSError) as error:
        raise DamagedFileError(f"cannot be read ({error})") from error
    if metadata.pop(_DIGEST, None) != tensors_digest(tensors):
        raise DamagedFileError("does not match its digest")
    return tensors, metadata


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a file of tensors, without reading the tensors or checking their digest.

    Raises:
        DamagedFileError: the file is missing or damaged.
        ForeignFileError: it has no digest.
    """
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = dict(file.metadata() or {})
    except (safetensors.SafetensorError, OSError) as error:
        raise DamagedFileError(f"cannot be read ({error})") from error
    if metadata.pop(_DIGEST, None) is None:
        raise ForeignFileError("has no digest")
    return metadata
