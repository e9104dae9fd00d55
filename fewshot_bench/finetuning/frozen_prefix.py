"""The layers before the first tuned one: they give the same output in every step, so they run once.

A network is not taken apart. Stand-ins replace its modules before the cut, the last of them returns an activation that
was computed before, and the network's own forward pass continues from there. That is wrong where something bypasses the
cut, so a cut is taken only if noisy images give the same embeddings with it and without.

`NetworkParts` is a backbone prepared so: what is frozen in front, what is trained behind, and its first weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fewshot_bench.backbones.task_head import TaskHead
from fewshot_bench.backbones.weights_file import BaseHead
from fewshot_bench.devices import full_float32_products
from fewshot_bench.errors import StudyError
from fewshot_bench.finetuning.head import has_batch_norm, tuned_of_base_head
from fewshot_bench.finetuning.recipe import EpisodeRecipe
from fewshot_bench.finetuning.tuned_parameters import (
    TunedNetwork,
    as_if_trained,
    parse_tuning,
    tuned_network,
)

_MOST_CUTS_TRIED = 32


@dataclass(frozen=True)
class FrozenPrefix:
    """A network in two parts.

    Attributes:
        first: images [B, C, S, S] -> activation [B, ...], with nothing to train.
        rest: activation -> embeddings [B, D]; parameters keep their names under "network.".
    """

    first: Callable[[Tensor], Tensor]
    rest: nn.Module


class _ReachedError(Exception):
    """Ends a forward pass after the last module of the prefix."""


class Unused(nn.Module):
    """Stands in for a module whose output is not used."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape = shape
        self.episodes_in_channels = 1

    def forward(self, inputs: Tensor, *_: Any, **__: Any) -> Tensor:
        """Zeros of the right shape, without memory behind them."""
        channels = [self.shape[1] * self.episodes_in_channels] if len(self.shape) > 1 else []
        return inputs.new_zeros(()).expand(len(inputs), *channels, *self.shape[2:])


class _Activation(nn.Module):
    """Stands in for the last module of the prefix and returns the activation computed before."""

    def __init__(self) -> None:
        super().__init__()
        self.activation: Tensor | None = None

    def forward(self, *_: Any, **__: Any) -> Tensor:
        """The activation at the cut."""
        assert self.activation is not None
        return self.activation


class RestOfNetwork(nn.Module):
    """The network from an activation on."""

    def __init__(self, network: nn.Module, cut: str, image: torch.Size) -> None:
        super().__init__()
        self.network, self._cut, self._image = network, cut, image

    def forward(self, activation: Tensor) -> Tensor:
        """Embed, [B, ...] -> [B, D]."""
        stand_in: Any = self.network.get_submodule(self._cut)
        stand_in.activation = activation
        image = activation.new_zeros(()).expand(len(activation), *self._image[1:])
        try:
            embeddings: Tensor = self.network(image)
        finally:
            stand_in.activation = None
        return embeddings


def frozen_prefix(network: nn.Module, tuned: Sequence[str], sample: Tensor) -> FrozenPrefix | None:
    """The longest part at the beginning of a network that training does not change.

    Args:
        network: in evaluation mode, images [B, C, S, S] -> [B, D].
        tuned: names of the trained parameters.
        sample: two images as the network takes them, [2, C, S, S].

    Returns:
        The two parts; None if the first module is tuned, or no cut gives the same embeddings.
    """
    with torch.no_grad(), full_float32_products():
        trained = as_if_trained(network, tuned)
        # An image of one colour would hide what depends on it, so noise is added.
        sample = sample + torch.randn(sample.shape, generator=torch.Generator().manual_seed(0)).to(sample)
        expected = trained(sample)
        exits = _exits_before_tuned(trained, set(tuned), sample)
        for cut in list(reversed(exits))[:_MOST_CUTS_TRIED]:
            parts = _cut(network, cut, exits, sample)
            # The front keeps its weights from before training; the rest has those from after it.
            if _agrees(FrozenPrefix(parts.first, _cut(trained, cut, exits, sample).rest), sample, expected):
                return parts
    return None


@dataclass(frozen=True)
class _Exit:
    path: str
    shape: torch.Size


def _exits_before_tuned(network: nn.Module, tuned: set[str], sample: Tensor) -> list[_Exit]:
    """The modules that return one tensor before the first module with tuned weights starts, in that order."""
    owners = {name.rpartition(".")[0] for name in tuned}
    exits: list[_Exit] = []
    is_over = "" in owners
    hooks = []

    def enter(path: str) -> Callable[..., None]:
        def note(*_: Any) -> None:
            nonlocal is_over
            is_over = is_over or path in owners

        return note

    def leave(path: str) -> Callable[..., None]:
        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            if not is_over and isinstance(output, Tensor) and len(output) == len(sample):
                exits.append(_Exit(path, output.shape))

        return note

    for path, module in network.named_modules():
        if path:
            hooks += [module.register_forward_pre_hook(enter(path)), module.register_forward_hook(leave(path))]
    try:
        network(sample)
    finally:
        for hook in hooks:
            hook.remove()
    return exits


def _cut(network: nn.Module, cut: _Exit, exits: Sequence[_Exit], sample: Tensor) -> FrozenPrefix:
    rest = copy.deepcopy(network)
    before = {exit_.path: exit_ for exit_ in exits[: exits.index(cut)]}
    rest.set_submodule(cut.path, _Activation())
    for path, exit_ in before.items():
        is_inside_another = any(path.startswith(f"{other}.") for other in [*before, cut.path])
        if not is_inside_another:
            rest.set_submodule(path, Unused(exit_.shape))

    def first(images: Tensor) -> Tensor:
        return _output_of(network, cut.path, images)

    return FrozenPrefix(first, RestOfNetwork(rest, cut.path, sample.shape).eval())


def _output_of(network: nn.Module, path: str, images: Tensor) -> Tensor:
    """The output of a module inside a network; nothing after it is computed."""
    found: list[Tensor] = []

    def stop(module: nn.Module, inputs: Any, output: Tensor) -> None:
        found.append(output)
        raise _ReachedError

    handle = network.get_submodule(path).register_forward_hook(stop)
    try:
        with suppress(_ReachedError):
            network(images)
    finally:
        handle.remove()
    return found[0]


def _agrees(parts: FrozenPrefix, sample: Tensor, expected: Tensor) -> bool:
    try:
        found = parts.rest(parts.first(sample))
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
        return False
    if found.shape != expected.shape:
        return False
    return bool(torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())))


_IMAGES_AT_ONCE = 256
_IMAGES_AT_ONCE_ON_CPU = 32
"""Activations should stay near the caches: 256 images take half as long again."""


@dataclass(frozen=True, eq=False)
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
        task_head: where the heads start, if the recipe's were trained.
    """

    first: Callable[[Tensor], Tensor] | None
    rest: nn.Module
    tuned: tuple[str, ...]
    sample: Tensor
    embedding_size: int
    base_head: BaseHead | None = None
    tuned_of_base_head: tuple[str, ...] = ()
    task_head: TaskHead | None = None

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
        if images.ndim == 4:  # pooling is ten times faster in this layout on a CPU
            images = images.contiguous(memory_format=torch.channels_last)
        at_once = _IMAGES_AT_ONCE_ON_CPU if images.device.type == "cpu" else _IMAGES_AT_ONCE
        return torch.cat([self.first(part) for part in torch.split(images, at_once)])


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
