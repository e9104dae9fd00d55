"""Fine-tuning on the base split learns, repeats itself exactly, and leaves no trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from bars import SIZE, are_equal, bars, conv4, normalise, small_recipe, train
from torch import Tensor, nn

from fewshot_bench.datasets.dataset import ImageSplit
from fewshot_bench.errors import EmbeddingError, StudyError
from fewshot_bench.losses import LOSSES
from fewshot_bench.training import (
    Computing,
    Recipe,
    Selection,
    StateFile,
    fit,
    load_checkpoint,
    scratch_recipe,
    seeded_randomness,
    train_on_base,
)
from fewshot_bench.training.learner import Learner
from fewshot_bench.training.scheduled_optimizer import ScheduledOptimizer

OF_SOME_LOSSES = {"reading": "out", "stop_gradient": "beta", "anchors": "sum"}


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["ce", "ce+schane"])
def test_training_lowers_the_loss_and_beats_chance(loss: str) -> None:
    result = train(loss, epochs=20, learning_rate=1e-2)
    assert len(result.history) == 20
    assert result.history[-1]["loss"] < result.history[0]["loss"] - 0.1
    assert result.history[-1]["accuracy"] > 0.6
    assert all(epoch["images_per_second"] > 0 for epoch in result.history)


def test_what_was_learned_holds_for_plain_images() -> None:
    split = bars()
    result = train(epochs=20, learning_rate=1e-2)
    images = torch.from_numpy(split.images).permute(0, 3, 1, 2)
    with torch.no_grad():
        predictions = result.head(result.backbone(normalise(images))).argmax(-1)
    assert (predictions == torch.from_numpy(split.labels)).float().mean() > 0.8


@pytest.mark.parametrize("loss", ["ce", "ce+schane"])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(loss: str) -> None:
    one = train(loss, seed=3)
    torch.rand(5)
    assert are_equal(one, train(loss, seed=3))
    assert not are_equal(one, train(loss, seed=4))


def test_every_loss_gives_its_own_weights() -> None:
    results = [train(loss, epochs=1) for loss in LOSSES.names()]
    for i, one in enumerate(results):
        assert not any(are_equal(one, other) for other in results[i + 1 :])


@pytest.mark.parametrize(
    "change", [{"lambda_": 0.5}, {"tau": 0.1}, *({name: value} for name, value in OF_SOME_LOSSES.items())]
)
def test_the_hyper_parameters_of_a_contrastive_loss_reach_it(change: dict[str, Any]) -> None:
    assert not are_equal(train("ce+schane", epochs=1), train("ce+schane", epochs=1, **change))
    if change.keys().isdisjoint(OF_SOME_LOSSES):
        assert are_equal(train("ce", epochs=1), train("ce", epochs=1, **change))


def with_dropout() -> nn.Module:
    """A network with a dropout layer that does nothing yet, as timm's have."""
    with seeded_randomness(3):
        return nn.Sequential(nn.Flatten(), nn.Linear(SIZE**2, 8), nn.Dropout(0.0), nn.Tanh())


def test_dropout_acts_before_the_head_or_in_the_layers_of_the_network() -> None:
    network = with_dropout()
    rates = {}
    for place in ("head", "network"):
        recipe = small_recipe(dropout=0.25, dropout_place=place)
        made = Learner(network, bars(), recipe, normalise, torch.device("cpu"), Computing())
        rates[place] = [
            layer.p for part in (made.head, made.backbone) for layer in part.modules() if type(layer) is nn.Dropout
        ]
    assert rates == {"head": [0.25, 0.0], "network": [0.0, 0.25]}
    assert network[2].p == 0.0, "the network that was given is left alone"
    trained = [train(network=with_dropout(), epochs=1, dropout=0.5, dropout_place=place) for place in rates]
    assert not are_equal(*trained)
    with pytest.raises(StudyError, match="Conv4 has no dropout layers"):
        train(epochs=1, dropout_place="network")


def test_random_numbers_threads_and_the_given_backbone_are_untouched() -> None:
    given = conv4()
    before = {name: tensor.clone() for name, tensor in given.state_dict().items()}
    states = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())  # type: ignore[index]  # noqa: NPY002 the global one is meant
    threads = torch.get_num_threads()
    split = bars(channels=3)
    given_rgb = conv4(channels=3)
    train_on_base(given, bars(), scratch_recipe("ce", epochs=1), normalise=normalise)
    train_on_base(given_rgb, split, scratch_recipe("ce+schane", epochs=1), normalise=normalise)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[index]  # noqa: NPY002 the global one is meant
    assert random.getstate() == states[2]
    assert torch.get_num_threads() == threads
    assert all(torch.equal(tensor, before[name]) for name, tensor in given.state_dict().items())


def test_the_result_is_ready_for_evaluation() -> None:
    result = train(epochs=1)
    assert not result.backbone.training
    assert not result.head.training


def test_colour_images_train_with_autoaugment() -> None:
    result = train("ce+schane", split=bars(channels=3), epochs=1)
    assert np.isfinite(result.history[0]["loss"])


