"""A batch that does not fit is refused before training, and asking leaves no trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fewshot_bench.backbones.networks import Conv4
from fewshot_bench.errors import StudyError
from fewshot_bench.training import optimisation
from fewshot_bench.training.optimisation import (
    StepMemory,
    activation_bytes,
    fitting_micro_batch,
    refuse_batches_that_do_not_fit,
)

IMAGES = torch.rand(4, 3, 8, 8)


def test_what_is_counted_is_what_the_backward_pass_needs():
    # A convolution keeps its input, a sigmoid its output: 3 and 5 channels of 8 x 8 floats; weights do not count.
    network = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Sigmoid())
    assert activation_bytes(network, IMAGES) == 4 * 8 * 8 * (3 + 5)


def test_asking_changes_neither_the_network_nor_the_random_numbers():
    network = nn.Sequential(Conv4(width=8, in_chans=3, image_size=16), nn.Dropout(0.5)).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.rand(4, 3, 16, 16)
    state = torch.get_rng_state()
    activation_bytes(network, images)
    assert torch.equal(torch.get_rng_state(), state)
    assert not network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_batch_that_does_not_fit_is_refused_with_one_that_does(monkeypatch):
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Sigmoid())
    per_image = 2 * activation_bytes(network, IMAGES)
    monkeypatch.setattr(optimisation, "free_bytes", lambda device: int(100 * per_image))
    memory = StepMemory.measured(network, IMAGES)
    refuse_batches_that_do_not_fit(memory, 100)
    with pytest.raises(StudyError, match=r"batches of 101 images .* Use --base-batch 64 or less"):
        refuse_batches_that_do_not_fit(memory, 101)


def test_nothing_is_refused_where_the_system_does_not_say(monkeypatch):
    monkeypatch.setattr(optimisation, "free_bytes", lambda device: None)
    refuse_batches_that_do_not_fit(StepMemory.measured(nn.Conv2d(3, 5, 3), IMAGES), 10**12)


def test_the_micro_batch_is_what_fits_beside_the_weights(monkeypatch):
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Sigmoid())
    per_image = 2 * activation_bytes(network, IMAGES)
    weights = 4 * 4 * (3 * 5 * 9 + 5)

    def fits(images: float, batch_size: int) -> int:
        monkeypatch.setattr(optimisation, "free_bytes", lambda device: int(weights + images * per_image / 0.9) + 1)
        return fitting_micro_batch(StepMemory.measured(network, IMAGES), batch_size)

    assert fits(100, 100) == 100, "all of it"
    assert fits(100, 101) == 64
    assert fits(1, 101) == 1
    assert fits(64.5, 65) == 64
    with pytest.raises(StudyError, match=r"B for one image in two views; .* smaller --image-size"):
        fits(0.5, 101)
    monkeypatch.setattr(optimisation, "free_bytes", lambda device: None)
    assert fitting_micro_batch(StepMemory.measured(network, IMAGES), 10**12) == 10**12


def test_half_precision_keeps_less():
    network = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    images = torch.rand(4, 64)
    assert activation_bytes(network, images, precision="bf16") < activation_bytes(network, images)
