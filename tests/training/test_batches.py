"""Batches that a thread gathers are those that are gathered when needed, and it ends with them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from bars import are_equal, bars, train
from torch import Tensor

from fewshot_bench.training import StateFile
from fewshot_bench.training import objective as objective_module
from fewshot_bench.training.batches import SampleLoader
from fewshot_bench.training.learner import Learner

CPU = torch.device("cpu")
PARTS = torch.arange(40).flip(0).tensor_split(7)


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if "samples" in thread.name}


@pytest.mark.parametrize("ahead", [1, 2, 100])
def test_a_thread_gathers_the_same_batches(ahead: int) -> None:
    split = bars(channels=3)
    for parts in (PARTS, PARTS[:1], ()):
        expected = list(SampleLoader(split, CPU).batches(parts))
        gathered = list(SampleLoader(split, CPU, ahead=ahead).batches(parts))
        assert len(gathered) == len(parts)
        for ours, theirs in zip(gathered, expected, strict=True):
            assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
    assert not threads()


def test_a_batch_holds_the_images_and_labels_of_its_rows() -> None:
    split, rows = bars(channels=3), torch.tensor([5, 0, 47])
    images, labels, places = SampleLoader(split, CPU).load(rows)
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), split.images[rows.numpy()])
    assert labels.tolist() == [0, 0, 3]
    assert torch.equal(places, rows)


def test_no_more_batches_are_gathered_than_were_asked_for_ahead() -> None:
    loader = SampleLoader(bars(), CPU, ahead=2)
    gathered: list[int] = []
    original = loader._gathered

    def note(rows: Tensor) -> Tensor:
        gathered.append(int(rows[0]))
        return original(rows)

    with mock.patch.object(loader, "_gathered", note):
        batches = loader.batches(PARTS)
        next(batches)
        next(batches)
        batches.close()
    assert gathered == [int(rows[0]) for rows in PARTS[: len(gathered)]]
    assert len(gathered) <= 4
    assert not threads()


def test_an_error_of_the_thread_reaches_the_training_and_ends_the_thread() -> None:
    loader = SampleLoader(bars(), CPU, ahead=2)
    original = loader._gathered

    def fail(rows: Tensor) -> Tensor:
        if rows is PARTS[3]:
            raise OSError("the disk is gone")
        return original(rows)

    seen = []
    with mock.patch.object(loader, "_gathered", fail), pytest.raises(OSError, match="the disk is gone"):
        seen.extend(loader.batches(PARTS))
    assert not threads()


def ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let trainings gather ahead, as on a GPU where the split does not stay."""
    monkeypatch.setattr(objective_module, "SampleLoader", lambda split, device: SampleLoader(split, device, ahead=2))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_no_thread_is_left_when_a_training_ends_in_an_error(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead(monkeypatch)
    monkeypatch.setattr(Learner, "learn", mock.Mock(side_effect=error))
    with pytest.raises(error):  # its traceback keeps the frames alive
        train()
    assert not threads()


def test_gathering_ahead_never_changes_the_weights_nor_where_a_training_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"dropout": 0.5, "epochs": 4}
    expected = train("ce+schane", bars(channels=3), **changes)
    ahead(monkeypatch)
    assert are_equal(train("ce+schane", bars(channels=3), **changes), expected)

    class StopError(Exception):
        pass

    def stop(history: list[dict[str, float]]) -> None:
        if len(history) == 2:
            raise StopError

    state = StateFile(path=tmp_path / "state.safetensors")
    with pytest.raises(StopError):
        train("ce+schane", bars(channels=3), state=state, after_epoch=stop, **changes)
    assert are_equal(train("ce+schane", bars(channels=3), state=state, **changes), expected)
