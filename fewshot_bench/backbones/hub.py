"""Where timm fetches weights from: what of it is on this machine, and whether it can be reached at all."""

from __future__ import annotations

import timm

from fewshot_bench.hub import why_hub_is_away, why_not_reachable

_FILES = ("model.safetensors", "pytorch_model.bin")


def fetched_file(model: str) -> str | None:
    """The file of the weights of a timm model on this machine, if they are here; asks nobody.

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
    """Whether the weights of a timm model are on this machine; asks nobody.

    Args:
        model: as `model_of_hub` names it.
    """
    return fetched_file(model) is not None


def why_not_fetchable(model: str) -> str:
    """Why the weights of a timm model cannot be fetched, in words, after one short try; empty where they can.

    Args:
        model: as `model_of_hub` names it.
    """
    config = timm.get_pretrained_cfg(model)
    if config is None or not (config.hf_hub_id or config.url):
        return "timm has none"
    if not config.hf_hub_id:
        return why_not_reachable(str(config.url))
    away = why_hub_is_away()
    return f"they are not on this machine, and {away}" if away else ""
