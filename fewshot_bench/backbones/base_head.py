"""The classifier that a backbone was trained with on the base split, stored beside the backbone.

It is not part of the backbone: two backbones with the same weights are the same, whatever their classifiers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from fewshot_bench._io.tensors import tensors_digest
from fewshot_bench.errors import WeightsError

PREFIX = "fewshot_bench.base_head."
"""Prefix of the names of the head's tensors in a file; no network has such names."""

_CARD = "base_head"
_KIND = "linear"
_TENSORS = ("weight", "bias")


@dataclass(frozen=True, eq=False)
class BaseHead:
    """A linear layer from embeddings to the logits of the base classes.

    Attributes:
        weight: float32 [C, D].
        bias: float32 [C].
        classes: names of the base classes in the order of the logits, C.
    """

    weight: Tensor
    bias: Tensor
    classes: tuple[str, ...]

    @classmethod
    def of(cls, head: nn.Module, classes: tuple[str, ...]) -> BaseHead:
        """The only linear layer of a module, on the CPU, with the names of its outputs, C."""
        (linear,) = (module for module in head.modules() if isinstance(module, nn.Linear))
        weight, bias = (tensor.detach().cpu().clone() for tensor in (linear.weight, linear.bias))
        return cls(weight, bias, classes)

    @classmethod
    def untrained(cls, embedding_size: int, classes: tuple[str, ...]) -> BaseHead:
        """A head of zeros, for measurements."""
        return cls(torch.zeros(len(classes), embedding_size), torch.zeros(len(classes)), classes)

    @cached_property
    def digest(self) -> str:
        """Digest of the weights without the names of the classes, 64 hexadecimal digits."""
        return tensors_digest({"weight": self.weight, "bias": self.bias})

    def tensors(self) -> dict[str, Tensor]:
        """The tensors under their names in a file."""
        return {PREFIX + "weight": self.weight, PREFIX + "bias": self.bias}

    def metadata(self) -> dict[str, str]:
        """The metadata of the head in a file."""
        return {_CARD: json.dumps({"kind": _KIND, "classes": self.classes})}

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Logits of the base classes, [B, C], of embeddings [B, D]."""
        weight, bias = (tensor.to(embeddings) for tensor in (self.weight, self.bias))
        return nn.functional.linear(embeddings, weight, bias)


def without_base_head(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file that belong to the backbone."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)}


def read_base_head(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> BaseHead | None:
    """The head in a file, if it has one.

    Args:
        tensors: of the whole file.
        metadata: of the file.

    Returns:
        None if the file has no head.

    Raises:
        WeightsError: the head is incomplete, of another kind or shape, or not finite; the message begins after the
            name of the file.
    """
    found = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
    if not found and _CARD not in metadata:
        return None
    classes = _classes(metadata.get(_CARD, ""))
    if set(found) != set(_TENSORS):
        raise WeightsError("should hold a weight and a bias of its base classifier, and nothing else of it")
    weight, bias = (found[name] for name in _TENSORS)
    if weight.dtype != torch.float32 or bias.dtype != torch.float32:
        raise WeightsError("has a base classifier that is not of float32")
    if weight.ndim != 2 or weight.shape[1] < 1 or bias.shape != weight.shape[:1] or len(classes) != len(weight):
        raise WeightsError(
            f"has a base classifier for {len(classes):,} classes with a weight {list(weight.shape)} and a bias "
            f"{list(bias.shape)}; [C, D] and [C] are expected"
        )
    if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
        raise WeightsError("has a base classifier with values that are not finite")
    return BaseHead(weight, bias, classes)


def _classes(card: str) -> tuple[str, ...]:
    try:
        content = json.loads(card)
        kind, classes = content["kind"], content["classes"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise WeightsError("does not say what its base classifier is") from error
    if kind != _KIND:
        raise WeightsError("has a base classifier of another kind than a linear layer")
    is_right = isinstance(classes, list) and len(classes) >= 2 and all(isinstance(name, str) for name in classes)
    if not is_right or len(set(classes)) < len(classes):
        raise WeightsError("does not name the classes of its base classifier: two or more different names")
    return tuple(classes)
