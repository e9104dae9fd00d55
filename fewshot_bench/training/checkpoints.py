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
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in module.state_dict().items()}
    content = save(tensors, metadata={**metadata, _DIGEST: _digest(tensors)})
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
    """Read what `save_checkpoint` wrote.

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


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