class Seen(nn.Module):
    """A backbone that notes which images it was trained on, by the first pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.batches: list[list[int]] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Seen:
        return self

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.batches.append([int(value) for value in images[:, 0, 0, 0]])
        return images.flatten(1)[:, :4] * self.scale


@pytest.mark.parametrize(("images", "batch_size"), [(20, 6), (17, 16), (8, 100)])
def test_every_image_is_seen_in_two_views_per_epoch_and_batches_differ_by_one_image(
    images: int, batch_size: int
) -> None:
    pixels = np.arange(images, dtype=np.uint8)[:, None, None, None].repeat(SIZE, 1).repeat(SIZE, 2)
    split = ImageSplit("toy", "base", pixels, ("a", "b"), (images // 2, images - images // 2), "")
    network = Seen()
    recipe = Recipe(batch_size=batch_size, epochs=1, augmentation="none")
    train_on_base(network, split, recipe, normalise=lambda batch: batch.float())
    sizes = [len(batch) // 2 for batch in network.batches]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert all(batch[: len(batch) // 2] == batch[len(batch) // 2 :] for batch in network.batches)
    assert sorted(image for batch in network.batches for image in batch) == sorted([*range(images), *range(images)])


def test_a_loss_that_is_not_finite_is_named() -> None:
    with pytest.raises(StudyError, match=r"the loss nan in epoch 1; .* learning rate below 0\.01"):
        train_on_base(conv4(), bars(), scratch_recipe("ce"), normalise=lambda images: normalise(images) * torch.nan)


@pytest.mark.parametrize("seconds", [0.0, np.inf])
def test_a_loss_that_is_not_finite_is_refused_before_anything_of_its_epoch_is_stored(
    seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "_SECONDS_BETWEEN_READINGS", seconds)
    state, histories, calls = StateFile(path=tmp_path / "state.safetensors"), [], 0

    def diverging(images: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return normalise(images) * (torch.nan if calls == 6 else 1)  # the second step of the second epoch

    selection = Selection(validate=lambda network, head: {"validation": 1.0})
    with pytest.raises(StudyError, match=r"the loss nan in epoch 2; .* learning rate below 0\.01"):
        train_on_base(
            conv4(), bars(), scratch_recipe("ce", epochs=3, batch_size=16), normalise=diverging, state=state,
            selection=selection, after_epoch=lambda history: histories.append(len(history)),
        )  # fmt: skip
    assert histories == [1]
    tensors, _ = load_checkpoint(state.path, "training state")
    assert all(value.isfinite().all() for value in tensors.values())


def test_weights_that_the_last_step_of_an_epoch_spoils_are_refused_before_they_are_stored(tmp_path: Path) -> None:
    def spoil(self: ScheduledOptimizer) -> None:
        next(iter(self.optimizer.param_groups[0]["params"])).data.fill_(torch.nan)

    state = StateFile(path=tmp_path / "state.safetensors")
    recipe = scratch_recipe("ce", epochs=1, batch_size=1000)
    with (
        mock.patch.object(ScheduledOptimizer, "step", spoil),
        pytest.raises(StudyError, match=r"weights that are infinite or NaN in epoch 1\. Use a learning rate below"),
    ):
        train_on_base(conv4(), bars(), recipe, normalise=normalise, state=state)
    assert not state.path.exists()


def test_losses_are_read_once_a_second_and_at_the_end_of_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "_SECONDS_BETWEEN_READINGS", 0.0)
    expected = train(epochs=2)
    monkeypatch.setattr(fit, "_SECONDS_BETWEEN_READINGS", np.inf)
    with mock.patch.object(fit.EpochSums, "read", autospec=True, side_effect=fit.EpochSums.read) as read:
        result = train(epochs=2)
    assert read.call_count == 2 * 2
    assert are_equal(result, expected)
    for name in ("loss", "accuracy", "learning_rate"):
        assert [row[name] for row in result.history] == [row[name] for row in expected.history]


def test_a_split_with_one_class_is_refused() -> None:
    with pytest.raises(StudyError, match="the base split of toy has one class"):
        train(split=bars(classes=1))


def test_a_backbone_that_gives_feature_maps_is_refused() -> None:
    with pytest.raises(EmbeddingError, match=r"embeddings \[B, D\]"):
        train_on_base(nn.Conv2d(1, 2, 3), bars(), scratch_recipe("ce"), normalise=normalise)


class Listener:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.total = self.done = 0
        self.notes: list[str] = []

    @contextmanager
    def step(self, description: str, total: int) -> Iterator[Listener]:
        assert "ce+schane" in description
        self.total = total
        yield self

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.done += amount
        self.notes.append(note)


def test_progress_hears_of_every_step_with_loss_and_accuracy() -> None:
    listener = Listener()
    recipe = scratch_recipe("ce+schane", epochs=2, batch_size=16)
    train_on_base(conv4(), bars(), recipe, normalise=normalise, progress=listener)
    assert listener.done == listener.total == 6
    assert all("loss " in note and "accuracy " in note and "images/s" in note for note in listener.notes)


def test_a_compiled_network_is_what_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a compiler of nothing: the real one takes most of a minute."""
    compiled: list[nn.Module] = []

    class Compiled:
        def __init__(self, network: nn.Module) -> None:
            self.network, self.calls = network, 0
            compiled.append(self)  # type: ignore[arg-type]

        def __call__(self, images: Tensor) -> Tensor:
            self.calls += 1
            return self.network(images)  # type: ignore[no-any-return]

    monkeypatch.setattr(torch, "compile", Compiled)
    assert are_equal(train(computing=Computing(is_compiled=True)), train())
    assert [network.calls for network in compiled] == [6]  # type: ignore[attr-defined]
