"""The head that gradient-based meta-learning trains with a network: where a task starts, and how far each step goes.

It lies in the file of the network, beside its weights, as the classifier of the base classes does. Its rows belong to
no classes: row k is where the k-th class of any task starts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from fewshot_bench._io.tensors import tensors_digest
from fewshot_bench.errors import WeightsError

PREFIX = "fewshot_bench.task_head."
"""Prefix of the names of the head's tensors in a file; no network has such names."""
BACKBONE = "backbone."
"""Prefix of the names of a network's weights among the rates."""
HEAD = ("head.weight", "head.bias")
"""Names of the head's own weights among the rates."""

_CARD = "task_head"
_RATES = "rates."


@dataclass(frozen=True, eq=False)
class TaskHead:
    """A linear layer that every task starts from, and the learning rates of the steps from there.

    Attributes:
        weight: float32 [N, D].
        bias: float32 [N].
        rates: learning rates by the name of the weights that move, `backbone.*`, `head.weight` and `head.bias`, float32
            [] or of the shape of these weights. Weights without a rate stay as they are: ANIL moves the head alone.
    """

    weight: Tensor
    bias: Tensor
    rates: Mapping[str, Tensor] = field(repr=False)

    @classmethod
    def untrained(cls, way: int, embedding_size: int, backbone: Iterable[str]) -> TaskHead:
        """A head of zeros, for measurements, with rates of some weights of the backbone, by name."""
        rates = dict.fromkeys([*(BACKBONE + name for name in backbone), *HEAD], torch.zeros(()))
        return cls(torch.zeros(way, embedding_size), torch.zeros(way), rates)

    @property
    def way(self) -> int:
        """N."""
        return len(self.bias)

    @property
    def moves_backbone(self) -> bool:
        """Whether the steps change the network, and not the head alone."""
        return any(name.startswith(BACKBONE) for name in self.rates)

    @cached_property
    def digest(self) -> str:
        """Digest of all numbers, 64 hexadecimal digits."""
        return tensors_digest(self.tensors())

    def tensors(self) -> dict[str, Tensor]:
        """The tensors under their names in a file."""
        rates = {f"{PREFIX}{_RATES}{name}": rate for name, rate in self.rates.items()}
        return {PREFIX + "weight": self.weight, PREFIX + "bias": self.bias, **rates}

    def metadata(self) -> dict[str, str]:
        """The metadata of the head in a file."""
        return {_CARD: json.dumps({"kind": "linear", "way": self.way})}


def read_task_head(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> TaskHead | None:
    """The task head in a file, if it has one.

    Args:
        tensors: of the whole file.
        metadata: of the file.

    Returns:
        None if the file has none.

    Raises:
        WeightsError: the head is incomplete, of another kind or shape, not finite, or not for the network in the file;
            the message begins after the name of the file.
    """
    found = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
    if not found and _CARD not in metadata:
        return None
    if _card(metadata.get(_CARD, "")) != "linear":
        raise WeightsError("has a task head of another kind than a linear layer")
    rates = {name.removeprefix(_RATES): tensor for name, tensor in found.items() if name.startswith(_RATES)}
    if set(found) - {_RATES + name for name in rates} != {"weight", "bias"} or not set(HEAD) <= set(rates):
        raise WeightsError("should hold a weight, a bias and their learning rates of its task head")
    if any(tensor.dtype != torch.float32 for tensor in found.values()):
        raise WeightsError("has a task head that is not of float32")
    weight, bias = found["weight"], found["bias"]
    if weight.ndim != 2 or len(weight) < 2 or weight.shape[1] < 1 or bias.shape != weight.shape[:1]:
        raise WeightsError(
            f"has a task head with a weight {list(weight.shape)} and a bias {list(bias.shape)}; [N, D] and [N] with 2 "
            "classes or more are expected"
        )
    shapes = {"head.weight": weight.shape, "head.bias": bias.shape}
    shapes |= {BACKBONE + name: tensor.shape for name, tensor in tensors.items()}
    for name, rate in rates.items():
        if name not in shapes or rate.shape not in ((), shapes[name]):
            raise WeightsError(f"has a learning rate {list(rate.shape)} of {name[:80]}, which does not fit its network")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in found.values()):
        raise WeightsError("has a task head with values that are not finite")
    return TaskHead(weight, bias, rates)


def _card(text: str) -> object:
    try:
        return json.loads(text)["kind"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise WeightsError("does not say what its task head is") from error
