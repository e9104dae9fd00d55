"""Fitting weights into a network, wherever they lie in a file; see `weights_file` for reading the file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fewshot_bench._io.tensors import tensors_digest
from fewshot_bench.errors import WeightsError

PREFERRED = (
    "teacher",
    "model_ema",
    "state_dict_ema",
    "ema_state_dict",
    "ema_model",
    "ema",
    "encoder_q",
    "base_encoder",
    "online_encoder",
    "online_network",
)
"""Which of several networks in one file is taken: the first of these, which are what their authors evaluate."""

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_COUNTER = "num_batches_tracked"
_MOST_NAMES = 20
_LONGEST_NAME = 200
Spelling = Sequence[tuple[str, str]]
"""Names of a network's tensors in another code: patterns and replacements."""


def fit_by_name(
    network: nn.Module, weights: Mapping[str, Tensor], source: str, spellings: Sequence[Spelling] = ()
) -> dict[str, Any]:
    """Load weights into a network, with or without its classifier, wherever they lie in a file.

    The tensors have a common prefix, under which all names and shapes agree with the network's. `PREFERRED` decides
    between several such prefixes with different values. Counters of batches may be absent.

    Args:
        network: is changed.
        weights: tensors by their full names, see `read_weights`.
        source: the file, for messages.
        spellings: of the network's names in other codes, tried after its own.

    Returns:
        What to record and tell the user: the prefix, other networks that fit, unused tensors, converted types. Empty if
        the file holds the network's own tensors alone.

    Raises:
        WeightsError: a tensor is missing, of another shape or kind, or not finite; or several networks fit and none is
            preferred.
    """
    own = network.state_dict()
    needed = [name for name in own if not name.endswith(_COUNTER)]
    for spelling in ((), *spellings):
        names = {name: _spelled(name, spelling) for name in own}
        fitting = _fitting_prefixes(own, needed, names, weights)
        if fitting:
            break
    else:
        raise _misfit(own, needed, weights, source)
    prefix, others = _chosen(fitting, [names[name] for name in needed], weights, source)
    found = {name: weights[prefix + names[name]] for name in own if prefix + names[name] in weights}
    converted = {name: _as(tensor, own[name], prefix + names[name], source) for name, tensor in found.items()}
    network.load_state_dict({**own, **converted})
    accounted = {start + name for start in (prefix, *others) for name in names.values()}
    unused = [name for name in weights if name not in accounted]
    types = sorted({str(found[name].dtype) for name in found if found[name].dtype != own[name].dtype})
    record = {
        "prefix": prefix[:_LONGEST_NAME],
        "other_networks": [other[:_LONGEST_NAME] for other in others[:_MOST_NAMES]],
        "unused": [name[:_LONGEST_NAME] for name in unused[:_MOST_NAMES]],
        "unused_count": len(unused),
        "converted": [kind.removeprefix("torch.") for kind in types],
    }
    return {key: value for key, value in record.items() if value}


def fit_words(record: Mapping[str, Any]) -> str:
    """The record of `fit_by_name` in one line for people, or nothing."""
    remarks = []
    if record.get("prefix"):
        remarks.append(f"taken from {_quoted(record['prefix'])}")
    if record.get("other_networks"):
        remarks.append(f"not from {', '.join(map(_quoted, record['other_networks'][:3]))}")
    if record.get("unused"):
        names, count = record["unused"][:3], record["unused_count"]
        more = f" and {count - len(names):,} more" if count > len(names) else ""
        remarks.append(f"unused: {', '.join(map(_quoted, names))}{more}")
    if record.get("converted"):
        remarks.append(f"converted from {', '.join(record['converted'])}")
    if record.get("weights_size"):
        remarks.append(f"made for {record['weights_size']} px, resized with their position embeddings")
    return "; ".join(remarks)


