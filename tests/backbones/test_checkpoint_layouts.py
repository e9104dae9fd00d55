"""Where the checkpoints of the literature keep the weights of a network, with the names that their codes write."""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from fewshot_bench.backbones import Backbone, BackboneRequest, create_backbone
from fewshot_bench.backbones.networks import conv4_32, conv4_64, resnet12
from fewshot_bench.errors import WeightsError

pytestmark = pytest.mark.slow

State = dict[str, torch.Tensor]
VIT, RESNET = "timm:test_vit", "timm:test_resnet"
ONE = torch.ones(1)
ARGS = argparse.Namespace(arch="vit", lr=0.1, output_dir=Path("/somewhere"))


def state_of(name: str, seed: int = 0) -> State:
    torch.manual_seed(seed)
    own = {"conv4_32": conv4_32, "conv4_64": conv4_64, "resnet12": resnet12}
    network = own[name](img_size=32) if name in own else timm.create_model(name.removeprefix("timm:"), num_classes=0)
    # Statistics of a fresh network are all alike; these tell one network from another.
    return {key: torch.rand_like(t) if "running" in key else t for key, t in network.state_dict().items()}


def below(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def load(name: str, content: object, path: Path, **options) -> Backbone:
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    return create_backbone(BackboneRequest(name, weights=path, **options))


def assert_loaded(backbone: Backbone, state: State) -> None:
    own = backbone.network.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[name], tensor) for name, tensor in state.items())


def spelled(state: State, **names: str) -> State:
    """Tensors of Conv4 under other names: `blocks.0.0` is the first convolution, `blocks.0.1` its normalisation."""
    kinds = {"0": names["convolution"], "1": names["normalisation"]}
    renamed = {}
    for name, tensor in state.items():
        _, block, kind, last = name.split(".")
        renamed[f"{names['block'].format(block)}.{kinds[kind]}.{last}"] = tensor
    return renamed


def layouts(state: State, other: State) -> dict[str, tuple[object, str]]:
    """What a code saves of a network, and the prefix under which it lies there."""
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    return {
        "the state dict": (state, ""),
        "MAE, pretraining": (
            {
                "model": {**state, "mask_token": ONE, "decoder_pos_embed": ONE, "decoder_blocks.0.norm1.weight": ONE},
                "optimizer": optimizer,
                "epoch": 799,
                "scaler": {},
                "args": ARGS,
            },
            "model.",
        ),
        "MAE, finetuned": ({"model": {**state, "head.weight": ONE, "head.bias": ONE}, "args": ARGS}, "model."),
        "DINO": (
            {
                "student": {**below("module.backbone.", other), "module.head.mlp.0.weight": ONE},
                "teacher": {**below("backbone.", state), "head.mlp.0.weight": ONE, "head.last_layer.weight_g": ONE},
                "optimizer": optimizer,
                "epoch": 100,
                "args": ARGS,
                "dino_loss": {"center": ONE},
            },
            "teacher.backbone.",
        ),
        "DINO, one of the two": (below("student.backbone.", state), "student.backbone."),
        "MoCo v2": (
            {
                "epoch": 200,
                "arch": "resnet50",
                "state_dict": {
                    **below("module.encoder_q.", state),
                    "module.encoder_q.fc.0.weight": ONE,
                    **below("module.encoder_k.", other),
                    "module.queue": ONE,
                    "module.queue_ptr": torch.zeros(1, dtype=torch.long),
                },
                "optimizer": optimizer,
            },
            "state_dict.module.encoder_q.",
        ),
        "MoCo v3": (
            {
                "state_dict": {
                    **below("module.momentum_encoder.", other),
                    **below("module.base_encoder.", state),
                    "module.predictor.0.weight": ONE,
                }
            },
            "state_dict.module.base_encoder.",
        ),
        "SimCLR": (
            {
                "epoch": 100,
                "arch": "resnet18",
                "state_dict": {**below("backbone.", state), "backbone.fc.0.weight": ONE},
            },
            "state_dict.backbone.",
        ),
        "BYOL": (
            {**below("target_encoder.net.", other), **below("online_encoder.net.", state), "online_predictor.0": ONE},
            "online_encoder.net.",
        ),
        "RFS": ({"opt": ARGS, "model": {**state, "classifier.weight": ONE, "classifier.bias": ONE}}, "model."),
        "MetaOptNet": ({"embedding": state, "head": {"scale": ONE}}, "embedding."),
        "MetaOptNet, several GPUs": (
            {"embedding": below("module.", state), "head": {"scale": ONE}},
            "embedding.module.",
        ),
        "few-shot-meta-baseline": (
            {
                "file": "train_classifier.py",
                "model": "classifier",
                "model_args": {"encoder": "convnet4", "encoder_args": {}},
                "model_sd": {**below("encoder.encoder.", state), "classifier.linear.weight": ONE},
                "training": {"epoch": 100, "optimizer": "sgd", "optimizer_sd": optimizer},
            },
            "model_sd.encoder.encoder.",
        ),
        "FEAT": ({"params": {**below("encoder.", state), "fc.weight": ONE}}, "params.encoder."),
        "P>M>F": (
            {
                "model": {**below("backbone.", state), "scale_cls": ONE, "bias": ONE},
                "optimizer": optimizer,
                "lr_scheduler": {"base_lrs": [0.1]},
                "epoch": 3,
                "args": ARGS,
            },
            "model.backbone.",
        ),
        "DeiT": ({"model": other, "model_ema": state, "optimizer": optimizer, "args": ARGS}, "model_ema."),
        "timm": (
            {
                "epoch": 1,
                "arch": "x",
                "state_dict": other,
                "state_dict_ema": state,
                "optimizer": optimizer,
                "args": ARGS,
            },
            "state_dict_ema.",
        ),
        "Lightning": (
            {
                "epoch": 3,
                "pytorch-lightning_version": "2.0",
                "state_dict": {**below("model.backbone.", state), "model.head.weight": ONE},
                "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5), "dirpath": "/somewhere"}},
                "hyper_parameters": ARGS,
            },
            "state_dict.model.backbone.",
        ),
        "one name twice, equal values": ({"model": state, "best": dict(state)}, "best."),
        "a list of networks": ([{"epoch": 1}, {"net": state}], "1.net."),
    }


