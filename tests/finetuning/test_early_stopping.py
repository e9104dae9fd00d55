"""An episode that stops keeps the weights it had then, and the others never notice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fewshot_bench.finetuning.trainer import EarlyStopping


def weights_after(epoch: int, episodes: int) -> dict[str, Tensor]:
    """Other numbers after every epoch, in weights of several shapes."""
    base = 1000.0 * (epoch + 1) + 10 * torch.arange(episodes)
    return {"filter": base.view(-1, 1, 1) + torch.arange(6.0).view(2, 3), "bias": base.clone()}


def stopped_at(losses: np.ndarray, patience: int) -> int | None:
    """The epoch after which one episode stops, by a plain loop."""
    lowest, waited = np.inf, 0
    for epoch, loss in enumerate(losses):
        waited = 0 if loss < lowest else waited + 1
        lowest = min(lowest, loss)
        if waited >= patience:
            return epoch
    return None


def run(losses: np.ndarray, patience: int) -> tuple[dict[str, Tensor], Tensor]:
    """Weights and who has stopped, after training on loss curves, [epochs, E]."""
    episodes = losses.shape[1]
    weights = weights_after(-1, episodes)
    stopping = EarlyStopping(patience, weights)
    for epoch, row in enumerate(losses):
        for name, value in weights_after(epoch, episodes).items():
            weights[name].copy_(value)
        stopping.after_epoch(torch.from_numpy(row))
    stopping.finish()
    return weights, stopping.has_stopped


curves = st.integers(1, 12).flatmap(
    lambda epochs: st.lists(
        st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0]), min_size=epochs, max_size=epochs), min_size=1, max_size=5
    )
)


@settings(deadline=None, max_examples=150)
@given(curves=curves, patience=st.integers(1, 4))
def test_many_at_once_stop_where_each_would_alone(curves: list[list[float]], patience: int) -> None:
    losses = np.array(curves, dtype=np.float32).T
    weights, has_stopped = run(losses, patience)
    for episode in range(losses.shape[1]):
        epoch = stopped_at(losses[:, episode], patience)
        assert bool(has_stopped[episode]) == (epoch is not None)
        expected = weights_after(len(losses) - 1 if epoch is None else epoch, losses.shape[1])
        for name, value in weights.items():
            assert torch.equal(value[episode], expected[name][episode])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_episode_stops_after_as_many_epochs_without_a_lower_loss(dtype: type) -> None:
    losses = np.array([[3, 3], [2, 4], [2.5, 2], [2.5, 1], [1, 0.5], [0, 0.4]], dtype=dtype)
    weights, has_stopped = run(losses, patience=2)
    assert has_stopped.tolist() == [True, False]
    assert weights["bias"].tolist() == [4000.0, 6010.0], "what it had after epoch 4, not the lowest loss's"


def test_an_equal_loss_is_not_a_lower_one() -> None:
    assert run(np.ones((3, 1), dtype=np.float32), patience=2)[1].tolist() == [True]
    assert run(np.ones((2, 1), dtype=np.float32), patience=2)[1].tolist() == [False]


def test_a_stopped_episode_stays_stopped_when_its_loss_falls_again() -> None:
    losses = np.array([[1.0], [2.0], [0.5], [0.2], [0.1]], dtype=np.float32)
    weights, has_stopped = run(losses, patience=1)
    assert has_stopped.all()
    assert torch.equal(weights["filter"], weights_after(1, 1)["filter"])


def test_weights_are_written_through_their_views_even_where_they_are_trained() -> None:
    stacked = torch.zeros(6, requires_grad=True)
    view = stacked.view(3, 2)
    stopping = EarlyStopping(1, {"w": view})
    for epoch, loss in enumerate([[1.0, 1.0, 1.0], [2.0, 0.5, 2.0], [3.0, 0.1, 0.0]]):
        with torch.no_grad():
            stacked.fill_(epoch)
        stopping.after_epoch(torch.tensor(loss))
    stopping.finish()
    assert stacked.tolist() == [1, 1, 2, 2, 1, 1]
    assert stacked.is_leaf
