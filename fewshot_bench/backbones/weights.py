"""Weights from files, without ever unpickling anything but tensors, and their digest."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fewshot_bench.errors import WeightsError
from fewshot_bench.tensor_file import tensors_digest


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict.

    Args:
        path: a .safetensors file, or a state dict saved by `torch.save`, which is read with `weights_only=True`.

    Raises:
        WeightsError: the file is missing, damaged, or holds anything but tensors by name.
    """
    if not path.is_file():
        raise WeightsError(f"{path} is not a file; --weights expects safetensors or a PyTorch state dict.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as error:
        raise WeightsError(
            f"{path} cannot be read as weights: it is damaged, or holds more than tensors, which is never unpickled. "
            "Use safetensors or a plain state dict."
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path} holds no state dict (tensors by name). Save model.state_dict() alone.")
    return {str(name): tensor for name, tensor in content.items()}


def fit_by_name(network: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load weights into a network whose classifier may have been taken off.

    Raises:
        WeightsError: a tensor of the network is missing or has another shape.
    """
    plain = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    own = network.state_dict()
    for name, tensor in own.items():
        if name not in plain and name.endswith("num_batches_tracked"):
            plain[name] = tensor
        if name not in plain:
            raise WeightsError(f"{source} has no tensor '{name}'; it is not for this backbone ({len(own)} tensors).")
        if plain[name].shape != tensor.shape:
            raise WeightsError(
                f"'{name}' is {list(plain[name].shape)} in {source} and {list(tensor.shape)} in the backbone; "
                "the weights belong to another network."
            )
    network.load_state_dict({name: plain[name] for name in own})


def fit_by_order(network: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load weights whose tensors have other names but the order and shapes of the network's.

    Raises:
        WeightsError: the number of tensors or a shape differs.
    """
    own = network.state_dict()
    if [tensor.shape for tensor in own.values()] != [tensor.shape for tensor in weights.values()]:
        raise WeightsError(f"{source} does not fit: its {len(weights)} tensors are not the backbone's {len(own)}.")
    network.load_state_dict(dict(zip(own, weights.values(), strict=True)))


def weights_digest(network: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of all tensors of a network."""
    return tensors_digest(network.state_dict())