@pytest.mark.parametrize("name", [VIT, RESNET, "conv4_32"])
@pytest.mark.parametrize("layout", layouts({}, {}))
def test_weights_are_found_wherever_a_code_puts_them(tmp_path, name, layout):
    state, other = state_of(name), state_of(name, seed=1)
    content, prefix = layouts(state, other)[layout]
    backbone = load(name, content, tmp_path / "w.pth", native_size=32)
    assert_loaded(backbone, state)
    assert backbone.fit.get("prefix", "") == prefix


KEYS = ("model", "state_dict", "model_state_dict", "params", "net", "network", "ema", "state", "weights", "a.b")
PREFIXES = (
    "",
    "backbone.",
    "encoder.",
    "module.",
    "_orig_mod.",
    "model.",
    "feature.",
    "encoder_q.",
    "student.backbone.",
)


@pytest.mark.parametrize("key", ["", *KEYS])
def test_keys_and_prefixes_combine(tmp_path, key):
    state = state_of("conv4_32")
    for first, second in itertools.product(PREFIXES, PREFIXES):
        inner = below(first + second, state)
        content = inner if not key else {key: inner, "epoch": 1}
        backbone = load("conv4_32", content, tmp_path / "w.pth", native_size=32)
        assert_loaded(backbone, state)
        assert backbone.fit == ({"prefix": p} if (p := (f"{key}." if key else "") + first + second) else {})


def test_a_prefix_in_safetensors_is_found_too(tmp_path):
    state = state_of(RESNET)
    backbone = load(RESNET, below("module.encoder.", state), tmp_path / "w.safetensors")
    assert_loaded(backbone, state)
    assert backbone.fit == {"prefix": "module.encoder."}


@pytest.mark.parametrize("name", ["DINO", "MoCo v2", "MoCo v3", "BYOL", "DeiT", "timm"])
def test_what_else_would_have_fitted_is_recorded(tmp_path, name):
    content, prefix = layouts(state_of(RESNET), state_of(RESNET, seed=1))[name]
    fit = load(RESNET, content, tmp_path / "w.pth").fit
    (other,) = fit["other_networks"]
    assert other != prefix
    assert not any(unused.startswith(other + "conv1") for unused in fit.get("unused", ()))


