"""The few-shot literature's networks are what the papers describe, and are made by timm and by `--backbone`."""

from __future__ import annotations

import subprocess
import sys

import pytest
import timm
import torch
from conftest import toy_split
from safetensors.torch import save_file
from timm.data import resolve_model_data_config
from torch import nn

from fewshot_bench.backbones import BACKBONES, BackboneRequest, create_backbone, embed
from fewshot_bench.cli.main import exit_code
from fewshot_bench.errors import StudyError
from fewshot_bench.training import scratch_recipe, train_on_base

NAMES = ("conv4_32", "conv4_64", "conv4_64_gap", "resnet12", "resnet12_flat", "wrn28_10")

# Counted by hand: widths from the papers; a convolution of conv4 has a bias, a batch normalisation two tensors.
# The tables of the literature say 113k for Conv4-64, 12.4M for ResNet-12, and 36.5M for WRN-28-10 (Zagoruyko and
# Komodakis, 2016: 36,479,194 with a classifier of 10 classes, which has 6,410).
PARAMETERS = {
    "conv4_32": (3 * 9 + 1 + 2) * 32 + 3 * (32 * 9 + 1 + 2) * 32,
    "conv4_64": (3 * 9 + 1 + 2) * 64 + 3 * (64 * 9 + 1 + 2) * 64,
    "conv4_64_gap": (3 * 9 + 1 + 2) * 64 + 3 * (64 * 9 + 1 + 2) * 64,
    "resnet12": sum(
        9 * wide * narrow + 2 * 9 * wide * wide + narrow * wide + 4 * 2 * wide
        for narrow, wide in ((3, 64), (64, 160), (160, 320), (320, 640))
    ),
    "wrn28_10": 3 * 9 * 16
    + sum(
        2 * narrow + 9 * narrow * wide + narrow * wide + 7 * 9 * wide * wide + 7 * 2 * wide
        for narrow, wide in ((16, 160), (160, 320), (320, 640))
    )
    + 2 * 640,
}
PARAMETERS["resnet12_flat"] = PARAMETERS["resnet12"]
GOLDEN = {
    "conv4_32": 28_896,
    "conv4_64": 113_088,
    "conv4_64_gap": 113_088,
    "resnet12": 12_424_320,
    "resnet12_flat": 12_424_320,
    "wrn28_10": 36_472_784,
}


def make(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, **{"pretrained": False, "num_classes": 0, "img_size": 32, **options}).eval()


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_as_many_as_in_the_literature(name):
    with torch.device("meta"):
        network = make(name)
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name] == GOLDEN[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_timm_finds_and_makes_them(name):
    assert timm.list_models(name) == [name]
    network = make(name, in_chans=1, img_size=28)
    assert network(torch.rand(2, 1, 28, 28)).shape == (2, network.num_features)
    assert network.num_classes == 0
    assert isinstance(network.get_classifier(), nn.Identity)
    assert network.pretrained_cfg["architecture"] == name


def test_the_size_of_the_embedding_is_that_of_the_literature():
    with torch.device("meta"):
        sizes = {name: make(name, img_size=84).num_features for name in NAMES}
    assert sizes == {
        "conv4_32": 800,
        "conv4_64": 1600,
        "conv4_64_gap": 64,
        "resnet12": 640,
        "resnet12_flat": 16_000,
        "wrn28_10": 640,
    }


def test_the_flat_resnet12_averages_to_the_other_one():
    flat, averaged = make("resnet12_flat"), make("resnet12")
    averaged.load_state_dict(flat.state_dict())
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(flat(images).view(2, 640, 4).mean(2), averaged(images))


@pytest.mark.parametrize(("name", "side"), [("conv4_64", 5), ("conv4_64_gap", 10), ("resnet12", 5), ("wrn28_10", 21)])
def test_feature_maps_at_84_pixels_have_the_literature_s_sides(name, side):
    with torch.device("meta"):
        features = make(name, img_size=84).forward_features(torch.rand(1, 3, 84, 84))
    assert features.shape[-2:] == (side, side)


@pytest.mark.parametrize("name", ["conv4_32", "resnet12"])
def test_the_classifier_can_be_replaced_and_taken_off(name):
    network = make(name, num_classes=7)
    images = torch.rand(2, 3, 32, 32)
    features = network.forward_features(images)
    embeddings = network.forward_head(features, pre_logits=True)
    assert torch.equal(network(images), network.get_classifier()(embeddings))
    network.reset_classifier(3)
    assert network.num_classes == 3
    assert network(images).shape == (2, 3)
    network.reset_classifier(0)
    assert torch.equal(network(images), embeddings)
    network.reset_classifier(0, global_pool="")
    assert torch.equal(network(images), features)


def test_what_no_classifier_can_do_is_refused():
    with pytest.raises(StudyError, match=r"ResNet12 has no global_pool 'max'\. Use 'avg', or ''"):
        make("resnet12", global_pool="max")
    with pytest.raises(StudyError, match="classifier of 5 classes needs embeddings"):
        make("conv4_32", num_classes=5, global_pool="")


@pytest.mark.parametrize(("name", "size", "smallest"), [("conv4_32", 15, 16), ("resnet12", 15, 16), ("wrn28_10", 3, 4)])
def test_images_that_vanish_are_refused(name, size, smallest):
    with pytest.raises(StudyError, match=f"{size} px is too small. Use {smallest} px or more"):
        make(name, img_size=size)


@pytest.mark.parametrize(("name", "size"), [("conv4_32", 288), ("resnet12_flat", 5760)])
def test_embeddings_that_are_flattened_maps_follow_the_image_size_that_timm_sets(name, size):
    network = make(name, num_classes=5)
    network.set_input_size(img_size=48)
    assert network.num_features == size
    assert network(torch.rand(2, 3, 48, 48)).shape == (2, 5)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_timm_s_data_config_is_the_preprocessing_of_the_backbone(name):
    with torch.device("meta"):
        config = resolve_model_data_config(make(name))
    own = create_backbone(BackboneRequest(name, native_size=84)).preprocessing
    assert (own.image_size, own.mean, own.std, own.interpolation) == (
        config["input_size"][-1],
        config["mean"],
        config["std"],
        config["interpolation"],
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_first_convolution_and_the_classifier_are_where_timm_is_told(name):
    with torch.device("meta"):
        network = make(name, in_chans=2, num_classes=4)
    first = network.pretrained_cfg["first_conv"]
    widths = {layer: module.in_channels for layer, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    taking_images = {layer for layer, channels in widths.items() if channels == 2}
    assert taking_images == ({first} if isinstance(first, str) else set(first))
    assert network.get_submodule(network.pretrained_cfg["classifier"]) is network.get_classifier()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32)])
