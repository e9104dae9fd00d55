"""Whether the Hugging Face hub can be reached, which its own libraries take minutes to find out."""

from __future__ import annotations

import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from urllib.parse import urlsplit

_PATIENCE = 5.0  # seconds


def why_hub_is_away() -> str:
    """Why the hub cannot be reached, after one short try; empty if it can."""
    from huggingface_hub import constants

    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else why_not_reachable(constants.ENDPOINT)


def why_not_reachable(url: str) -> str:
    """Why a server cannot be reached, in one short try through the environment's proxies; empty if it is."""
    host = urlsplit(url).hostname or url
    answers = [f"{host} did not answer within {_PATIENCE:.0f} s"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_PATIENCE):
                answers.append("")
        except urllib.error.HTTPError:
            answers.append("")
        except (OSError, ValueError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            # The library checks certificates itself, and may know others.
            answers.append("" if isinstance(reason, ssl.SSLError) else f"{host} cannot be reached: {reason}")

    asking = threading.Thread(target=ask, daemon=True)  # the system may take minutes to look up a name
    asking.start()
    asking.join(_PATIENCE)
    return answers[-1]


@contextmanager
def nothing_asked() -> Iterator[None]:
    """Let the libraries of the hub use only files on this machine, or fail at once."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
