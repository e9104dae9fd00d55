"""A network is asked what it gives and which images it takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from conftest import toy_split

from fewshot_bench.backbones import Backbone, BackboneRequest, Preprocessing, create_backbone, embed
from fewshot_bench.backbones.timm_backbones import embedding_size, probed
from fewshot_bench.errors import EmbeddingError, StudyError, WeightsError


def with_file(name: str, folder: Path, **options) -> Backbone:
    torch.manual_seed(0)
    torch.save(timm.create_model(name, num_classes=0).state_dict(), folder / "w.pth")
    return create_backbone(BackboneRequest(f"timm:{name}", weights=folder / "w.pth", **options))


WIDTHS = {
    "mobilenetv3_small_050": 1024,
    "lcnet_035": 1280,
    "ghostnet_050": 1280,
    "efficientvit_b0": 1280,
    "hgnetv2_b0": 2048,
    "resnet10t": 512,
    "test_vit": 64,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WIDTHS)
def test_d_is_what_the_network_gives(tmp_path, name):
    backbone = with_file(name, tmp_path, image_size=64)
    assert backbone.embedding_size == WIDTHS[name]
    split = toy_split(classes=2, images=2)
    assert embed(split, backbone, use_cache=False).shape == (4, WIDTHS[name])


REFUSED = {
    ("pit_ti_224", 96): "timm:pit_ti_224 takes 224 px only. Use --image-size 224.",
    ("gmlp_ti16_224", 96): "timm:gmlp_ti16_224 takes 224 px only. Use --image-size 224.",
    ("levit_128s", 96): "timm:levit_128s takes 224 px only. Use --image-size 224.",
    ("levit_128s", 448): "timm:levit_128s takes 224 px only. Use --image-size 224.",
    ("coat_tiny", 64): "timm:coat_tiny takes 224 px only. Use --image-size 224.",
    ("inception_v3", 32): "32 px is too small for timm:inception_v3. Use --image-size 75 or more.",
    ("test_vit", 8): "timm:test_vit takes multiples of 16 px, not 8 px. Use --image-size 16.",
    ("test_vit", 100): "timm:test_vit takes multiples of 16 px, not 100 px. Use --image-size 96 or 112.",
    ("conv4_32", 8): "8 px is too small for timm:conv4_32. Use --image-size 16 or more.",
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), REFUSED)
def test_a_size_that_a_network_does_not_take_is_refused_with_those_it_takes(name, size):
    with pytest.raises(StudyError) as refused:
        create_backbone(BackboneRequest(f"timm:{name}", image_size=size), is_stand_in=True)
    assert str(refused.value) == REFUSED[name, size]
    named = int(str(refused.value).rpartition("--image-size ")[2].split()[0].rstrip("."))
    request = BackboneRequest(f"timm:{name}", image_size=named)
    assert create_backbone(request, is_stand_in=True).embedding_size > 0, "the way out is one"


class Gives(torch.nn.Module):
    """A network with one answer."""

    def __init__(self, answer) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


NO_EMBEDDINGS = {
    "a map": (torch.zeros(1, 8, 2, 2), "gives [1, 8, 2, 2] for one image, not an embedding [1, D]"),
    "a sequence": (torch.zeros(1, 4, 8), "gives [1, 4, 8] for one image"),
    "a vector": (torch.zeros(8), "gives [8] for one image"),
    "a scalar": (torch.tensor(1.0), "gives [] for one image"),
    "two rows": (torch.zeros(2, 8), "gives [2, 8] for one image"),
    "no columns": (torch.zeros(1, 0), "gives [1, 0] for one image"),
    "whole numbers": (torch.zeros(1, 8, dtype=torch.int64), "gives [1, 8] of int64 for one image"),
    "complex numbers": (torch.zeros(1, 8, dtype=torch.complex64), "gives [1, 8] of complex64 for one image"),
    "a tuple": ((torch.zeros(1, 8),), "gives a tuple, not an embedding"),
    "nothing": (None, "gives a NoneType, not an embedding"),
    "NaN": (torch.full((1, 8), torch.nan), "gives NaN or infinite values"),
    "infinity": (torch.full((1, 8), torch.inf), "gives NaN or infinite values"),
    "a RuntimeError": (RuntimeError("mat1 and mat2\ndo not fit"), "cannot embed images of 32 px: mat1 and mat2."),
    "an AssertionError": (AssertionError(), "cannot embed images of 32 px: AssertionError."),
    "a KeyError": (KeyError("x"), "cannot embed images of 32 px: 'x'."),
}


@pytest.mark.parametrize("kind", NO_EMBEDDINGS)
def test_what_is_no_embedding_is_described_in_one_line(kind):
    answer, told = NO_EMBEDDINGS[kind]
    with pytest.raises(StudyError) as refused:
        embedding_size(Gives(answer), 3, 32, "mine", 32)
    assert str(refused.value).startswith("mine ")
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


class Remembering(torch.nn.Module):
    """Draws random numbers, keeps what it computed of its weights, and counts in a buffer, even in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(3)
        self.register_buffer("calls", torch.zeros(1))
        self.kept: dict[str, torch.Tensor] = {}

    def forward(self, images):
        self.calls += 1
        torch.rand(1)
        self.kept.setdefault("bias", self.norm.weight * 2)
        return self.norm(images).mean((2, 3)) + self.kept["bias"]


