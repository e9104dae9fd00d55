"""Plug-ins of somebody who makes mistakes, for tests of what is said of them; see `test_plugins.py`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fewshot_bench.adaptation import EmbeddedSplit, EmbeddingAdaptation, nearest_centroid
from fewshot_bench.backbones import Backbone, BackboneRequest, Preprocessing

RAISES: dict[str, Callable[[Tensor], Any]] = {
    "KeyError: 'my_bug'": lambda scores: {}["my_bug"],
    "StopIteration": lambda scores: next(iter(())),
    "SystemExit: 3": lambda scores: sys.exit(3),
    "RuntimeError": lambda scores: scores @ scores,
    "AttributeError": lambda scores: scores.no_such_method(),
    "ZeroDivisionError": lambda scores: 1 // 0,
    "FileNotFoundError": lambda scores: open("no such file"),  # noqa: SIM115  # as somebody would write it
    "RecursionError": lambda scores: RAISES["RecursionError"](scores),
}

RETURNS: dict[str, Callable[[Tensor], Any]] = {
    "labels [E, M] = [1, 75] of int64 came": lambda scores: scores.argmax(-1),
    "labels [E, M] = [1, 75] of float32 came": lambda scores: scores.argmax(-1).float(),
    "[1, 5, 75] of float32 (Are two axes swapped?) came": lambda scores: scores.transpose(1, 2),
    "a tensor [1, 75, 4] of float32 came": lambda scores: scores[..., :4],
    "a tensor [1, 75, 5, 1] of float32 came": lambda scores: scores.unsqueeze(-1),
    "a tensor [1, 75, 5] of int64 came": lambda scores: (100 * scores).long(),
    "a tensor [1, 75, 5] of bool came": lambda scores: scores > 0,
    "a tensor [1, 75, 5] of complex64 came": lambda scores: scores + 0j,
    "a tensor [1, 75, 5] of float32 (torch.sparse_coo, cpu) came": lambda scores: scores.to_sparse(),
    "a tensor [1, 75, 5] of float32 (torch.strided, meta) came": lambda scores: scores.to("meta"),
    "None came": lambda scores: None,
    "a NumPy array [1, 75, 5] of float32 came": lambda scores: scores.numpy(),
    "a list came": lambda scores: scores.tolist(),
    "a tuple came": lambda scores: (scores, scores),
    "gave scores that are not finite (375 NaN, 0 infinite)": lambda scores: scores * torch.nan,
    "gave scores that are not finite (0 NaN, 75 infinite)": lambda scores: scores.index_fill(
        2, torch.tensor([1]), -torch.inf
    ),
}

WELL: dict[str, Callable[[Tensor], Any]] = {
    "as they are": lambda scores: scores,
    "with a gradient": lambda scores: scores.clone().requires_grad_(),
    "in half precision": lambda scores: scores.half(),
    "in double precision": lambda scores: scores.double(),
    "all alike": lambda scores: torch.zeros_like(scores),
    "a view": lambda scores: scores.transpose(1, 2).contiguous().transpose(1, 2),
}

ALL = {**RAISES, **RETURNS, **WELL}


@dataclass(frozen=True, kw_only=True)
class Mine(EmbeddingAdaptation):
    """Nearest centroid, and then what a test wants."""

    name: ClassVar[str] = "mine"
    how: str = "as they are"

    def scores(self, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
        """See `EmbeddingAdaptation`."""
        scores = nearest_centroid(split.embeddings[support], split.embeddings[query])
        return ALL[self.how](scores)  # type: ignore[no-any-return]  # that is what is tried


@dataclass(frozen=True, kw_only=True)
class Picky(Mine):
    """Refuses its setting in a way of its own."""

    name: ClassVar[str] = "picky"

    def __post_init__(self) -> None:
        if self.how == "ValueError: not this one":
            raise ValueError("not this one")
        _ = {}[self.how]  # type: ignore[var-annotated]


@dataclass(frozen=True, kw_only=True)
class Unfinished(EmbeddingAdaptation):
    """Has no scores."""

    name: ClassVar[str] = "unfinished"


@dataclass(frozen=True, kw_only=True)
class SaysOddThings(Mine):
    """Says of itself what it should not."""

    name: ClassVar[str] = "odd"

    @property
    def augmented_views(self) -> int:
        """See `EmbeddingAdaptation`."""
        return -1


def a_function() -> None:
    """No adaptation."""


class Short(nn.Module):
    """Seven numbers per image."""

    def forward(self, images: Tensor) -> Any:
        """The embedding."""
        return images.flatten(1)[:, :7]


class Pair(Short):
    """Two things per image."""

    def forward(self, images: Tensor) -> Any:
        """No embedding."""
        return super().forward(images), 1


class Map(Short):
    """A map of activations."""

    def forward(self, images: Tensor) -> Any:
        """No embedding."""
        return images


class Breaks(Short):
    """Has a bug."""

    def forward(self, images: Tensor) -> Any:
        """No embedding."""
        return images @ torch.zeros(3, 3)


def _made(network: nn.Module, size: Any = 7) -> Callable[[BackboneRequest], Any]:
    return lambda request: Backbone(request.name, network, Preprocessing(28, (0.5,), (0.5,)), size, is_pretrained=True)


good, wrong_size, pair = _made(Short()), _made(Short(), 8), _made(Pair())
a_map, breaks, no_size = _made(Map()), _made(Breaks()), _made(Short(), "many")


def a_network(request: BackboneRequest) -> Any:
    """No backbone."""
    return Short()


def nothing(request: BackboneRequest) -> Any:
    """No backbone."""


def a_pair(request: BackboneRequest) -> Any:
    """No backbone."""
    return Short(), 7


def has_a_bug(request: BackboneRequest) -> Any:
    """No backbone."""
    return {}["weights"]  # type: ignore[var-annotated]


def needs_more(request: BackboneRequest, more: int) -> Any:
    """No factory."""


def a_loss(logits: Tensor, embeddings: Tensor, labels: Tensor, images: Tensor, **_: Any) -> Any:
    """One number per batch."""
    return logits.square().mean((-1, -2))


def loss_per_view(logits: Tensor, embeddings: Tensor, labels: Tensor, images: Tensor, **_: Any) -> Any:
    """One number per view."""
    return logits.mean(-1)


def detached(logits: Tensor, embeddings: Tensor, labels: Tensor, images: Tensor, **_: Any) -> Any:
    """Nothing to learn from."""
    return logits.mean((-1, -2)).detach()


def a_float(logits: Tensor, embeddings: Tensor, labels: Tensor, images: Tensor, **_: Any) -> Any:
    """No tensor."""
    return 0.5


def whole_numbers(logits: Tensor, embeddings: Tensor, labels: Tensor, images: Tensor, **_: Any) -> Any:
    """Hits."""
    return (logits.argmax(-1) == labels).sum(-1)


def takes_too_little(logits: Tensor, labels: Tensor) -> Any:
    """A loss of another kind."""


def loss_with_a_bug(logits: Tensor, embeddings: Tensor, labels: Tensor, images: Tensor, **_: Any) -> Any:
    """A loss."""
    raise ValueError("singular")


def no_dataset() -> Any:
    """No dataset."""
    return [1, 2]


def dataset_with_a_bug() -> Any:
    """No dataset."""
    return [][1]
