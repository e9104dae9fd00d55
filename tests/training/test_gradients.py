"""A batch in parts gives the gradients of the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from bars import SIZE, are_equal, bars, conv4, normalise, train, weights
from torch import Tensor, nn

from fewshot_bench.errors import StudyError
from fewshot_bench.losses import LOSSES
from fewshot_bench.training import Computing, Measured, batch_norms, seeded_randomness
from fewshot_bench.training.classification import (
    Batch,
    Network,
    cached_gradients,
    gradients_at_once,
    joined_views,
    split_views,
    summed_gradients,
)

CPU = torch.device("cpu")
Step = Callable[[Network, Batch], Measured]


def smooth(dropout: float = 0.0) -> nn.Module:
    """A network without batch norm, in float64."""
    with seeded_randomness(3):
        layers = (nn.Flatten(), nn.Linear(SIZE**2, 24), nn.Tanh(), nn.Dropout(dropout), nn.Linear(24, 6))
        return nn.Sequential(*layers).double()


def batch(images: int = 10) -> Batch:
    with seeded_randomness(4):
        views = torch.randint(0, 256, (2 * images, 1, SIZE, SIZE), dtype=torch.uint8)
        return Batch(views, torch.randint(0, 3, (images,)).repeat(2), torch.arange(images).repeat(2))


def gradients_of(step: Step, loss: str, network: nn.Module, **settings: Any) -> tuple[list[Tensor], Measured]:
    """Gradients of a network and its head after a step from given random numbers."""
    with seeded_randomness(5):
        head = nn.Linear(6, 3).double()
        whole: Any = partial(LOSSES[loss].factory, lambda_=0.9, tau=0.3, reading="in", **settings)
        encode: Any = lambda part: network(normalise(part.views).double())  # noqa: E731
        parts = Network(encode, head, whole, lambda value: value.backward(), list(network.buffers()), CPU)
        measured = step(parts, batch())
    return [parameter.grad for module in (network, head) for parameter in module.parameters()], measured  # type: ignore[misc]


def in_parts(step: Callable[..., Measured], micro_batch: int) -> Step:
    return lambda network, whole: step(network, whole, micro_batch)


def one_graph_of_parts(network: Network, whole: Batch) -> Measured:
    """What caching stands for: the embeddings of all parts kept with their graph."""
    embeddings = joined_views([network.encode(part) for part in whole.parts(4)])
    logits = network.head(embeddings)
    loss = network.loss(logits, embeddings, whole.labels, whole.images)
    network.backward(loss)
    return Measured(loss.detach(), (logits.argmax(-1) == whole.labels).sum(), len(whole.labels), len(whole))


def assert_same(one: tuple[list[Tensor], Measured], other: tuple[list[Tensor], Measured]) -> None:
    for a, b in zip(one[0], other[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert one[1].loss.item() == pytest.approx(other[1].loss.item(), rel=1e-12)
    assert one[1].hits == other[1].hits


@pytest.mark.parametrize("micro_batch", [1, 3, 4, 9])
def test_summed_gradients_of_cross_entropy_are_those_of_the_whole_batch(micro_batch: int) -> None:
    at_once = gradients_of(gradients_at_once, "ce", smooth(), label_smoothing=0.1)
    assert_same(gradients_of(in_parts(summed_gradients, micro_batch), "ce", smooth(), label_smoothing=0.1), at_once)


@pytest.mark.parametrize("micro_batch", [1, 3, 4, 9])
@pytest.mark.parametrize(
    ("loss", "settings"),
    [
        ("ce", {}),
        ("ce+schane", {}),
        ("ce+supcon", {}),
        ("ce+simclr", {}),
        ("ce+schane", {"stop_gradient": "beta", "anchors": "sum"}),
    ],
)
def test_cached_gradients_are_those_of_the_whole_batch(loss: str, settings: dict[str, Any], micro_batch: int) -> None:
    at_once = gradients_of(gradients_at_once, loss, smooth(), **settings)
    assert_same(gradients_of(in_parts(cached_gradients, micro_batch), loss, smooth(), **settings), at_once)


def test_summing_a_loss_that_compares_views_would_be_wrong() -> None:
    """Otherwise the tests above would pass whatever is done."""
    at_once, _ = gradients_of(gradients_at_once, "ce+schane", smooth())
    summed, _ = gradients_of(in_parts(summed_gradients, 4), "ce+schane", smooth())
    assert (at_once[0] - summed[0]).abs().max() > 1e-3 * at_once[0].abs().max()


def test_dropout_within_the_network_hides_the_same_units_in_both_passes() -> None:
    expected = gradients_of(one_graph_of_parts, "ce+schane", smooth(0.5))
    assert_same(gradients_of(in_parts(cached_gradients, 4), "ce+schane", smooth(0.5)), expected)
    without, _ = gradients_of(one_graph_of_parts, "ce+schane", smooth(0.0))
    assert not torch.allclose(expected[0][0], without[0])


def test_the_second_pass_leaves_the_random_numbers_where_the_first_did() -> None:
    drawn = []
    for step in (one_graph_of_parts, in_parts(cached_gradients, 4)):

        def then_draw(network: Network, whole: Batch, step: Step = step) -> Measured:
            measured = step(network, whole)
            drawn.append(torch.rand(3))
            return measured

        gradients_of(then_draw, "ce+schane", smooth(0.5))
    assert torch.equal(*drawn)


def test_running_statistics_move_once_per_part() -> None:
    def normed() -> nn.Module:
        return nn.Sequential(smooth(), nn.BatchNorm1d(6).double())

    moved = []
    for step in (one_graph_of_parts, in_parts(cached_gradients, 4)):
        network = normed()
        gradients_of(step, "ce+schane", network)
        moved.append(network[1])  # type: ignore[index]
    assert int(moved[1].num_batches_tracked) == 3
    torch.testing.assert_close(moved[0].running_var, moved[1].running_var)
    assert len(batch_norms(normed())) == 1


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_parts_hold_both_views_of_their_images_and_go_together_again(count: int) -> None:
    images = torch.arange(5).repeat(2)
    parts = split_views(images, count)
    assert all(torch.equal(*part.tensor_split(2)) for part in parts)
    assert torch.equal(joined_views(parts), images)


@pytest.mark.parametrize("loss", ["ce", "ce+schane"])
def test_training_in_micro_batches_is_training_in_batches(loss: str) -> None:
    """In float32, on a network without batch norm, after as many steps as the rounding allows."""
    with seeded_randomness(7):
        network = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(196, 16))
    changes = {"dropout": 0.0, "learning_rate": 1e-3, "optimizer": "adamw"}
    whole = train(loss, network=network, **changes)
    for micro_batch in (3, 16, 500):
        parts = train(loss, network=network, computing=Computing(micro_batch=micro_batch), **changes)
        for a, b in zip(weights(whole), weights(parts), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=2e-5)
        assert [row["accuracy"] for row in parts.history] == [row["accuracy"] for row in whole.history]
        assert are_equal(whole, parts) == (micro_batch >= 16)


@pytest.mark.slow
def test_a_network_with_batch_norm_trains_in_micro_batches() -> None:
    result = train("ce+schane", epochs=20, computing=Computing(micro_batch=6))
    assert result.history[-1]["loss"] < result.history[0]["loss"] - 0.1
    assert batch_norms(conv4())
    assert len(bars()) == 48


def test_a_micro_batch_of_nothing_is_refused() -> None:
    with pytest.raises(StudyError, match="1 image or more, not 0"):
        Computing(micro_batch=0)
