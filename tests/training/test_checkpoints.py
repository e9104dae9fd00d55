"""Checkpoints come back as they were saved, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fewshot_bench.backbones.networks import Conv4
from fewshot_bench.errors import WeightsError
from fewshot_bench.training import load_checkpoint, save_checkpoint

METADATA = {"recipe": '{"loss": "ce"}', "dataset": "0123"}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "weights" / "conv4.safetensors"
    save_checkpoint(path, network(), METADATA)
    return path


def network() -> Conv4:
    torch.manual_seed(0)
    return Conv4(width=4, in_chans=1, image_size=16)


def test_weights_and_metadata_come_back(checkpoint: Path) -> None:
    tensors, metadata = load_checkpoint(checkpoint)
    assert metadata == METADATA
    expected = network().state_dict()
    assert set(tensors) == set(expected)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())


def test_weights_in_another_memory_order_come_back(tmp_path: Path) -> None:
    path = tmp_path / "conv4.safetensors"
    save_checkpoint(path, network().to(memory_format=torch.channels_last), {})
    tensors, _ = load_checkpoint(path)
    fresh = Conv4(width=4, in_chans=1, image_size=16)
    fresh.load_state_dict(tensors)
    images = torch.rand(3, 1, 16, 16)
    torch.testing.assert_close(fresh.eval()(images), network().eval()(images))


def test_saving_again_replaces_the_file_and_leaves_nothing_else(checkpoint: Path) -> None:
    save_checkpoint(checkpoint, torch.nn.Linear(2, 2), {"epoch": "2"})
    tensors, metadata = load_checkpoint(checkpoint)
    assert (set(tensors), metadata) == ({"weight", "bias"}, {"epoch": "2"})
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_a_failed_save_keeps_the_old_file(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    before = checkpoint.read_bytes()
    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(checkpoint, torch.nn.Linear(2, 2), {})
    assert checkpoint.read_bytes() == before
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_cut_off_file_is_refused(checkpoint: Path, keep: int) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"conv4\.safetensors cannot be read .* train again"):
        load_checkpoint(checkpoint)


def test_one_changed_byte_is_noticed(checkpoint: Path) -> None:
    content = bytearray(checkpoint.read_bytes())
    content[-9] ^= 1
    checkpoint.write_bytes(content)
    with pytest.raises(WeightsError, match="does not match its digest"):
        load_checkpoint(checkpoint)


def test_weights_from_elsewhere_are_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match="digest"):
        load_checkpoint(path)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"there is no checkpoint .*absent\.safetensors"):
        load_checkpoint(tmp_path / "absent.safetensors")
