"""Weights into a network, wherever they lie in a file, and their digest.

Tensors by name from a file of weights, in which nothing but tensors is ever unpickled.
"""

from __future__ import annotations

import _compat_pickle
import pickletools
import re
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fewshot_bench._io.tensors import tensors_digest
from fewshot_bench.backbones.base_head import without_base_head
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
"""Which of several networks in one file is taken, the first of these there is: what their authors evaluate."""

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_COUNTER = "num_batches_tracked"
_MOST_NAMES = 20
_LONGEST_NAME = 200
Spelling = Sequence[tuple[str, str]]
"""How another code names the tensors of a network: patterns, and what takes their place."""


def fit_by_name(
    network: nn.Module, weights: Mapping[str, Tensor], source: str, spellings: Sequence[Spelling] = ()
) -> dict[str, Any]:
    """Load weights into a network whose classifier may have been taken off, wherever they lie in a file.

    The tensors that are taken have a common prefix, under which all names and shapes agree with the network's. Where
    there are several such prefixes with other values, `PREFERRED` decides. Counters of batches may be absent.

    Args:
        network: it is changed.
        weights: tensors by their full names, see `read_weights`.
        source: the file, for a complaint.
        spellings: of the network's names in other codes, tried after its own.

    Returns:
        What a user should know, as plain data to be recorded: the prefix, other networks that would have fitted, what
        was left unused, types that were converted. Nothing where the file holds the network's own tensors alone.

    Raises:
        WeightsError: a tensor is missing or has another shape, is of another kind than the network's, or holds values
            that are not finite; or several networks fit, none of which is preferred.
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
    """What `fit_by_name` returned, in one line for people; empty where there is nothing to say."""
    said = []
    if record.get("prefix"):
        said.append(f"taken from {_quoted(record['prefix'])}")
    if record.get("other_networks"):
        said.append(f"not from {', '.join(map(_quoted, record['other_networks'][:3]))}")
    if record.get("unused"):
        names, count = record["unused"][:3], record["unused_count"]
        more = f" and {count - len(names):,} more" if count > len(names) else ""
        said.append(f"unused: {', '.join(map(_quoted, names))}{more}")
    if record.get("converted"):
        said.append(f"converted from {', '.join(record['converted'])}")
    if record.get("weights_size"):
        said.append(f"made for {record['weights_size']} px, resized with their position embeddings")
    return "; ".join(said)


def fit_by_order(network: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load weights whose tensors have other names but the order and shapes of the network's.

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
    """The prefixes under which everything lies that a network needs, the shortest first."""
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
    """The prefix to take, and those with other values.

    Raises:
        WeightsError: none is to be preferred.
    """

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


def _same(one: Tensor, other: Tensor) -> bool:
    try:
        return one is other or torch.equal(one, other)
    except RuntimeError:  # without values, or of a kind that cannot be compared
        return False


def _misfit(
    own: Mapping[str, Tensor], needed: Sequence[str], weights: Mapping[str, Tensor], source: str
) -> WeightsError:
    """What to say where no prefix fits, of the one under which most names lie."""
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
    """A tensor of a file as one of a network's own type.

    Raises:
        WeightsError: it is of another kind, or holds values that no network has.
    """
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
    """Why a tensor is none that a network holds, in words; empty where it is."""
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
    """A name from a file as one can print it."""
    return repr(name if len(name) <= 60 else f"{name[:57]}...")


_DEEPEST = 16  # mappings in each other
_MOST = 200_000  # values in all of them
_LEGACY_PICKLES = 4
"""Of a file before PyTorch 1.6: a magic number, a version, the system, the content."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read every tensor of a file, however deep it lies in mappings; `a.b.weight` lies at `b.weight` in `a`.

    The base classifier that a checkpoint of `fewshot-bench train` keeps beside its backbone is left out.

    Whatever else a checkpoint holds (arguments, numbers of NumPy, logs) is neither imported nor made: something empty
    stands for it.

    Args:
        path: safetensors, or a state dict or checkpoint saved by `torch.save`, which is read with `weights_only=True`.

    Raises:
        WeightsError: the file is missing or damaged, takes more memory than its size, or holds no tensors by name.
    """
    if not path.is_file():
        raise WeightsError(f"{path} is not a file; --weights expects safetensors or a PyTorch state dict.")
    try:
        content = load_file(path) if _is_safetensors(path) else _unpickled(path)
        tensors = without_base_head(_flat(content))
    except WeightsError as error:
        raise WeightsError(f"{path} {error}") from error
    except Exception as error:  # a damaged file may raise anything
        raise WeightsError(
            f"{path} cannot be read as weights: it is damaged, or holds more than tensors, which is never unpickled. "
            "Save the tensors alone where the file was made: torch.save(model.state_dict(), FILE)."
        ) from error
    if not tensors:
        raise WeightsError(f"{path} holds no state dict (tensors by name). Save model.state_dict() alone.")
    return tensors


def _is_safetensors(path: Path) -> bool:
    """By the first bytes, where the name says nothing: the size of a header, then JSON."""
    with path.open("rb") as file:
        return path.suffix == ".safetensors" or file.read(9)[8:] == b"{"


def _unpickled(path: Path) -> Any:
    """The content of a file of PyTorch, with something empty for whatever is not of PyTorch."""
    names = _foreign_names(path)
    if ("builtins", "bytearray") in names:  # which torch would make, of any size
        raise WeightsError("holds a bytearray, which no state dict does. Save model.state_dict() alone.")
    stand_ins: list[Any] = [_stand_in(module, name) for module, name in sorted(names)]
    with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of protocols: what cannot be read is an error
        return torch.load(path, map_location="cpu", weights_only=True)


def _foreign_names(path: Path) -> set[tuple[str, str]]:
    """Module and name of every class and function that a file of PyTorch would import; nothing is.

    Raises:
        WeightsError: a part of the file is compressed, or is there twice.
    """
    found: set[tuple[str, str]] = set()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
                raise WeightsError("is compressed, as no state dict of torch.save is. Save model.state_dict() alone.")
            if sum(part.file_size for part in parts) > path.stat().st_size:
                raise WeightsError("says that it is larger than it is; it is damaged.")
            for part in parts:
                if part.filename.endswith("data.pkl"):
                    with archive.open(part) as file:
                        found.update(_names_in_pickle(file))
        return found
    with path.open("rb") as file, suppress(ValueError):  # one who reads it afterwards says what is wrong
        for _ in range(_LEGACY_PICKLES):
            found.update(_names_in_pickle(file))
    return found


def _names_in_pickle(file: IO[bytes]) -> Iterator[tuple[str, str]]:
    for operation, argument, _ in pickletools.genops(file):
        if operation.name == "GLOBAL":
            module, name = str(argument).split(" ", 1)
            # torch reads the names of Python 2 as those of Python 3.
            module = _compat_pickle.IMPORT_MAPPING.get(module, module)
            yield _compat_pickle.NAME_MAPPING.get((module, name), (module, name))


class _Empty(list[Any]):
    """Takes whatever it is given and keeps nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass

    def __hash__(self) -> int:  # type: ignore[override]  # it may be a key
        return id(self)


