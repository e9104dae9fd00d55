"""Trained networks and training states on disk, in a format that runs no code when it is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from fewshot_bench._io.tensors import DamagedFileError, ForeignFileError, read_metadata, read_tensors, write_tensors
from fewshot_bench.backbones.task_head import TaskHead, read_task_head
from fewshot_bench.backbones.weights_file import BaseHead, read_base_head, without_base_head
from fewshot_bench.errors import WeightsError


def save_checkpoint(
    path: Path, module: nn.Module, metadata: Mapping[str, str], head: BaseHead | TaskHead | None = None
) -> None:
    """Write a trained network to a safetensors file, atomically.

    Args:
        path: its folder is created if missing.
        module: whose state dict is saved.
        metadata: the origin of the weights: recipe, dataset fingerprint, versions.
        head: that it was trained with.
    """
    if head is None:
        save_tensors(path, module.state_dict(), metadata)
    else:
        save_tensors(path, {**module.state_dict(), **head.tensors()}, {**metadata, **head.metadata()})


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors by name to a safetensors file, atomically; its folder is created if missing."""
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    write_tensors(path, plain, metadata)


def load_checkpoint(path: Path, what: str = "checkpoint") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a checkpoint or a training state; `what` names it in messages.

    Returns:
        The state dict on the CPU, and the metadata.

    Raises:
        WeightsError: the file is missing or damaged, or is something else.
    """
    if not path.is_file():
        raise WeightsError(f"there is no {what} {path}. Train on the base split first.")
    try:
        return read_tensors(path)
    except DamagedFileError as error:
        raise WeightsError(f"the {what} {path} {error}. Delete it and train again.") from error


def load_network(
    path: Path, embedding_size: int
) -> tuple[dict[str, Tensor], BaseHead | TaskHead | None, dict[str, str]]:
    """Read a checkpoint of a backbone with D-dimensional embeddings, its backbone and its head apart.

    Returns:
        The state dict of the backbone, on the CPU; its head, if the file has one; the metadata.

    Raises:
        WeightsError: the file is missing, damaged or not a checkpoint, or its head is not for this backbone.
    """
    tensors, metadata = load_checkpoint(path)
    try:
        head = read_base_head(tensors, metadata) or read_task_head(tensors, metadata)
        if head is not None and head.weight.shape[1] != embedding_size:
            kind = "base classifier" if isinstance(head, BaseHead) else "task head"
            raise WeightsError(
                f"has a {kind} for embeddings of {head.weight.shape[1]:,} numbers; the backbone's have "
                f"{embedding_size:,}"
            )
    except WeightsError as error:
        raise WeightsError(f"the checkpoint {path} {error}. Delete it and train again.") from error
    return without_base_head(tensors), head, metadata


def checkpoint_metadata(path: Path) -> dict[str, str]:
    """The metadata alone, without reading the tensors or checking their digest.

    Raises:
        WeightsError: the file cannot be read, or is not a checkpoint.
    """
    try:
        return read_metadata(path)
    except ForeignFileError as error:
        raise WeightsError(f"{path} is not a checkpoint of a training; it {error}.") from error
    except DamagedFileError as error:
        raise WeightsError(f"the checkpoint {path} {error}. Delete it and train again.") from error