def test_of_two_networks_that_nothing_tells_apart_none_is_taken(tmp_path):
    content = {"first": state_of(RESNET), "second": state_of(RESNET, seed=1)}
    with pytest.raises(WeightsError, match=r"several networks that fit this backbone, below 'first\.' and 'second\.'"):
        load(RESNET, content, tmp_path / "w.pth")


def test_what_is_missing_is_named_with_where_it_was_looked_for(tmp_path):
    state = below("backbone.", state_of(RESNET))
    missing = {name: tensor for name, tensor in state.items() if name != "backbone.conv1.0.weight"}
    with pytest.raises(WeightsError, match=r"no tensor 'conv1\.0\.weight' below 'model\.backbone\.'"):
        load(RESNET, {"model": missing}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"'conv1\.0\.weight' is \[1\] in .* below 'model\.backbone\.'"):
        load(RESNET, {"model": {**state, "backbone.conv1.0.weight": ONE}}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"has no tensor 'conv1\.0\.weight'.*It holds 40: 'model\.blocks\.0\.0"):
        load(RESNET, {"model": {f"blocks.0.0.{i}": ONE for i in range(40)}}, tmp_path / "w.pth")


def test_a_file_of_parts_of_two_networks_is_none(tmp_path):
    state = state_of(RESNET)
    names = list(state)
    halves = {"a": {n: state[n] for n in names[::2]}, "b": {n: state[n] for n in names[1::2]}}
    with pytest.raises(WeightsError, match="has no tensor"):
        load(RESNET, halves, tmp_path / "w.pth")


CODES = {
    "Snell et al.": ("", {"block": "encoder.{}", "convolution": "0", "normalisation": "1"}),
    "few-shot-meta-baseline": ("encoder.", {"block": "encoder.{}", "convolution": "0", "normalisation": "1"}),
    "Chen et al.": ("feature.", {"block": "trunk.{}", "convolution": "C", "normalisation": "BN"}),
}


@pytest.mark.parametrize("code", CODES)
def test_conv4_of_other_codes_is_recognised_by_its_names(tmp_path, code):
    state = state_of("conv4_64")
    prefix, names = CODES[code]
    content = {"state": below(prefix, spelled(state, **names)), "epoch": 1}
    assert_loaded(load("conv4_64", content, tmp_path / "w.pth", native_size=32), state)


@pytest.mark.parametrize("layout", ["RFS", "MetaOptNet", "FEAT"])
def test_resnet12_has_the_names_of_the_codes_that_use_it(tmp_path, layout):
    state = state_of("resnet12")
    content, _ = layouts(state, {})[layout]
    torch.save(content, tmp_path / "w.pth")
    names = {"layer1.0.conv1.weight", "layer1.0.downsample.0.weight", "layer4.0.bn3.running_var"}
    assert names <= state.keys()
    assert_loaded(create_backbone(BackboneRequest("resnet12", 3, 32, weights=tmp_path / "w.pth")), state)


def test_the_wide_resnet12_of_meta_baseline_fits_and_the_narrow_one_does_not(tmp_path):
    state = state_of("resnet12")
    theirs = {f"encoder.{name.replace('.0.', '.', 1)}": tensor for name, tensor in state.items()}
    assert {"encoder.layer1.conv1.weight", "encoder.layer1.downsample.0.weight"} <= theirs.keys()
    assert_loaded(load("resnet12", {"model_sd": theirs}, tmp_path / "w.pth", native_size=32), state)
    narrow = {**theirs, "encoder.layer2.conv1.weight": torch.zeros(128, 64, 3, 3)}
    with pytest.raises(WeightsError, match="not for this backbone"):
        load("resnet12", {"model_sd": narrow}, tmp_path / "w.pth", native_size=32)


def test_equal_tensors_are_equal_weights_whatever_holds_them(tmp_path):
    state = state_of(RESNET)
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"state_dict": below("module.", state), "args": ARGS}, tmp_path / "b.pth")
    torch.save(
        {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in state.items()},
        tmp_path / "c.pt",
    )
    digests = {create_backbone(BackboneRequest(RESNET, weights=path)).weights for path in tmp_path.glob("?.*")}
    assert len(digests) == 1
