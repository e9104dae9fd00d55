"""Fine-tuned weights on disk, with what they came from, in a format that runs no code when it is read."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor, nn

from fewshot_bench.errors import WeightsError

_DIGEST = "tensors_sha256"


def save_checkpoint(path: Path, module: nn.Module, metadata: Mapping[str, str]) -> None:
    """Write a module's state to a safetensors file, in one go: a reader never meets half a file.

    Args:
        path: its folder is made if need be.
        module: whose state dict is saved.
        metadata: where the weights come from: recipe, dataset fingerprint, versions.
    """
    save_tensors(path, module.state_dict(), metadata)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors by name to a safetensors file, in one go.

    Args:
        path: its folder is made if need be.
        tensors: on any device, in any memory order.
        metadata: what they are.
    """
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    content = save(plain, metadata={**metadata, _DIGEST: _digest(plain)})
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what `save_checkpoint` or `save_tensors` wrote.

    Args:
        path: the file.

    Returns:
        The state dict on the CPU, and the metadata.

    Raises:
        WeightsError: the file is missing, damaged, or is no checkpoint.
    """
    if not path.is_file():
        raise WeightsError(f"there is no checkpoint {path}. Train on the base split first.")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            names = file.keys()
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in names}
    except (safetensors.SafetensorError, OSError) as error:
        raise WeightsError(f"the checkpoint {path} cannot be read ({error}). Delete it and train again.") from error
    if metadata.pop(_DIGEST, None) != _digest(tensors):
        raise WeightsError(f"the checkpoint {path} does not match its digest. Delete it and train again.")
    return tensors, metadata


def checkpoint_metadata(path: Path) -> dict[str, str]:
    """The metadata alone, without reading the tensors or checking their digest.

    Raises:
        WeightsError: the file cannot be read, or is no checkpoint.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
    except (safetensors.SafetensorError, OSError) as error:
        raise WeightsError(f"the checkpoint {path} cannot be read ({error}). Delete it and train again.") from error
    if metadata.pop(_DIGEST, None) is None:
        raise WeightsError(f"{path} is no checkpoint of a training; it has no digest.")
    return metadata


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
