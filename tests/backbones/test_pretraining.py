"""What the weights of a backbone have seen is said by where they came from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file

from fewshot_bench.backbones import BACKBONES, BackboneRequest, create_backbone
from fewshot_bench.backbones.backbone import default_pretraining, pretraining_of_tag, then


@pytest.mark.parametrize(
    ("tag", "corpora"),
    [
        ("in1k", "ImageNet-1k"),
        ("augreg_in21k_ft_in1k", "ImageNet-21k, ImageNet-1k"),
        ("fb_in22k_ft_in1k_384", "ImageNet-22k, ImageNet-1k"),
        ("laion2b_ft_in12k_in1k", "LAION-2B, ImageNet-12k, ImageNet-1k"),
        ("openai", "WIT-400M"),
        ("lvd142m", "LVD-142M"),
        ("dino", "unknown"),
        ("", "unknown"),
    ],
)
def test_a_tag_of_timm_names_the_corpora(tag, corpora):
    assert pretraining_of_tag(tag) == corpora


def test_every_imagenet_tag_of_timm_is_understood():
    for name in timm.list_pretrained():
        tag = name.partition(".")[2]
        if any(word in tag.split("_") for word in ("in1k", "in12k", "in21k", "in22k")):
            assert "ImageNet-" in pretraining_of_tag(tag), name


def test_a_name_says_what_its_default_weights_have_seen():
    assert default_pretraining("efficientnet_lite0") == "ImageNet-1k"
    assert default_pretraining("timm:resnet18.a1_in1k") == "ImageNet-1k"
    assert default_pretraining("resnet18") == default_pretraining("timm:resnet18") == "ImageNet-1k"
    assert default_pretraining("timm:no_such_model") == "unknown"
    assert default_pretraining("somebody.module:network") == "unknown"


def test_an_initialisation_has_seen_nothing_and_a_file_of_weights_does_not_say(tmp_path):
    fresh = create_backbone(BackboneRequest("conv4_32"))
    assert (fresh.is_pretrained, fresh.pretraining) == (False, "")
    save_file(fresh.network.state_dict(), tmp_path / "mine.safetensors")
    loaded = create_backbone(BackboneRequest("conv4_32", weights=tmp_path / "mine.safetensors"))
    assert loaded.pretraining == "unknown"
    network = timm.create_model("resnet10t", num_classes=0)
    save_file(network.state_dict(), tmp_path / "timm.safetensors")
    assert create_backbone(BackboneRequest("timm:resnet10t", weights=tmp_path / "timm.safetensors")).pretraining == (
        "unknown"
    )


def test_timm_weights_say_it_by_their_tag(monkeypatch):
    create = timm.create_model
    monkeypatch.setattr("fewshot_bench.backbones.timm_backbones.why_not_fetchable", lambda model: "")
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **options: create(name, **options))
    assert create_backbone("timm:resnet18.fb_swsl_ig1b_ft_in1k").pretraining == "Instagram-1B, ImageNet-1k"


def test_a_backbone_of_somebody_else_says_it_or_is_unknown(monkeypatch):
    own = replace(create_backbone("conv4_32"), is_pretrained=True)
    monkeypatch.setattr(BACKBONES, "_entries", dict(BACKBONES._entries))
    BACKBONES.register("silent", "says nothing")(lambda request: own)
    BACKBONES.register("factual", "says it in its facts", pretrained="CUB")(lambda request: own)
    BACKBONES.register("open", "says it itself")(lambda request: replace(own, pretraining="iNaturalist"))
    found = [create_backbone(name).pretraining for name in ("silent", "factual", "open")]
    assert found == ["unknown", "CUB", "iNaturalist"]
    assert torch.equal(*(next(create_backbone("silent").network.parameters()) for _ in range(2)))


def test_stages_without_pretraining_leave_no_trace():
    assert then("", "base split of cifar-fs") == "base split of cifar-fs"
    assert then("ImageNet-1k", "base split of cifar-fs") == "ImageNet-1k, base split of cifar-fs"
