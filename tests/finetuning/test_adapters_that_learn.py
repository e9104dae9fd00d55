"""An adapter of a layer that the network uses past its forward pass could never learn; it is not counted as tuned."""

from __future__ import annotations

import torch
from tiny_episodes import IMAGES, made_network, normalise, setup

from fewshot_bench.finetuning.recipe import EpisodeRecipe


def test_beit_has_adapters_everywhere_but_where_it_takes_the_matrix_by_hand():
    network = made_network("beit_base_patch16_224", depth=2, embed_dim=48, num_heads=2)
    parts = setup(network, EpisodeRecipe(tune="lora:2")).parts
    assert parts.tuned
    assert not any("qkv" in name for name in parts.tuned)
    images = normalise(torch.from_numpy(IMAGES[:2]).permute(0, 3, 1, 2))
    embeddings = parts.rest(parts.inputs(images))
    own = dict(parts.rest.named_parameters())
    gradients = torch.autograd.grad(embeddings.square().sum(), [own[name] for name in parts.tuned], allow_unused=True)
    assert all(gradient is not None for gradient in gradients)
