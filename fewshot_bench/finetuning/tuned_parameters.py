"""Which weights of a backbone are trained: all, the last blocks, normalisation, biases, or low-rank adapters."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fewshot_bench.backbones.blocks import last_blocks
from fewshot_bench.errors import StudyError
from fewshot_bench.training.randomness import seeded_randomness

DEFAULT_RANK = 8
_NUMBER = "[0-9]{1,4}"
_SYNTAX = re.compile(
    rf"(?P<kind>all|norm|bias|head|lora(:(?P<rank>{_NUMBER}))?)?(?P<plus>\+)?(last:(?P<last>{_NUMBER}))?"
)


@dataclass(frozen=True)
class Tuning:
    """A parsed `--tune`.

    Attributes:
        kind: "all", "norm", "bias", "lora" or "head".
        last: only in that many last blocks; None for all blocks.
        rank: of the low-rank adapters.
    """

    kind: str
    last: int | None = None
    rank: int = DEFAULT_RANK


def parse_tuning(text: str) -> Tuning:
    """Read "all", "last:N", "norm", "bias", "lora[:rank]", "head", or "norm+last:N" and the like, else StudyError."""
    match = _SYNTAX.fullmatch(str(text))
    kind, last = (match["kind"], match["last"]) if match else (None, None)
    is_right = match is not None and text != "" and (match["plus"] is not None) == (None not in (kind, last))
    if not is_right or (last is not None and (int(last) < 1 or kind in ("all", "head"))):
        raise StudyError(
            "tune of finetune should be all, last:N, norm, bias, lora, lora:RANK or head, or norm+last:N, bias+last:N, "
            f"lora:RANK+last:N; not '{text}'."
        )
    assert match is not None
    rank = int(match["rank"] or DEFAULT_RANK)
    if rank < 1:
        raise StudyError("the rank of lora should be 1 or more, not 0.")
    kind = "lora" if (kind or "").startswith("lora") else kind or "all"
    return Tuning(kind, None if last is None else int(last), rank)


@dataclass(frozen=True)
class TunedNetwork:
    """A network and the names of its trained parameters.

    Attributes:
        network: in evaluation mode; with adapters where there are any.
        tuned: names of the trained parameters, in the network's order.
    """

    network: nn.Module
    tuned: tuple[str, ...]


def tuned_network(network: nn.Module, text: str, *, seed: int = 0) -> TunedNetwork:
    """Choose the parameters to train, and add low-rank adapters if asked for.

    Args:
        network: images to embeddings; it is not changed.
        text: as `parse_tuning` reads it.
        seed: of the adapters' first weights.

    Raises:
        StudyError: there are fewer blocks than asked for, or no weights to train.
    """
    tuning = parse_tuning(text)
    network = copy.deepcopy(network).eval()
    allowed = {name for name, _ in network.named_parameters()}
    if tuning.last is not None:
        allowed = last_blocks(network, tuning.last)
    if tuning.kind == "lora":
        network = with_adapters(network, allowed, tuning.rank, seed)
        return TunedNetwork(network, tuple(name for name, _ in network.named_parameters() if ".lora_" in name))
    chosen = [name for name, _ in network.named_parameters() if name in allowed and _is_of_kind(network, name, tuning)]
    if not chosen and tuning.kind != "head":
        raise StudyError(f"--tune {text} trains nothing: {type(network).__name__} has no such weights there.")
    return TunedNetwork(network, tuple(chosen))


def _is_of_kind(network: nn.Module, name: str, tuning: Tuning) -> bool:
    path, _, own = name.rpartition(".")
    if tuning.kind == "norm":
        return "Norm" in type(network.get_submodule(path)).__name__
    if tuning.kind == "bias":
        return own == "bias" or own.endswith("_bias")
    return tuning.kind == "all"


def with_adapters(network: nn.Module, allowed: set[str], rank: int, seed: int) -> nn.Module:
    """Add low-rank adapters (Hu et al., 2022) to the linear layers of a network, or else to its convolutions.

    PEFT adds the product of two small matrices to that of the frozen one, so many episodes share one large product.
    `torch.nn.utils.parametrize` would sum the matrices first and give each episode a whole one. Only layers of the
    allowed parameters get adapters, whose scaling is one. The product of their first weights is zero for every seed.

    Raises:
        StudyError: PEFT is not installed, or there is no layer to adapt.
    """
    layers = _adaptable(network, allowed)
    if not layers:
        raise StudyError(f"{type(network).__name__} has no linear layer or convolution there for --tune lora.")
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise StudyError("--tune lora needs the package peft. Run: pip install 'fewshot-bench[lora]'") from error
    # A pattern of whole paths, since names in a list also match every layer whose path ends like them.
    paths = "|".join(re.escape(path) for path in layers)
    config = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, bias="none", target_modules=paths)
    with seeded_randomness(seed):
        adapted: Any = inject_adapter_in_model(config, network)
    module: nn.Module = adapted
    return module.eval()


def _adaptable(network: nn.Module, allowed: set[str]) -> list[str]:
    for kind in (nn.Linear, nn.Conv2d):
        found = [
            path
            for path, module in network.named_modules()
            if type(module) is kind and f"{path}.weight" in allowed and getattr(module, "groups", 1) == 1
        ]
        if found:
            return found
    return []


def perturbed(weight: Tensor, generator: torch.Generator) -> Tensor:
    """A weight with noise, so that its effect shows even where it starts at zero, as adapters do."""
    noise = torch.randn(weight.shape, generator=generator).to(weight)
    return weight + 0.1 * noise * (weight.abs().mean() + 0.1)


def as_if_trained(network: nn.Module, tuned: Sequence[str]) -> nn.Module:
    """A copy with perturbed weights where it will be trained, so that parts that start at zero have an effect."""
    trained = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if name in tuned:
                parameter.copy_(perturbed(parameter, generator))
    return trained
