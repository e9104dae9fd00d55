"""A backbone prepared for fine-tuning: what is frozen in front, what is trained behind, and its first weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fewshot_bench.backbones.base_head import BaseHead
from fewshot_bench.errors import StudyError
from fewshot_bench.finetuning.batch_norm import has_batch_norm
from fewshot_bench.finetuning.frozen_prefix import frozen_prefix
from fewshot_bench.finetuning.head import tuned_of_base_head
from fewshot_bench.finetuning.recipe import EpisodeRecipe
from fewshot_bench.finetuning.tuned_parameters import TunedNetwork, as_if_trained, parse_tuning, tuned_network

_IMAGES_AT_ONCE = 256


@dataclass(frozen=True)
class NetworkParts:
    """A network in a frozen and a tuned part.

    Attributes:
        first: normalised images [B, C, S, S] -> activation [B, ...]; None if the first layer is trained.
        rest: activation, or image -> embedding [B, D].
        tuned: names of the trained parameters of `rest`.
        sample: two inputs of `rest`.
        embedding_size: D.
        base_head: the classifier of base training, if the heads see its logits.
        tuned_of_base_head: "weight", "bias", both or neither.
    """

    first: Callable[[Tensor], Tensor] | None
    rest: nn.Module
    tuned: tuple[str, ...]
    sample: Tensor
    embedding_size: int
    base_head: BaseHead | None = None
    tuned_of_base_head: tuple[str, ...] = ()

    @property
    def feature_size(self) -> int:
        """Size of what a head sees of an image: its embedding, or the logits of the base classes."""
        return self.embedding_size if self.base_head is None else len(self.base_head.bias)

    @property
    def initial(self) -> dict[str, Tensor]:
        """The first weights of the trained parameters, by name."""
        own = dict(self.rest.named_parameters())
        return {name: own[name].detach() for name in self.tuned}

    @torch.no_grad()
    def inputs(self, images: Tensor) -> Tensor:
        """Inputs of `rest` for normalised images [B, C, S, S], computed a few at a time."""
        images = images.to(self.sample.dtype)
        if self.first is None:
            return images
        starts = range(0, len(images), _IMAGES_AT_ONCE)
        return torch.cat([self.first(images[start : start + _IMAGES_AT_ONCE]) for start in starts])


def network_parts(
    network: nn.Module, recipe: EpisodeRecipe, sample: Tensor, base_head: BaseHead | None = None
) -> NetworkParts:
    """Prepare a backbone.

    Args:
        network: images to embeddings [B, D]; it is not changed.
        recipe: what is tuned.
        sample: two normalised images, [2, C, S, S], on the device of the network.
        base_head: the classifier that the network was trained with; used if the recipe's heads see its logits.

    Raises:
        StudyError: there is nothing to tune, or no batch normalisation for the recipe's mode.
    """
    used_head = base_head if recipe.on == "logits" else None
    tuned = () if used_head is None else tuned_of_base_head(parse_tuning(recipe.tune).kind)
    dtype = torch.float64 if recipe.precision == "float64" else torch.float32
    chosen = tuned_network(network, recipe.tune, seed=recipe.seed)
    # The network may have come in another memory layout.
    chosen.network.to(dtype).to(memory_format=torch.contiguous_format)
    sample = sample.to(dtype)
    if recipe.bn != "frozen" and not has_batch_norm(chosen.network):
        raise StudyError(f"{type(network).__name__} has no batch normalisation for --bn {recipe.bn}; leave it out.")
    chosen = replace(chosen, tuned=_with_gradients(chosen, sample))
    # Layers that normalise over the batch depend on the step, so nothing can be computed before.
    may_be_cut = recipe.bn == "frozen"
    prefix = frozen_prefix(chosen.network, chosen.tuned, sample) if may_be_cut else None
    with torch.no_grad():
        size = int(chosen.network(sample).shape[-1])
        if prefix is None:
            return NetworkParts(None, chosen.network, chosen.tuned, sample, size, used_head, tuned)
        names = tuple(f"network.{name}" for name in chosen.tuned)
        return NetworkParts(prefix.first, prefix.rest, names, prefix.first(sample), size, used_head, tuned)


def _with_gradients(chosen: TunedNetwork, sample: Tensor) -> tuple[str, ...]:
    """The tuned parameters without adapters that the network bypasses, as BEiT does for qkv."""
    if not any(".lora_" in name for name in chosen.tuned):
        return chosen.tuned
    trained = as_if_trained(chosen.network, chosen.tuned)
    own = dict(trained.named_parameters())
    with torch.enable_grad():
        gradients = torch.autograd.grad(
            trained(sample).square().sum(), [own[name] for name in chosen.tuned], allow_unused=True
        )
    return tuple(name for name, gradient in zip(chosen.tuned, gradients, strict=True) if gradient is not None)


def embedding_parts(embedding_size: int, device: torch.device, base_head: BaseHead | None = None) -> NetworkParts:
    """The parts of a method that trains a head on embeddings computed before, or on their logits."""
    sample = torch.zeros(2, embedding_size, device=device)
    return NetworkParts(None, nn.Identity(), (), sample, embedding_size, base_head)