def fit_by_order(network: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load weights by the order and shapes of their tensors, whatever their names.

    Raises:
        WeightsError: the number of tensors or a shape differs, or a value is not of the network's kind.
    """
    own = network.state_dict()
    if [tensor.shape for tensor in own.values()] != [_shape(tensor) for tensor in weights.values()]:
        raise WeightsError(f"{source} does not fit: its {len(weights)} tensors are not the backbone's {len(own)}.")
    pairs = zip(own.items(), weights.items(), strict=True)
    network.load_state_dict({name: _as(tensor, like, theirs, source) for (name, like), (theirs, tensor) in pairs})


def weights_digest(network: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of all tensors of a network."""
    return tensors_digest(network.state_dict())


def _spelled(name: str, spelling: Spelling) -> str:
    for pattern, replacement in spelling:
        name = re.sub(pattern, replacement, name)
    return name


def _fitting_prefixes(
    own: Mapping[str, Tensor], needed: Sequence[str], names: Mapping[str, str], weights: Mapping[str, Tensor]
) -> list[str]:
    """The prefixes under which all tensors of a network lie, the shortest first."""
    shapes = {names[name]: own[name].shape for name in needed}
    fitting: Counter[str] = Counter()
    for full, tensor in weights.items():
        fitting.update(prefix for prefix, name in _cuts(full) if name in shapes and _shape(tensor) == shapes[name])
    return sorted((prefix for prefix, count in fitting.items() if count == len(needed)), key=len)


def _cuts(full: str) -> list[tuple[str, str]]:
    """Every way to see a dotted name as a prefix and a name."""
    starts = [0, *(match.end() for match in re.finditer(r"\.", full))]
    return [(full[:start], full[start:]) for start in starts]


def _chosen(
    fitting: Sequence[str], names: Sequence[str], weights: Mapping[str, Tensor], source: str
) -> tuple[str, list[str]]:
    """The prefix to take, and those with other values; raises WeightsError if no prefix is preferred."""

    def rank(prefix: str) -> int:
        words = prefix.split(".")
        return next((number for number, word in enumerate(PREFERRED) if word in words), len(PREFERRED))

    ranked = sorted(fitting, key=rank)
    first = ranked[0]
    others = [
        other for other in ranked[1:] if not all(_same(weights[first + name], weights[other + name]) for name in names)
    ]
    if others and rank(others[0]) == rank(first):
        several = " and ".join(_quoted(prefix) for prefix in (first, others[0]))
        raise WeightsError(
            f"{source} holds several networks that fit this backbone, below {several}. Save the state dict of the one "
            "you mean alone."
        )
    return first, others


def _same(first: Tensor, second: Tensor) -> bool:
    try:
        return first is second or torch.equal(first, second)
    except RuntimeError:  # without values, or of a kind that cannot be compared
        return False


def _misfit(
    own: Mapping[str, Tensor], needed: Sequence[str], weights: Mapping[str, Tensor], source: str
) -> WeightsError:
    """The error where no prefix fits, about the prefix with the most matching names."""
    wanted = set(needed)
    named = Counter(prefix for full in weights for prefix, name in _cuts(full) if name in wanted)
    prefix = max(named, key=lambda prefix: (named[prefix], -len(prefix)), default="")
    below = f" below {_quoted(prefix)}" if prefix else ""
    for name in needed:
        if prefix + name not in weights:
            held = ", ".join(_quoted(other) for other in list(weights)[:3])
            return WeightsError(
                f"{source} has no tensor '{name}'{below}; it is not for this backbone ({len(own)} tensors). "
                f"It holds {len(weights):,}: {held}{', ...' if len(weights) > 3 else ''}."
            )
        shape = _shape(weights[prefix + name])
        if shape != own[name].shape:
            return WeightsError(
                f"'{name}' is {list(shape or ())} in {source}{below} and {list(own[name].shape)} in the backbone; "
                "the weights belong to another network."
            )
    raise AssertionError("a prefix fits")


def _as(tensor: Tensor, like: Tensor, name: str, source: str) -> Tensor:
    """A tensor of a file in the network's type; raises WeightsError if it is of another kind, or impossible."""
    kind = _kind(tensor)
    if kind:
        raise WeightsError(
            f"{_quoted(name)} in {source} is {kind}; the backbone takes plain tensors with values. "
            "Save the plain state dict."
        )
    if like.dtype in _FLOATS and tensor.dtype not in _FLOATS:
        raise WeightsError(
            f"{_quoted(name)} in {source} is {_type(tensor)}; the backbone takes floating-point weights "
            "(float32, float16, bfloat16 or float64). Save them before they are quantised."
        )
    if name.endswith(_COUNTER) and tensor.dtype in _FLOATS and bool((tensor == tensor.round()).all()):
        return tensor.detach().to(like.dtype)  # averages of weights average these too
    if like.dtype not in _FLOATS and (
        tensor.is_floating_point() or tensor.is_complex() or (tensor.dtype == torch.bool) != (like.dtype == torch.bool)
    ):
        raise WeightsError(
            f"{_quoted(name)} in {source} is {_type(tensor)} and {_type(like)} in the backbone; the weights are of "
            "another network, or were converted as a whole. Convert its floating-point tensors alone."
        )
    converted = tensor.detach().to(like.dtype)
    if like.dtype in _FLOATS and not converted.isfinite().all():
        raise WeightsError(
            f"{_quoted(name)} in {source} holds NaN or infinite values; the training diverged or the file is damaged. "
            "Use weights that are finite numbers."
        )
    if name.endswith("running_var") and bool((converted < 0).any()):
        raise WeightsError(
            f"{_quoted(name)} in {source} holds negative variances; the file is damaged. Use the weights as they were "
            "saved."
        )
    return converted


def _kind(tensor: Tensor) -> str:
    """Why a tensor cannot be one of a network, in words, or nothing."""
    if tensor.is_nested or tensor.layout != torch.strided:
        return "sparse" if not tensor.is_nested else "nested"
    if tensor.is_quantized:
        return f"quantised ({_type(tensor)})"
    if tensor.is_meta:
        return "without values (on the meta device)"
    if tensor.is_complex():
        return f"complex ({_type(tensor)})"
    return "" if type(tensor) in (Tensor, nn.Parameter) else f"a {type(tensor).__name__}"


def _shape(tensor: Tensor) -> torch.Size | None:
    return None if tensor.is_nested else tensor.shape


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _quoted(name: str) -> str:
    """A name from a file, safe to print."""
    return repr(name if len(name) <= 60 else f"{name[:57]}...")
