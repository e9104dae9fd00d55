"""Which weights of a backbone are trained: everything, the last blocks, normalisation, biases, or low-rank adapters.

A backbone prepared for fine-tuning: what is frozen in front, what is trained behind, and its first weights.

The layers before the first tuned one: they give the same output in every step, so they are run once.

A network is not taken apart. Its modules before the cut are replaced by stand-ins, the last of which gives back
an activation that was computed before, and the network's own forward pass goes on from there. That could be wrong where
something bypasses the cut, so a cut is taken only if noisy images give the same embeddings with it and without.

Other weights than a network has, to see what depends on them.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fewshot_bench.backbones.base_head import BaseHead
from fewshot_bench.backbones.blocks import last_blocks
from fewshot_bench.errors import StudyError
from fewshot_bench.finetuning.head import has_batch_norm, tuned_of_base_head
from fewshot_bench.finetuning.recipe import EpisodeRecipe
from fewshot_bench.training.randomness import seeded_randomness

DEFAULT_RANK = 8
_NUMBER = "[0-9]{1,4}"
_SYNTAX = re.compile(
    rf"(?P<kind>all|norm|bias|head|lora(:(?P<rank>{_NUMBER}))?)?(?P<plus>\+)?(last:(?P<last>{_NUMBER}))?"
)


@dataclass(frozen=True)
class Tuning:
    """What `--tune` says.

    Attributes:
        kind: "all", "norm", "bias", "lora" or "head".
        last: only in that many last blocks; None for anywhere.
        rank: of the low-rank adapters.
    """

    kind: str
    last: int | None = None
    rank: int = DEFAULT_RANK


def parse_tuning(text: str) -> Tuning:
    """Read "all", "last:N", "norm", "bias", "lora[:rank]", "head", or one of the middle three with "+last:N".

    Raises:
        StudyError: it is none of these.
    """
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
    """A network and what is trained of it.

    Attributes:
        network: in evaluation mode; with adapters where there are any.
        tuned: names of the trained parameters, in the network's order.
    """

    network: nn.Module
    tuned: tuple[str, ...]


def tuned_network(network: nn.Module, text: str, *, seed: int = 0) -> TunedNetwork:
    """Say which parameters are trained, and add low-rank adapters if asked.

    Args:
        network: images to embeddings; it is left as it is.
        text: what `parse_tuning` reads.
        seed: of the adapters' first weights.

    Raises:
        StudyError: there are fewer blocks than asked for, or nothing to train.
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
    """Low-rank adapters (Hu et al., 2022) on the linear layers of a network, or on its convolutions if it has none.

    PEFT makes them. Its layers keep the frozen matrix and add a product of two small ones, so that many episodes share
    one large product. `torch.nn.utils.parametrize` would sum the matrices first and give each episode a whole one.

    Args:
        network: is changed.
        allowed: names of the parameters whose layers may have adapters.
        rank: of the adapters, whose scaling is one.
        seed: of their first weights; the product starts at zero all the same.

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
    # A pattern of whole paths: names in a list also stand for every layer whose path ends like them.
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


@contextmanager
def whole_products() -> Iterator[None]:
    """Compare in full single precision: TF32, which cuDNN takes by default, rounds more than a comparison allows."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def disturbed(weight: Tensor, generator: torch.Generator) -> Tensor:
    """A weight with enough noise that whatever it does shows, also where it starts at zero as adapters do."""
    noise = torch.randn(weight.shape, generator=generator).to(weight)
    return weight + 0.1 * noise * (weight.abs().mean() + 0.1)


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
    """Ends a forward pass once the last module of the prefix has given its output."""


class Nothing(nn.Module):
    """Stands in for a module whose output nobody will use."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape = shape
        self.episodes_in_channels = 1

    def forward(self, inputs: Tensor, *_: Any, **__: Any) -> Tensor:
        """Zeros of the right shape, without memory behind them."""
        channels = [self.shape[1] * self.episodes_in_channels] if len(self.shape) > 1 else []
        return inputs.new_zeros(()).expand(len(inputs), *channels, *self.shape[2:])


class _Given(nn.Module):
    """Stands in for the last module of the prefix and gives back what it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.activation: Tensor | None = None

    def forward(self, *_: Any, **__: Any) -> Tensor:
        """The activation that the forward pass was started with."""
        assert self.activation is not None
        return self.activation


class RestOfNetwork(nn.Module):
    """The network from an activation on."""

    def __init__(self, network: nn.Module, cut: str, image: torch.Size) -> None:
        super().__init__()
        self.network, self._cut, self._image = network, cut, image

    def forward(self, activation: Tensor) -> Tensor:
        """Embed, [B, ...] -> [B, D]."""
        given: Any = self.network.get_submodule(self._cut)
        given.activation = activation
        image = activation.new_zeros(()).expand(len(activation), *self._image[1:])
        try:
            embeddings: Tensor = self.network(image)
        finally:
            given.activation = None
        return embeddings