@pytest.mark.parametrize("is_training", [False, True])
def test_asking_changes_neither_the_network_nor_the_randomness(is_training):
    network = Remembering().train(is_training)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    assert probed(network, 3, 8).shape == (1, 3)
    assert torch.equal(torch.rand(2), expected)
    assert network.kept == {}
    assert network.training is is_training
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in before.items())


def test_weights_that_are_loaded_later_are_those_that_embed():
    """LeViT keeps a table of attention biases that it made of its parameters."""
    torch.manual_seed(0)
    other = timm.create_model("levit_128s", num_classes=0).eval()
    for name, parameter in other.named_parameters():
        if "attention_biases" in name:
            torch.nn.init.normal_(parameter)
    network = create_backbone("timm:levit_128s", is_stand_in=True).network
    network.load_state_dict(other.state_dict())
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.allclose(network(images), other(images), atol=1e-5)


class TestWeightsOfAnotherSize:
    """`test_vit` is made for 160 px."""

    @staticmethod
    def saved(folder: Path, **options) -> tuple[torch.nn.Module, Path]:
        torch.manual_seed(0)
        network = timm.create_model("test_vit", num_classes=0, **options).eval()
        torch.nn.init.normal_(network.pos_embed)
        torch.save({"model": network.state_dict()}, folder / "w.pth")
        return network, folder / "w.pth"

    def test_are_resampled_to_the_size_that_is_asked_for(self, tmp_path):
        network, path = self.saved(tmp_path)
        backbone = create_backbone(BackboneRequest("timm:test_vit", image_size=96, weights=path))
        network.set_input_size(img_size=96)
        images = torch.rand(2, 3, 96, 96)
        with torch.no_grad():
            assert torch.equal(backbone.network(images), network(images))
        assert backbone.fit["weights_size"] == 160

    @pytest.mark.parametrize("size", [96, 224])
    def test_load_into_a_network_of_theirs(self, tmp_path, size):
        network, path = self.saved(tmp_path, img_size=size)
        backbone = create_backbone(BackboneRequest("timm:test_vit", image_size=size, weights=path))
        images = torch.rand(2, 3, size, size)
        with torch.no_grad():
            assert torch.equal(backbone.network(images), network(images))
        assert backbone.fit == {"prefix": "model.", "weights_size": size}

    @pytest.mark.parametrize(("made_for", "asked"), [(96, None), (96, 128), (224, 96)])
    def test_are_resampled_from_theirs(self, tmp_path, made_for, asked):
        network, path = self.saved(tmp_path, img_size=made_for)
        backbone = create_backbone(BackboneRequest("timm:test_vit", image_size=asked, weights=path))
        size = asked or 160
        network.set_input_size(img_size=size)
        images = torch.rand(2, 3, size, size)
        with torch.no_grad():
            assert torch.equal(backbone.network(images), network(images))
        assert backbone.fit["weights_size"] == made_for

    def test_of_position_embeddings_that_claim_to_be_huge_make_no_huge_network(self, tmp_path, monkeypatch):
        network, _ = self.saved(tmp_path)
        torch.save({**network.state_dict(), "pos_embed": torch.zeros(1).expand(1, 10**12, 64)}, tmp_path / "w.pth")
        create, sizes = timm.create_model, []
        monkeypatch.setattr(timm, "create_model", lambda *a, **o: sizes.append(o.get("img_size")) or create(*a, **o))
        with pytest.raises(WeightsError, match="'pos_embed' is"):
            create_backbone(BackboneRequest("timm:test_vit", weights=tmp_path / "w.pth"))
        assert sizes == [None]

    def test_of_a_network_that_takes_one_size_say_so(self, tmp_path):
        torch.save(timm.create_model("pit_ti_224", num_classes=0, img_size=96).state_dict(), tmp_path / "w.pth")
        request = BackboneRequest("timm:pit_ti_224", image_size=96, weights=tmp_path / "w.pth")
        assert create_backbone(request).embedding_size == 256


def test_a_network_of_ones_own_that_gives_other_embeddings_than_it_says_is_named():
    class Own(torch.nn.Module):
        def forward(self, images):
            return images.mean((2, 3))

    for size in (2, 4):
        backbone = Backbone("mine", Own(), Preprocessing(16, (0.5,) * 3, (0.5,) * 3), size, is_pretrained=True)
        expected = (
            rf"the network Own gave a tensor \[8, 3\] of float32; embeddings \[B, D\] = \[8, {size}\] in floating"
        )
        with pytest.raises(EmbeddingError, match=expected):
            embed(toy_split(classes=2, images=4), backbone, use_cache=False)
