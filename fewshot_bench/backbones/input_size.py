"""Which image sizes a network takes and how wide its embeddings are, found by running it on an image of zeros."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from fewshot_bench.errors import StudyError

_STEPS = (1, 2, 4, 7, 8, 12, 14, 16, 20, 24, 28, 32, 48, 64, 96, 128)
"""A network may need image sizes that are multiples of one of these."""
_COARSE = 32


def embedding_size(network: nn.Module, channels: int, size: int, name: str, own_size: int) -> int:
    """D for images of a size, to which the network is set if it takes several sizes.

    Args:
        network: on the CPU; changed if it has timm's `set_input_size` and the size is not its own.
        channels: of the images.
        size: their side.
        name: of the network, for messages.
        own_size: the image size that the network was made for.

    Raises:
        StudyError: the network does not take images of that size, or does not give embeddings.
    """
    unchanged = _copy(network)
    try:
        if size != own_size:
            _set_size(network, size)
        embeddings = probed(network, channels, size)
    except Exception as error:  # a network may raise anything
        # Only now, since finding the sizes it takes needs several forward passes.
        sizes = "" if size == own_size else _sizes_taken(unchanged, channels, size, own_size)
        if not sizes:
            raise StudyError(f"{name} cannot embed images of {size} px: {_first_line(error)}.") from error
        raise StudyError(sizes.format(name=name, size=size)) from error
    if not isinstance(embeddings, Tensor) or not embeddings.is_floating_point() or embeddings.shape[1:].numel() < 1:
        raise StudyError(f"{name} gives {_described(embeddings)}, not an embedding [1, D]. Use a network that does.")
    if embeddings.ndim != 2 or len(embeddings) != 1:
        raise StudyError(f"{name} gives {_described(embeddings)}, not an embedding [1, D]. Use one that pools them.")
    if not embeddings.isfinite().all():
        raise StudyError(f"{name} gives NaN or infinite values for a black image of {size} px. Check its weights.")
    return int(embeddings.shape[1])


def probed(network: nn.Module, channels: int, size: int) -> Any:
    """The output of a network on the CPU for one image of zeros, [1, channels, size, size].

    A copy is run, because some networks (LeViT) cache tables made of their parameters and would not notice when weights
    are loaded. The copy shares the parameters. Random numbers are restored.

    Raises:
        Exception: whatever the network raises.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        return _copy(network).eval()(torch.zeros(1, channels, size, size))


def _set_size(network: nn.Module, size: int) -> None:
    set_input_size: Any = getattr(network, "set_input_size", None)
    if set_input_size is not None:  # transformers carry position embeddings of one size
        set_input_size(img_size=size)


def _copy(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network, {id(parameter): parameter for parameter in network.parameters()})


def _sizes_taken(network: nn.Module, channels: int, size: int, own_size: int) -> str:
    """A sentence on the sizes that a network takes; empty if it does not even take its own."""

    @cache
    def takes(side: int) -> bool:
        try:
            other = _copy(network)
            if side != own_size:
                _set_size(other, side)
            probed(other, channels, side)
        except Exception:
            return False
        return True

    if not takes(own_size):
        return ""
    # Some networks round sizes down to multiples of a number, and take a few beside their own.
    step = next((step for step in _STEPS if own_size % step == 0 and _takes_steps(takes, own_size, step)), None)
    if step is None or not any(takes(side // step * step) for side in (own_size // 2, own_size * 2)):
        return f"{{name}} takes {own_size} px only. Use --image-size {own_size}."
    below, above = size // step * step, -(-size // step) * step
    if below != above:
        near = [str(side) for side in (below, above) if side and takes(side)] or [str(own_size)]
        return f"{{name}} takes multiples of {step} px, not {{size}} px. Use --image-size {' or '.join(near)}."
    towards = range(size, own_size, _COARSE if size < own_size else -_COARSE)
    coarse = [side // _COARSE * _COARSE for side in towards][1:]
    if any(takes(one) and not takes(other) for one, other in pairwise([*coarse, own_size])):
        # More than a bound decides, so only the nearest size that works is named.
        return f"{{name}} does not take {{size}} px. Use --image-size {next(filter(takes, coarse))}."
    fails, works = size // step, own_size // step
    while abs(works - fails) > 1:
        middle = (fails + works) // 2
        fails, works = (fails, middle) if takes(middle * step) else (middle, works)
    if abs(own_size - works * step) < own_size // 10:  # a few near its own, which it rounds
        return f"{{name}} does not take {{size}} px. Use --image-size {own_size}."
    word, bound = ("small", "more") if size < own_size else ("large", "less")
    return f"{{size}} px is too {word} for {{name}}. Use --image-size {works * step} or {bound}."


def _takes_steps(takes: Callable[[int], bool], own_size: int, step: int) -> bool:
    return (own_size > step and takes(own_size - step)) or takes(own_size + step)


def _described(output: Any) -> str:
    """The output for one image in words."""
    if not isinstance(output, Tensor):
        return f"a {type(output).__name__}"
    kind = "" if output.is_floating_point() else f" of {str(output.dtype).removeprefix('torch.')}"
    return f"{list(output.shape)}{kind} for one image"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
