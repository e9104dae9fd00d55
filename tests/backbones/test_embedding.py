from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import toy_split

from fewshot_bench.backbones import Backbone, Preprocessing, embed
from fewshot_bench.errors import EmbeddingError


class Counting(torch.nn.Module):
    """Mean and spread of each channel; remembers how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.calls = 0

    def forward(self, pixels):
        self.calls += 1
        return self.scale * torch.cat([pixels.mean((2, 3)), pixels.std((2, 3))], dim=1)


def backbone(**preprocessing) -> Backbone:
    options = {"image_size": 16, "mean": (0.5,) * 3, "std": (0.25,) * 3, **preprocessing}
    return Backbone("counting", Counting(), Preprocessing(**options), 6, is_pretrained=True)


def test_embeddings_are_the_network_s_output_in_canonical_order():
    split = toy_split()
    embeddings = embed(split, backbone(), batch_size=7, use_cache=False)
    expected = (split.images / 255 - 0.5).mean(axis=(1, 2)) / 0.25
    np.testing.assert_allclose(embeddings[:, :3], expected, rtol=1e-4, atol=1e-5)


def test_batch_size_never_changes_an_embedding():
    split = toy_split(images=40)
    assert np.allclose(*(embed(split, backbone(), batch_size=size, use_cache=False) for size in (3, 300)), atol=1e-6)


def test_nan_embeddings_are_refused_with_the_image():
    broken = backbone()
    torch.nn.init.constant_(broken.network.scale, float("nan"))
    with pytest.raises(EmbeddingError, match=r"NaN or infinite embeddings for 192 images .* first novel-0/0000"):
        embed(toy_split(), broken)


@pytest.mark.parametrize("at_once", [1, 1 << 30])
def test_an_augmentation_is_told_which_images_it_gets(monkeypatch, at_once):
    split = toy_split(classes=20, images=30)
    monkeypatch.setattr("fewshot_bench.backbones.embedding._AUGMENTED_VALUES", at_once)
    seen = []

    def brighten(images, which):
        seen.append(which)
        assert (images.permute(0, 2, 3, 1).numpy() == split.images[which]).all()
        return images // 2 + 100

    views = embed(split, backbone(), augment=brighten, use_cache=False)
    assert len(seen) == (3 if at_once == 1 else 1)
    expected = ((split.images // 2 + 100) / 255 - 0.5).mean(axis=(1, 2)) / 0.25
    np.testing.assert_allclose(views[:, :3], expected, rtol=1e-4, atol=1e-5)


def test_grey_images_become_three_channels_and_colour_one():
    grey = torch.full((2, 1, 8, 8), 255, dtype=torch.uint8)
    three = Preprocessing(8, (0.5,) * 3, (0.5,) * 3)(grey)
    assert three.shape == (2, 3, 8, 8)
    assert (three == 1).all()
    one = Preprocessing(8, (0.0,), (1.0,))(grey.expand(2, 3, 8, 8))
    assert torch.allclose(one, torch.ones(2, 1, 8, 8))


def test_resizing_never_leaves_the_range_of_pixels():
    images = (torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5).to(torch.uint8) * 255
    resized = Preprocessing(32, (0.0,) * 3, (1.0,) * 3)(images)
    assert resized.shape[-2:] == (32, 32)
    assert resized.min() >= 0
    assert resized.max() <= 1


def test_the_digest_of_the_weights_is_taken_from_the_weights():
    first, second = backbone(), backbone()
    assert first.weights == second.weights
    torch.nn.init.constant_(second.network.scale, 3.0)
    assert replace(second).weights != first.weights