def frozen_prefix(network: nn.Module, tuned: Sequence[str], sample: Tensor) -> FrozenPrefix | None:
    """Find the longest part at the beginning of a network that training leaves alone.

    Args:
        network: in evaluation mode, images [B, C, S, S] -> [B, D].
        tuned: names of the parameters that will be trained.
        sample: two images as the network takes them, [2, C, S, S].

    Returns:
        The two parts; None where the first module is tuned already, or no cut gives the same embeddings.
    """
    with torch.no_grad(), whole_products():
        trained = as_if_trained(network, tuned)
        # Noise on top: an image of one colour would hide what depends on it.
        sample = sample + torch.randn(sample.shape, generator=torch.Generator().manual_seed(0)).to(sample)
        expected = trained(sample)
        exits = _exits_before_tuned(trained, set(tuned), sample)
        for cut in list(reversed(exits))[:_MOST_CUTS_TRIED]:
            parts = _cut(network, cut, exits, sample)
            # In front with the weights from before training, behind with those from after it.
            if _agrees(FrozenPrefix(parts.first, _cut(trained, cut, exits, sample).rest), sample, expected):
                return parts
    return None


def as_if_trained(network: nn.Module, tuned: Sequence[str]) -> nn.Module:
    """A copy with other weights where it will be trained: a part that begins at zero must be seen to bypass a cut."""
    trained = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if name in tuned:
                parameter.copy_(disturbed(parameter, generator))
    return trained


@dataclass(frozen=True)
class _Exit:
    path: str
    shape: torch.Size


def _exits_before_tuned(network: nn.Module, tuned: set[str], sample: Tensor) -> list[_Exit]:
    """The modules that have given one tensor before the first module with tuned weights begins, in that order."""
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
    rest.set_submodule(cut.path, _Given())
    for path, exit_ in before.items():
        is_inside_another = any(path.startswith(f"{other}.") for other in [*before, cut.path])
        if not is_inside_another:
            rest.set_submodule(path, Nothing(exit_.shape))

    def first(images: Tensor) -> Tensor:
        return _output_of(network, cut.path, images)

    return FrozenPrefix(first, RestOfNetwork(rest, cut.path, sample.shape).eval())


def _output_of(network: nn.Module, path: str, images: Tensor) -> Tensor:
    """The output of a module inside a network; what comes after it is not computed."""
    found: list[Tensor] = []

    def stop(module: nn.Module, inputs: Any, output: Tensor) -> None:
        found.append(output)
        raise _ReachedError

    with _hooked(network.get_submodule(path), stop), suppress(_ReachedError):
        network(images)
    return found[0]


@contextmanager
def _hooked(module: nn.Module, hook: Callable[..., None]) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _agrees(parts: FrozenPrefix, sample: Tensor, expected: Tensor) -> bool:
    try:
        found = parts.rest(parts.first(sample))
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
        return False
    if found.shape != expected.shape:
        return False
    return bool(torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())))


_IMAGES_AT_ONCE = 256


@dataclass(frozen=True)
class NetworkParts:
    """A network in a frozen and a tuned part.

    Attributes:
        first: normalised images [B, C, S, S] -> activation [B, ...]; None where training begins at the first layer.
        rest: activation, or image -> embedding [B, D].
        tuned: names of the trained parameters of `rest`.
        sample: two inputs of `rest`.
        embedding_size: D.
        base_head: the classifier of the base training, where the heads see its logits.
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
        """How many numbers a head sees of an image: those of its embedding, or the logits of the base classes."""
        return self.embedding_size if self.base_head is None else len(self.base_head.bias)

    @property
    def initial(self) -> dict[str, Tensor]:
        """The first weights of what is trained, by name."""
        own = dict(self.rest.named_parameters())
        return {name: own[name].detach() for name in self.tuned}

    @torch.no_grad()
    def inputs(self, images: Tensor) -> Tensor:
        """What `rest` takes of normalised images [B, C, S, S], a few at a time."""
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
        network: images to embeddings [B, D]; it is left as it is.
        recipe: what is tuned.
        sample: two normalised images, [2, C, S, S], on the device of the network.
        base_head: the classifier that the network was trained with; used where the recipe's heads see its logits.

    Raises:
        StudyError: what should be tuned is not there, or there is no batch normalisation to be told how.
    """
    used_head = base_head if recipe.on == "logits" else None
    tuned = () if used_head is None else tuned_of_base_head(parse_tuning(recipe.tune).kind)
    dtype = torch.float64 if recipe.precision == "float64" else torch.float32
    chosen = tuned_network(network, recipe.tune, seed=recipe.seed)
    # A layout of its own, whatever was done with the network before.
    chosen.network.to(dtype).to(memory_format=torch.contiguous_format)
    sample = sample.to(dtype)
    if recipe.bn != "frozen" and not has_batch_norm(chosen.network):
        raise StudyError(f"{type(network).__name__} has no batch normalisation for --bn {recipe.bn}; leave it out.")
    chosen = replace(chosen, tuned=_that_learn(chosen, sample))
    # Layers that normalise over the batch would see another one; with them in training nothing can be computed before.
    may_be_cut = recipe.bn == "frozen"
    prefix = frozen_prefix(chosen.network, chosen.tuned, sample) if may_be_cut else None
    with torch.no_grad():
        size = int(chosen.network(sample).shape[-1])
        if prefix is None:
            return NetworkParts(None, chosen.network, chosen.tuned, sample, size, used_head, tuned)
        names = tuple(f"network.{name}" for name in chosen.tuned)
        return NetworkParts(prefix.first, prefix.rest, names, prefix.first(sample), size, used_head, tuned)


def _that_learn(chosen: TunedNetwork, sample: Tensor) -> tuple[str, ...]:
    """What is tuned without the adapters of layers whose weights the network uses past them, as BEiT does for qkv."""
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
    """The parts of a method that trains a head on embeddings, which are there already, or on their logits."""
    sample = torch.zeros(2, embedding_size, device=device)
    return NetworkParts(None, nn.Identity(), (), sample, embedding_size, base_head)
