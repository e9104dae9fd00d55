"""The host never waits for a GPU within the steps of fine-tuning."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_task import SIDE, parts, recipe, task
from synchronisation import GPU, fake_gpu
from test_replayed_step import RECIPES, again, trainer
from torch import Tensor
from waiting_operations import WaitingOperations

from fewshot_bench.backbones.backbone import Preprocessing
from fewshot_bench.finetuning.episode_tasks import EpisodeKeys, PooledViews, RedrawnViews
from fewshot_bench.training.augmentation import Augmentation, choose_augmentation


def waits(changes: dict[str, Any], epochs: int, capture: Any) -> list[str]:
    """What the host would wait for in the steps of some epochs."""
    chosen = recipe(**{**changes, "epochs": epochs, "warmup_epochs": min(1, changes.get("warmup_epochs", 0))})
    prepared = parts(chosen)
    made, episodes = trainer(prepared, chosen, capture), task(prepared, chosen)
    queries = episodes.query(slice(None)) if chosen.sees_queries else None
    made._record_step(episodes, queries)
    made._begin(episodes)
    with WaitingOperations() as operations:
        made._train(episodes, queries)
    return operations.names


@pytest.mark.slow
@pytest.mark.parametrize("capture", [None, again])
@pytest.mark.parametrize("changes", [changes for changes in RECIPES if changes.get("tune") != "lora:2"], ids=str)
def test_more_steps_make_the_host_wait_no_more_often(changes: dict[str, Any], capture: Any) -> None:
    assert waits(changes, 4, capture) == waits(changes, 2, capture)


def test_a_counter_that_finds_nothing_would_be_useless() -> None:
    values = torch.arange(4.0)
    with WaitingOperations() as operations:
        values[values > 2] = 0
        bool(values.sum() > 3)
        values[torch.tensor([1, 2])] + values.nonzero().sum()
    found = {"aten::_local_scalar_dense", "aten::index_put_", "aten::lift_fresh", "aten::nonzero"}
    assert set(operations.names) == found


AUGMENTATIONS = [choose_augmentation(name, channels=3, image_size=SIDE) for name in ("auto", "jitter", "affine")]


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=lambda augmentation: type(augmentation).__name__)
def test_new_views_are_made_without_waiting(augmentation: Augmentation) -> None:
    augmentation(torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8), torch.zeros(1, augmentation.numbers))  # fills tables
    normalise = Preprocessing(SIDE + 4, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    with fake_gpu() as synchronisations:
        images = torch.zeros(2, 6, 3, SIDE, SIDE, dtype=torch.uint8, device=GPU)
        keys = EpisodeKeys(torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64, device=GPU))
        views = RedrawnViews(images, keys, augmentation, normalise, steps=3)
        inputs = [views.at(step, None) for step in range(3)]
    assert inputs[-1].shape == (2, 12, 3, SIDE + 4, SIDE + 4)
    assert synchronisations.places == []


def test_kept_views_are_drawn_without_waiting() -> None:
    with fake_gpu() as synchronisations:
        keys = EpisodeKeys(torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64, device=GPU))
        pool = torch.zeros(2, 8, 6, 5, device=GPU)
        chosen: Tensor = torch.zeros(2, 4, dtype=torch.int64, device=GPU)
        assert PooledViews(pool, keys).at(0, chosen).shape == (2, 8, 5)
    assert synchronisations.places == []
