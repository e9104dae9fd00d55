"""Which device of this process computes."""

from __future__ import annotations

import torch

from fewshot_bench.errors import StudyError


def chosen_device(name: str) -> str:
    """The torch device for "auto", "cpu", "cuda", "cuda:1", "mps".

    Raises:
        StudyError: this machine has no such device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()  # "meta" can be made, but holds nothing
        if torch.device(name).type == "cuda":
            torch.cuda.set_device(name)  # what is recorded and timed there belongs to the current device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise StudyError(f"there is no device '{name}' here. Use --device cpu, or auto.") from error
    return name
