"""Losses of half-precision inputs are computed in float32, and anchors that do not count never spoil a gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fewshot_bench.losses import LOSSES, hard_negative_weights, schane

NAMES = ["ce", "ce+schane", "ce+supcon", "ce+simclr"]
HALF = [torch.bfloat16, torch.float16]
VIEWS = 2048
LOSS_SCALE = 1024  # gradients of fp16 inputs need one, as in training
SETTINGS: dict[str, Any] = {"lambda_": 0.9, "tau": 0.1}

every_loss = pytest.mark.parametrize("name", NAMES)
every_reading = pytest.mark.parametrize("reading", ["in", "out"])
every_half = pytest.mark.parametrize("dtype", HALF, ids=str)


def batch(images: int, classes: int, *, spread: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two views of images around the centres of their classes: logits, embeddings, labels, images."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(images) % classes
    centres = 3 * torch.randn(classes, 32, generator=generator, dtype=torch.float64)
    embeddings = centres[labels].repeat(2, 1) + spread * torch.randn(2 * images, 32, generator=generator).double()
    logits = 4 * torch.randn(2 * images, classes, generator=generator, dtype=torch.float64)
    return logits, embeddings, labels.repeat(2), torch.arange(images).repeat(2)


def value_and_gradients(
    name: str, given: tuple[Tensor, ...], *, autocast: torch.dtype | None = None, **settings: Any
) -> tuple[Tensor, list[Tensor]]:
    logits, embeddings = (some.clone().requires_grad_() for some in given[:2])
    with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
        value = LOSSES[name].factory(logits, embeddings, *given[2:], **settings)
    scaled = LOSS_SCALE * value.sum()
    gradients = torch.autograd.grad(scaled, [logits, embeddings], allow_unused=True, materialize_grads=True)
    return value.detach(), list(gradients)


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Within a share of the length of what is expected."""
    assert found.isfinite().all()
    assert (found.double() - expected).norm() <= tolerance * expected.norm() + 1e-12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reading"),
    [("ce", "in"), ("ce+schane", "in"), ("ce+schane", "out"), ("ce+supcon", "out"), ("ce+simclr", "in")],
)
@every_half
def test_2048_views_at_tau_one_tenth_give_what_float64_gives(name: str, reading: str, dtype: torch.dtype) -> None:
    logits, embeddings, *ids = batch(VIEWS // 2, 64)
    halves = (logits.to(dtype), embeddings.to(dtype), *ids)
    exact = (halves[0].double(), halves[1].double(), *ids)
    value, gradients = value_and_gradients(name, halves, reading=reading, **SETTINGS)
    expected, exact_gradients = value_and_gradients(name, exact, reading=reading, **SETTINGS)
    assert value.dtype == torch.float32
    assert value.double().item() == pytest.approx(expected.item(), rel=1e-5)
    for found, gradient in zip(gradients, exact_gradients, strict=True):
        assert found.dtype == dtype
        assert_close(found, gradient, 4 * torch.finfo(dtype).eps)


@every_loss
@every_half
def test_views_that_nearly_coincide_stay_finite(name: str, dtype: torch.dtype) -> None:
    """Similarities of 10 between all views of a class, and a loss close to nothing."""
    logits, embeddings, *ids = batch(64, 4, spread=1e-3)
    halves = (logits.to(dtype), embeddings.to(dtype), *ids)
    value, gradients = value_and_gradients(name, halves, reading="in", **SETTINGS)
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_long_embeddings_do_not_overflow_fp16() -> None:
    _, embeddings, labels, _ = batch(16, 4)
    long = (300 * embeddings).half()
    assert not long.square().sum(-1).isfinite().all(), "or the test would show nothing"
    assert schane(long, labels, tau=0.1).item() == pytest.approx(
        schane(long.double(), labels, tau=0.1).item(), rel=1e-5
    )


@every_loss
@every_half
def test_autocast_leaves_the_losses_in_float32(name: str, dtype: torch.dtype) -> None:
    logits, embeddings, *ids = batch(64, 4)
    singles = (logits.float(), embeddings.float(), *ids)
    expected, exact_gradients = value_and_gradients(name, singles, reading="in", **SETTINGS)
    value, gradients = value_and_gradients(name, singles, autocast=dtype, reading="in", **SETTINGS)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    for found, gradient in zip(gradients, exact_gradients, strict=True):
        assert_close(found, gradient.double(), 1e-5)


@every_half
def test_weights_of_hard_negatives_have_mean_one_in_half_precision(dtype: torch.dtype) -> None:
    _, embeddings, labels, _ = batch(64, 4)
    beta = hard_negative_weights(embeddings.to(dtype), labels, tau=0.1)
    torch.testing.assert_close(beta.sum(-1), torch.full((128,), 96.0), rtol=1e-5, atol=0)


@every_loss
@every_reading
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF], ids=str)
@pytest.mark.parametrize(
    "labels", [[0, 1, 2, 3], [5, 5, 5, 5], [0, 0, 0, 1], [0, 0, 1, 2]], ids=["no pair", "one class", "one alone", "two"]
)
def test_anchors_without_positives_or_negatives_give_no_nan(
    name: str, reading: str, dtype: torch.dtype, labels: list[int]
) -> None:
    logits, embeddings, *_ = batch(2, 6)
    ids = torch.tensor(labels)
    given = (logits.to(dtype), embeddings.to(dtype), ids, ids)
    value, gradients = value_and_gradients(name, given, reading=reading, **SETTINGS)
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.slow
@every_loss
@every_reading
def test_gradients_with_smoothed_labels_agree_with_finite_differences(name: str, reading: str) -> None:
    generator = torch.Generator().manual_seed(1)
    logits, embeddings = (torch.randn(8, size, generator=generator, dtype=torch.float64) for size in (3, 4))
    labels, images = torch.tensor([0, 0, 1, 2]).repeat(2), torch.arange(4).repeat(2)

    def loss(logits: Tensor, embeddings: Tensor) -> Tensor:
        loss_of = LOSSES[name].factory
        settings: Any = {"lambda_": 0.6, "tau": 0.3, "reading": reading, "label_smoothing": 0.1}
        return loss_of(logits, embeddings, labels, images, **settings)

    inputs = (logits.requires_grad_(), embeddings.requires_grad_(name != "ce"))
    assert torch.autograd.gradcheck(loss, inputs)