class _Mapping:
    """Makes a plain mapping, since torch fills no other."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return OrderedDict()


def _stand_in(module: str, name: str) -> type:
    """A class that is called like another one and does nothing."""
    is_mapping = name.lower().endswith(("dict", "cfgnode"))
    return type(name, (_Mapping if is_mapping else _Empty,), {"__module__": module})


def _flat(content: Any) -> dict[str, Tensor]:
    """The tensors in mappings and lists that lie in each other, by their dotted names.

    Raises:
        WeightsError: there are more than a network has, or two of one name.
    """
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    waiting: list[tuple[str, Any, int]] = [("", content, 0)]
    count = 0
    while waiting:
        prefix, value, depth = waiting.pop()
        if isinstance(value, Tensor):
            if not prefix:
                continue
            if prefix in tensors:
                raise WeightsError(f"holds two tensors that are called {prefix!r:.80}. Save one of them alone.")
            tensors[prefix] = value
            continue
        pairs = _pairs(value)
        if not pairs or id(value) in seen or depth == _DEEPEST:
            continue
        seen.add(id(value))  # a list may hold itself
        count += len(pairs)
        if count > _MOST:
            raise WeightsError(f"holds more than {_MOST:,} values. Save model.state_dict() alone.")
        waiting += [(f"{prefix}.{name}".removeprefix("."), inner, depth + 1) for name, inner in reversed(pairs)]
    return tensors


def _pairs(value: Any) -> list[tuple[str, Any]]:
    """Names and values of a mapping, numbers and values of a list."""
    if isinstance(value, Mapping):
        return [(_text(name), inner) for name, inner in value.items()]
    if isinstance(value, list | tuple):
        return [(str(number), inner) for number, inner in enumerate(value)]
    return []


def _text(name: object) -> str:
    """A key as text that can be written down."""
    text = str(name) if isinstance(name, str | int) else f"<{type(name).__name__}>"
    return text.encode("utf-8", "replace").decode()
