"""Every check of a loss finds what it is for, in losses that somebody could write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy as torch_cross_entropy
from torch.nn.functional import dropout

from fewshot_bench.errors import UnknownNameError
from fewshot_bench.losses import LOSSES, cross_entropy
from fewshot_bench.testing import LOSS_PROPERTIES, ConformanceError, check_loss

Part = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Logits, embeddings and labels -> one loss per batch."""


def as_loss(part: Part) -> Callable[..., Tensor]:
    def loss(logits: Tensor, embeddings: Tensor, labels: Tensor, images: Tensor, **_: Any) -> Tensor:
        return part(logits, embeddings, labels)

    return loss


def ce(logits: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(logits, labels)


def naive(logits: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
    shares = logits.exp() / logits.exp().sum(-1, keepdim=True)
    return -shares.gather(-1, labels.expand(shares.shape[:-1]).unsqueeze(-1)).squeeze(-1).log().mean(-1)


def pairs(embeddings: Tensor) -> Tensor:
    """Products of all views of a batch, [...]."""
    return (embeddings @ embeddings.mT).mean((-1, -2))


def first_half(logits: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
    """Takes the views of an image to be half a batch apart."""
    first, second = embeddings.split([embeddings.shape[-2] // 2, -(-embeddings.shape[-2] // 2)], -2)
    return (first - second[..., : first.shape[-2], :]).square().sum((-1, -2))


def counting() -> Part:
    calls: list[int] = []

    def loss(logits: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
        calls.append(1)
        return ce(logits, embeddings, labels) * len(calls)

    return loss


BROKEN: Mapping[str, Mapping[str, Part]] = {
    "shapes": {
        "one number for all batches": lambda x, z, y: cross_entropy(x, y).mean(),
        "one number per view": lambda x, z, y: x.mean(-1),
        "only one batch": lambda x, z, y: torch_cross_entropy(x, y),
        "a float": lambda x, z, y: 0.5,  # type: ignore[arg-type,return-value]
        "detached": lambda x, z, y: ce(x, z, y).detach(),
    },
    "dtype": {
        "single precision": lambda x, z, y: ce(x, z, y).float(),
        "double precision": lambda x, z, y: ce(x, z, y).double(),
    },
    "finite": {
        "exponentials": naive,
        "a norm of zero": lambda x, z, y: ce(x, z, y) + (z / z.norm(dim=-1, keepdim=True)).sum((-1, -2)),
        "a spread of zero": lambda x, z, y: ce(x, z, y) + z.std(-2).sum(-1),
        "a root": lambda x, z, y: ce(x, z, y) + pairs(z - z.mean(-2, keepdim=True)).abs().sqrt(),
        "a class of no views": lambda x, z, y: ce(x, z, y) + z[..., y == 1, :].mean((-1, -2)),
    },
    "gradient": {
        "a detached part": lambda x, z, y: ce(x, z, y) + pairs(z.detach()) + z.sum((-1, -2)),
        "data": lambda x, z, y: ce(x, z, y) * z.data.square().mean((-1, -2)),
        "straight through": lambda x, z, y: ce(x + (x.round() - x).detach(), z, y),
    },
    "direction": {"a sign": lambda x, z, y: -ce(x, z, y), "gains": lambda x, z, y: ce(-x, z, y)},
    "batch_order": {
        "halves": first_half,
        "the first view": lambda x, z, y: ce(x, z, y) + z[..., 0, :].sum(-1),
    },
    "batches": {
        "a mean over batches": lambda x, z, y: ce(x, z, y) + z.mean(),
        "a normalisation over batches": lambda x, z, y: ce(x / x.reshape(-1, x.shape[-1]).std(0), z, y),
    },
    "inputs": {
        "embeddings": lambda x, z, y: ce(x, z.div_(2), y),
        "labels": lambda x, z, y: ce(x, z, y.add_(1).remainder_(3)),
    },
    "determinism": {
        "dropout": lambda x, z, y: ce(dropout(x), z, y),
        "state": counting(),
        "seeding": lambda x, z, y: ce(x, z, y) + 0 * float(torch.manual_seed(0) is None),
    },
    "micro_batches": {"state": counting()},
    "device": {
        "a tensor on the CPU": lambda x, z, y: ce(x, z + torch.ones(4), y) + z.sum() + torch.ones(4).sum(),
        "labels on the CPU": lambda x, z, y: ce(x, z, y) + (y == torch.zeros(len(y))).sum(),
        "a loss on the CPU": lambda x, z, y: ce(x, z, y).cpu(),
    },
}
CASES = [(name, how) for name, losses in BROKEN.items() for how in losses]


@pytest.mark.parametrize(("name", "how"), CASES, ids=lambda text: text)
def test_a_loss_that_lacks_a_property_is_told_which(name: str, how: str) -> None:
    with pytest.raises(ConformanceError, match=f"loss lacks the property '{name}': "):
        check_loss(as_loss(BROKEN[name][how]), name)


def test_every_property_has_a_loss_that_lacks_it() -> None:
    assert set(BROKEN) == set(LOSS_PROPERTIES)


def test_a_loss_said_not_to_compare_views_that_does_is_found() -> None:
    def compares(logits: Tensor, embeddings: Tensor, labels: Tensor, images: Tensor, **_: Any) -> Tensor:
        return cross_entropy(logits, labels) + pairs(embeddings)

    LOSSES.register("compares", "for this test", is_contrastive=False)(compares)
    with pytest.raises(ConformanceError, match="is_contrastive=False, a mean over views: is it one"):
        check_loss("compares", "micro_batches")
    check_loss(compares, "micro_batches")


def test_a_loss_that_takes_too_little_is_told_what_it_is_given() -> None:
    with pytest.raises(ConformanceError, match=r"unexpected keyword argument .*A loss takes \(logits, embeddings"):
        check_loss(lambda logits, embeddings, labels, images: logits.mean(), "shapes")


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSS_PROPERTIES)
def test_a_function_that_has_all_properties_passes(name: str) -> None:
    check_loss(as_loss(ce), name)


def test_what_is_no_loss_and_what_has_no_name_is_refused() -> None:
    with pytest.raises(ConformanceError, match="Pass a function or a registered name"):
        check_loss(3)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="Did you mean ce"):
        check_loss("cee")
