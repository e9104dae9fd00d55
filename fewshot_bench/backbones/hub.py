"""Where timm fetches weights from: what of it is on this machine, and whether it can be reached at all."""

from __future__ import annotations

import ssl
import threading
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import timm

_FILES = ("model.safetensors", "pytorch_model.bin")
_PATIENCE = 5.0  # seconds


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
    """Why the weights of a timm model cannot be fetched, in words; empty where they may be.

    One short try, since a library that fetches tries for minutes. It goes where that library goes, proxies included.

    Args:
        model: as `model_of_hub` names it.
    """
    from huggingface_hub import constants

    config = timm.get_pretrained_cfg(model)
    if config is None or not (config.hf_hub_id or config.url):
        return "timm has none"
    if not config.hf_hub_id:
        return _why_not_reachable(str(config.url))
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set and they are not on this machine"
    return _why_not_reachable(constants.ENDPOINT)


def _why_not_reachable(url: str) -> str:
    """Why a server cannot be reached, in words; empty where it answers, whatever it says."""
    host = urlsplit(url).hostname or url
    answers = [f"{host} did not answer within {_PATIENCE:.0f} s"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_PATIENCE):
                answers.append("")
        except urllib.error.HTTPError:
            answers.append("")
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            # Certificates are for the library to check, which may know others.
            answers.append("" if isinstance(reason, ssl.SSLError) else f"{host} cannot be reached: {reason}")

    asking = threading.Thread(target=ask, daemon=True)  # to look up a name takes as long as the system likes
    asking.start()
    asking.join(_PATIENCE)
    return answers[-1]