def test_images_of_their_native_size_are_embedded(name, channels, size):
    backbone = create_backbone(BackboneRequest(name, channels=channels, native_size=size))
    assert not backbone.is_pretrained
    assert not backbone.changes
    split = toy_split(classes=2, images=2, size=size, channels=channels)
    embeddings = embed(split, backbone, use_cache=False)
    assert embeddings.shape == (4, backbone.embedding_size)
    assert embeddings.std() > 0


@pytest.mark.slow
def test_resnet12_is_trained_on_the_base_split():
    split = toy_split("base", classes=2, images=4)
    backbone = create_backbone(BackboneRequest("resnet12", native_size=16))
    before = {name: tensor.clone() for name, tensor in backbone.network.state_dict().items()}
    result = train_on_base(backbone.network, split, scratch_recipe("ce", epochs=1), normalise=backbone.preprocessing)
    after = result.backbone.state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_weights_of_the_papers_codes_fit_by_name(tmp_path):
    """RFS and MetaOptNet call a block's tensors so; a classifier that comes with them is left out."""
    network = create_backbone(BackboneRequest("resnet12")).network
    tensors = [f"conv{i}.weight" for i in (1, 2, 3)] + ["downsample.0.weight"]
    for norm in ("bn1", "bn2", "bn3", "downsample.1"):
        tensors += [f"{norm}.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
    published = {
        name: torch.rand_like(tensor)
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert set(published) == {f"layer{i}.0.{name}" for i in (1, 2, 3, 4) for name in tensors}
    save_file({**published, "classifier.weight": torch.zeros(64, 640)}, tmp_path / "rfs.safetensors")
    loaded = create_backbone(BackboneRequest("resnet12", weights=tmp_path / "rfs.safetensors"))
    assert loaded.is_pretrained
    assert all(torch.equal(loaded.network.state_dict()[name], tensor) for name, tensor in published.items())


def test_tensors_of_conv4_keep_the_names_of_checkpoints_that_exist():
    names = {name for name, _ in make("conv4_32").named_parameters()}
    assert names == {f"blocks.{i}.{j}.{kind}" for i in range(4) for j in (0, 1) for kind in ("weight", "bias")}


def test_drop_block_drops_squares_of_single_channels_in_the_last_two_blocks_while_training():
    network = make("resnet12", img_size=64, drop_block_rate=0.3, drop_block_size=2)
    plain = make("resnet12", img_size=64)
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(network(images), plain(images))
    network.train()
    plain.train()
    kept = [torch.equal(getattr(network, f"layer{i}")[0].drop(torch.ones(1)), torch.ones(1)) for i in (1, 2)]
    assert kept == [True, True]
    for block in (network.layer3, network.layer4):
        dropped = block[0].drop(torch.ones(4, 50, 8, 8)) == 0
        assert 0.15 < dropped.float().mean() < 0.45
        assert not torch.equal(dropped[:, 0], dropped[:, 1])
    assert torch.equal(plain.layer4[0].drop(images), images)


def test_ls_shows_them_with_their_papers(capsys):
    assert exit_code(["ls", "backbones"]) == 0
    shown = capsys.readouterr().out
    for name in NAMES:
        assert f"\n{name} " in f"\n{shown}"
        assert BACKBONES[name].facts["paper"] in shown


@pytest.mark.slow
def test_registering_replaces_no_network_of_timm():
    program = "import fewshot_bench.backbones"
    result = subprocess.run([sys.executable, "-W", "error:Overwriting", "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
