"""The layers before the first tuned one: they give the same output in every step, so they run once.

A network is not taken apart. Stand-ins replace its modules before the cut, the last of them returns an activation that
was computed before, and the network's own forward pass continues from there. That is wrong where something bypasses the
cut, so a cut is taken only if noisy images give the same embeddings with it and without.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fewshot_bench.finetuning.tuned_parameters import as_if_trained, full_precision_products

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
    with torch.no_grad(), full_precision_products():
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
