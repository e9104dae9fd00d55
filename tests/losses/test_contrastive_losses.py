"""SCHaNe, SupCon and SimCLR against naive loops, pytorch-metric-learning, and what must never matter."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.losses import NTXentLoss, SupConLoss
from torch import Tensor

from fewshot_bench.errors import ShapeError, StudyError
from fewshot_bench.losses import (
    Beta,
    Reading,
    contrastive_loss,
    hard_negative_weights,
    schane,
    simclr,
    supcon,
)

READINGS: tuple[Reading, ...] = ("in", "out")
CONTRASTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "schane, in": lambda z, y: schane(z, y, tau=0.5, reading="in"),
    "schane, out": lambda z, y: schane(z, y, tau=0.3, reading="out"),
    "supcon, in": lambda z, y: supcon(z, y, tau=0.1, reading="in"),
    "supcon, out": lambda z, y: supcon(z, y, tau=0.1, reading="out"),
    "simclr": lambda z, y: simclr(z, y, tau=0.5),
}
each_contrast = pytest.mark.parametrize("contrast", CONTRASTS.values(), ids=CONTRASTS)


def views(seed: int, count: int, size: int = 6, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Random embeddings with every class present at least twice."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(count, size, generator=generator, dtype=torch.float64)
    labels = torch.cat(
        [
            torch.arange(classes).repeat(2),
            torch.randint(classes, (count - 2 * classes,), generator=generator),
        ]
    )
    return embeddings, labels[torch.randperm(count, generator=generator)]


def value_and_gradient(loss: Callable[[Tensor], Tensor], embeddings: Tensor) -> tuple[float, Tensor]:
    leaf = embeddings.clone().requires_grad_()
    value = loss(leaf)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.sum().item(), gradient


def naive_loss(embeddings: Tensor, labels: Tensor, tau: float, reading: Reading, beta_is_one: bool) -> float:
    """The formulas as they are written, one pair at a time, without log space."""
    unit = [(row / row.norm()).tolist() for row in embeddings]
    label = labels.tolist()
    anchors = range(len(unit))

    def exp_similarity(i: int, j: int) -> float:
        return math.exp(sum(a * b for a, b in zip(unit[i], unit[j], strict=True)) / tau)

    losses = []
    for i in anchors:
        positives = [j for j in anchors if j != i and label[j] == label[i]]
        negatives = [j for j in anchors if label[j] != label[i]]
        if not positives or not negatives:
            continue
        sum_of_negatives = sum(exp_similarity(i, k) for k in negatives)
        denominator = sum(exp_similarity(i, p) for p in positives)
        for k in negatives:
            beta = 1.0 if beta_is_one else len(negatives) * exp_similarity(i, k) / sum_of_negatives
            denominator += beta * exp_similarity(i, k)
        if reading == "out":
            losses.append(-sum(math.log(exp_similarity(i, p) / denominator) for p in positives) / len(positives))
        else:
            losses.append(-math.log(sum(exp_similarity(i, p) for p in positives) / len(positives) / denominator))
    return sum(losses) / len(losses) if losses else 0.0


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=10),
    tau=st.sampled_from([0.1, 0.3, 0.5, 0.7]),
    reading=st.sampled_from(READINGS),
    beta=st.sampled_from(["hard", "one"]),
)
def test_log_space_agrees_with_a_double_loop(
    seed: int, labels: list[int], tau: float, reading: Reading, beta: Beta
) -> None:
    embeddings = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    classes = torch.tensor(labels)
    expected = naive_loss(embeddings, classes, tau, reading, beta_is_one=beta == "one")
    found = contrastive_loss(embeddings, classes, tau=tau, beta=beta, reading=reading)
    assert found.item() == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("tau", [0.07, 0.1, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_with_beta_one_the_loss_and_its_gradient_are_those_of_supcon(seed: int, tau: float) -> None:
    embeddings, labels = views(seed, count=20)
    reference = SupConLoss(temperature=tau)
    expected, expected_gradient = value_and_gradient(lambda z: reference(z, labels), embeddings)
    for loss in (
        lambda z: supcon(z, labels, tau=tau),
        lambda z: contrastive_loss(z, labels, tau=tau, beta="one", reading="out"),
    ):
        value, gradient = value_and_gradient(loss, embeddings)
        assert value == pytest.approx(expected, rel=1e-10)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("tau", [0.07, 0.5])
def test_two_views_without_labels_give_ntxent_and_its_gradient(tau: float) -> None:
    embeddings, _ = views(seed=0, count=16)
    images = torch.randperm(16, generator=torch.Generator().manual_seed(1)) // 2
    reference = NTXentLoss(temperature=tau)
    expected, expected_gradient = value_and_gradient(lambda z: reference(z, images), embeddings)
    value, gradient = value_and_gradient(lambda z: simclr(z, images, tau=tau), embeddings)
    assert value == pytest.approx(expected, rel=1e-10)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-8, atol=1e-12)


def test_with_one_positive_both_readings_are_the_same() -> None:
    embeddings, _ = views(seed=0, count=12)
    images = torch.arange(6).repeat(2)
    torch.testing.assert_close(schane(embeddings, images, reading="in"), schane(embeddings, images, reading="out"))


def test_hard_negatives_make_the_loss_larger_than_supcon() -> None:
    embeddings, labels = views(seed=0, count=20)
    for reading in READINGS:
        hard = schane(embeddings, labels, tau=0.5, reading=reading)
        assert hard > supcon(embeddings, labels, tau=0.5, reading=reading) + 1e-3


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), tau=st.sampled_from([0.1, 0.5, 1.0]))
def test_beta_has_mean_one_over_the_negatives_of_every_anchor(seed: int, tau: float) -> None:
    embeddings, labels = views(seed, count=15)
    is_negative = labels.unsqueeze(0) != labels.unsqueeze(1)
    beta = hard_negative_weights(embeddings, labels, tau=tau)
    assert (beta[~is_negative] == 0).all()
    assert (beta[is_negative] > 0).all()
    torch.testing.assert_close(beta.sum(-1) / is_negative.sum(-1), torch.ones(15, dtype=torch.float64))


def test_beta_is_larger_for_the_more_similar_negative() -> None:
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 1.0], [-1.0, 0.2]])
    beta = hard_negative_weights(embeddings, torch.tensor([0, 0, 1, 1]))
    assert beta[0, 2] > 1 > beta[0, 3] > 0


def test_beta_is_zero_where_there_is_no_negative() -> None:
    embeddings, _ = views(seed=0, count=6)
    assert torch.equal(hard_negative_weights(embeddings, torch.zeros(6)), torch.zeros(6, 6, dtype=torch.float64))


@each_contrast
@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [5, 5, 5, 5], [7]], ids=["no positive", "no negative", "one view"])
def test_a_batch_without_a_counted_anchor_gives_zero_and_a_zero_gradient(
    contrast: Callable[[Tensor, Tensor], Tensor], labels: list[int]
) -> None:
    embeddings, _ = views(seed=0, count=6)
    value, gradient = value_and_gradient(lambda z: contrast(z, torch.tensor(labels)), embeddings[: len(labels)].float())
    assert value == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@each_contrast
def test_a_view_without_a_positive_is_not_counted_but_pushed_away_by_the_others(
    contrast: Callable[[Tensor, Tensor], Tensor],
) -> None:
    embeddings, _ = views(seed=3, count=6)
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    _, gradient = value_and_gradient(lambda z: contrast(z, labels), embeddings)
    assert gradient.isfinite().all()
    assert (gradient[5] != 0).any()
    far = contrast(torch.cat([embeddings[:5], -embeddings[:5].mean(0, keepdim=True)]), labels)
    near = contrast(torch.cat([embeddings[:5], embeddings[:5].mean(0, keepdim=True)]), labels)
    assert far < near


@each_contrast
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**31))
def test_batch_order_label_names_rotation_and_scale_never_matter(
    contrast: Callable[[Tensor, Tensor], Tensor], seed: int
) -> None:
    embeddings, labels = views(seed, count=14)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(14, generator=generator)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))
    scale = 10 ** torch.empty(14, 1, dtype=torch.float64).uniform_(-3, 3, generator=generator)
    expected = contrast(embeddings, labels)
    torch.testing.assert_close(contrast(embeddings[order], labels[order]), expected)
    torch.testing.assert_close(contrast(embeddings, torch.tensor([40, -2, 7])[labels]), expected)
    torch.testing.assert_close(contrast(embeddings @ rotation, labels), expected)
    torch.testing.assert_close(contrast(embeddings * scale, labels), expected)


@each_contrast
def test_many_batches_at_once_are_the_same_as_one_after_the_other(
    contrast: Callable[[Tensor, Tensor], Tensor],
) -> None:
    batches = [views(seed, count=10) for seed in range(6)]
    embeddings = torch.stack([embeddings for embeddings, _ in batches]).view(2, 3, 10, 6)
    labels = torch.stack([labels for _, labels in batches]).view(2, 3, 10)
    expected = torch.stack([contrast(z, y) for z, y in batches]).view(2, 3)
    torch.testing.assert_close(contrast(embeddings, labels), expected)
    shared = torch.stack([contrast(z, batches[0][1]) for z, _ in batches]).view(2, 3)
    torch.testing.assert_close(contrast(embeddings, batches[0][1]), shared)


@each_contrast
def test_a_batch_without_anchors_leaves_its_neighbours_alone(contrast: Callable[[Tensor, Tensor], Tensor]) -> None:
    embeddings, labels = views(seed=0, count=8)
    both = contrast(embeddings.expand(2, 8, 6), torch.stack([labels, torch.zeros_like(labels)]))
    torch.testing.assert_close(both, torch.stack([contrast(embeddings, labels), torch.zeros(()).double()]))


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("tau", [0.001, 0.01, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_temperatures_stay_finite(tau: float, reading: Reading, dtype: torch.dtype) -> None:
    embeddings, _ = views(seed=0, count=10)
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 3, 4])
    copies = torch.cat([embeddings, embeddings, -embeddings]).to(dtype)
    for loss in (schane, supcon):
        value, gradient = value_and_gradient(lambda z, f=loss: f(z, labels.repeat(3), tau=tau, reading=reading), copies)
        assert math.isfinite(value)
        assert value > 0
        assert gradient.isfinite().all()


def test_a_wrong_number_of_labels_is_refused() -> None:
    embeddings, labels = views(seed=0, count=10)
    with pytest.raises(ShapeError, match="10 views and labels of shape \\[9\\]"):
        schane(embeddings, labels[:9])


def test_a_temperature_that_is_not_positive_is_refused() -> None:
    embeddings, labels = views(seed=0, count=10)
    with pytest.raises(StudyError, match="tau is 0"):
        schane(embeddings, labels, tau=0)


def test_an_unknown_reading_is_refused() -> None:
    embeddings, labels = views(seed=0, count=10)
    with pytest.raises(StudyError, match="'in' or 'out', not 'inside'"):
        schane(embeddings, labels, reading="inside")  # type: ignore[arg-type]  # what a user could write
