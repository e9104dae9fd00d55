"""The head begins as the nearest class centroid, and dropout drops what it should."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from fewshot_bench.adaptation import nearest_centroid
from fewshot_bench.finetuning.head import StackedHead, dropped
from fewshot_bench.training.randomness import keyed_uniform


def embeddings(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def started(support: Tensor, how: str = "centroid", scale: float = 10.0) -> StackedHead:
    head = StackedHead(len(support), support.shape[1], support.shape[-1], like=support)
    head.start(how, support, scale)  # type: ignore[arg-type]  # a name from a test's parameters
    return head


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), way=st.integers(2, 6), shot=st.integers(1, 4), size=st.integers(2, 9))
def test_the_first_head_classifies_as_the_nearest_centroid_does(seed: int, way: int, shot: int, size: int) -> None:
    support, query = embeddings(3, way, shot, size, seed=seed), embeddings(3, 11, size, seed=seed + 1)
    expected = nearest_centroid(normalize(support, dim=-1), query)
    logits = started(support)(query)
    lengths = query.norm(dim=-1, keepdim=True) / support.norm(dim=-1).mean(dim=(1, 2)).view(-1, 1, 1)
    torch.testing.assert_close(logits, 10 * lengths * expected)
    assert torch.equal(logits.argmax(-1), expected.argmax(-1))


@pytest.mark.parametrize("scale", [1.0, 10.0, 64.0])
@pytest.mark.parametrize("length", [1e-3, 1.0, 1e3])
def test_a_cosine_of_one_becomes_the_scale_whatever_the_norms(scale: float, length: float) -> None:
    support = length * normalize(embeddings(2, 3, 1, 5), dim=-1)
    logits = started(support, scale=scale)(support[:, :, 0])
    torch.testing.assert_close(logits.diagonal(dim1=1, dim2=2), torch.full((2, 3), scale, dtype=torch.float64))


def test_episodes_have_heads_of_their_own() -> None:
    support, query = embeddings(4, 5, 2, 8), embeddings(4, 6, 8, seed=1)
    whole = started(support)(query)
    alone = torch.cat([started(support[e : e + 1])(query[e : e + 1]) for e in range(4)])
    torch.testing.assert_close(whole, alone)


def test_a_head_from_zero_prefers_no_class() -> None:
    head = started(embeddings(2, 3, 2, 5))
    with torch.no_grad():
        head.bias.add_(1)
    head.start("zero", embeddings(2, 3, 2, 5), 10.0)
    assert torch.equal(head(embeddings(2, 4, 5)), torch.zeros(2, 4, 3, dtype=torch.float64))


def test_starting_again_forgets_what_was_learned() -> None:
    support = embeddings(2, 3, 2, 5)
    head = started(support)
    first = [head.weight.detach().clone(), head.bias.detach().clone()]
    with torch.no_grad():
        head.weight.mul_(3)
        head.bias.add_(1)
    head.start("centroid", support, 10.0)
    assert torch.equal(head.weight, first[0])
    assert torch.equal(head.bias, first[1])


def test_the_head_is_a_linear_layer_with_a_bias() -> None:
    head = StackedHead(2, 3, 5, like=embeddings(1))
    with torch.no_grad():
        head.weight.copy_(embeddings(2, 3, 5))
        head.bias.copy_(embeddings(2, 3))
    rows = embeddings(2, 4, 5, seed=1)
    expected = [torch.nn.functional.linear(rows[e], head.weight[e], head.bias[e]) for e in range(2)]
    torch.testing.assert_close(head(rows), torch.stack(expected))
    assert head.weight.is_leaf
    assert head.weight.requires_grad
    assert head.bias.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_embeddings_of_nothing_but_zeros_give_finite_weights(dtype: torch.dtype) -> None:
    support = embeddings(2, 3, 2, 5).to(dtype)
    support[0] = 0
    logits = started(support)(support.flatten(1, 2))
    assert logits.isfinite().all()
    assert (logits[0] == 0).all()
    assert (logits[1] != 0).all()


def uniform(count: int) -> Tensor:
    return keyed_uniform(torch.tensor([1, 2]), (0,), count)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_zeroes_its_share_and_scales_the_rest(rate: float) -> None:
    given_ = 1 + embeddings(2, 100, 50).abs()
    out = dropped(given_, uniform(5000), rate)
    is_dropped = out == 0
    assert is_dropped.double().mean().item() == pytest.approx(rate, abs=0.02)
    torch.testing.assert_close(out[~is_dropped], given_[~is_dropped] / (1 - rate))
    assert torch.equal(is_dropped, uniform(5000).view(2, 100, 50) < rate)


def test_dropout_at_rate_zero_changes_nothing_and_ties_are_kept() -> None:
    given_ = embeddings(2, 3, 4)
    assert torch.equal(dropped(given_, torch.zeros(2, 12), 0.0), given_)
    half = torch.full((2, 12), 0.5)
    assert torch.equal(dropped(given_, half, 0.5), 2 * given_)


def test_what_is_dropped_has_no_gradient() -> None:
    leaf = embeddings(2, 3, 4).requires_grad_()
    out = dropped(leaf, uniform(12), 0.5)
    (gradient,) = torch.autograd.grad(out.sum(), leaf)
    torch.testing.assert_close(gradient, torch.where(out == 0, 0.0, 2.0).double())
