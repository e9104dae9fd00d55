"""Reading weights files: tensors by name, with nothing but tensors ever unpickled.

A file may also hold the base head, the classifier that the backbone was trained with on the base split. It is not part
of the backbone: two backbones with the same weights are the same, whatever their classifiers.
"""

from __future__ import annotations

import _compat_pickle
import json
import pickletools
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Literal, get_args

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fewshot_bench._io.tensors import tensors_digest
from fewshot_bench.errors import WeightsError

PREFIX = "fewshot_bench.base_head."
"""Prefix of the names of the head's tensors in a file; no network has such names."""
_HEADS_PREFIX = "fewshot_bench."
"""Prefix of the names of all that a file holds beside a network."""

_CARD = "base_head"
HeadKind = Literal["linear", "cosine"]
_TENSORS = ("weight", "bias")


@dataclass(frozen=True, eq=False)
class BaseHead:
    """A linear layer from embeddings to the logits of the base classes.

    Attributes:
        weight: float32 [C, D].
        bias: float32 [C].
        classes: names of the base classes in the order of the logits, C.
        kind: "cosine" takes embeddings of unit length, and its weight holds the scale of the cosines.
    """

    weight: Tensor
    bias: Tensor
    classes: tuple[str, ...]
    kind: HeadKind = "linear"

    @classmethod
    def of(cls, head: nn.Module, classes: tuple[str, ...]) -> BaseHead | None:
        """The linear layer of a module, on the CPU, with the names of its outputs, C; None where there is none."""
        linear = next((module for module in head.modules() if isinstance(module, nn.Linear)), None)
        if linear is None:
            return None
        weight, bias = (tensor.detach().cpu().clone() for tensor in (linear.weight, linear.bias))
        return cls(weight, bias, classes)

    @classmethod
    def untrained(cls, embedding_size: int, classes: tuple[str, ...]) -> BaseHead:
        """A head of zeros, for measurements."""
        return cls(torch.zeros(len(classes), embedding_size), torch.zeros(len(classes)), classes)

    @cached_property
    def digest(self) -> str:
        """Digest of the weights without the names of the classes, 64 hexadecimal digits."""
        return tensors_digest({"weight": self.weight, "bias": self.bias})

    def tensors(self) -> dict[str, Tensor]:
        """The tensors under their names in a file."""
        return {PREFIX + "weight": self.weight, PREFIX + "bias": self.bias}

    def metadata(self) -> dict[str, str]:
        """The metadata of the head in a file."""
        return {_CARD: json.dumps({"kind": self.kind, "classes": self.classes})}

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Logits of the base classes, [B, C], of embeddings [B, D]."""
        weight, bias = (tensor.to(embeddings) for tensor in (self.weight, self.bias))
        if self.kind == "cosine":
            embeddings = nn.functional.normalize(embeddings, dim=-1)
        return nn.functional.linear(embeddings, weight, bias)


def without_base_head(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file that belong to the backbone, which no head does."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(_HEADS_PREFIX)}


def read_base_head(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> BaseHead | None:
    """The head in a file, if it has one.

    Args:
        tensors: of the whole file.
        metadata: of the file.

    Returns:
        None if the file has no head.

    Raises:
        WeightsError: the head is incomplete, of another kind or shape, or not finite; the message begins after the
            name of the file.
    """
    found = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
    if not found and _CARD not in metadata:
        return None
    kind, classes = _kind_and_classes(metadata.get(_CARD, ""))
    if set(found) != set(_TENSORS):
        raise WeightsError("should hold a weight and a bias of its base classifier, and nothing else of it")
    weight, bias = (found[name] for name in _TENSORS)
    if weight.dtype != torch.float32 or bias.dtype != torch.float32:
        raise WeightsError("has a base classifier that is not of float32")
    if weight.ndim != 2 or weight.shape[1] < 1 or bias.shape != weight.shape[:1] or len(classes) != len(weight):
        raise WeightsError(
            f"has a base classifier for {len(classes):,} classes with a weight {list(weight.shape)} and a bias "
            f"{list(bias.shape)}; [C, D] and [C] are expected"
        )
    if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
        raise WeightsError("has a base classifier with values that are not finite")
    return BaseHead(weight, bias, classes, kind)


def _kind_and_classes(card: str) -> tuple[HeadKind, tuple[str, ...]]:
    try:
        content = json.loads(card)
        kind, classes = content["kind"], content["classes"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise WeightsError("does not say what its base classifier is") from error
    if kind not in get_args(HeadKind):
        raise WeightsError("has a base classifier of another kind than a linear or a cosine layer")
    is_right = isinstance(classes, list) and len(classes) >= 2 and all(isinstance(name, str) for name in classes)
    if not is_right or len(set(classes)) < len(classes):
        raise WeightsError("does not name the classes of its base classifier: two or more different names")
    return kind, tuple(classes)


_DEEPEST = 16  # mappings in each other
_MOST = 200_000  # values in all of them
_LEGACY_PICKLES = 4
"""Of a file before PyTorch 1.6: a magic number, a version, the system, the content."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read every tensor of a file, however deep it lies in mappings; `a.b.weight` lies at `b.weight` in `a`.

    The base classifier in a checkpoint of `fewshot-bench train` is left out. Whatever else a checkpoint holds
    (arguments, numbers of NumPy, logs) is neither imported nor created: an empty object stands in for it.

    Args:
        path: safetensors, or a state dict or checkpoint saved by `torch.save`, which is read with `weights_only=True`.

    Raises:
        WeightsError: the file is missing, damaged or larger in memory than on disk, or holds no tensors by name.
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
    """By the suffix, or by the first bytes: the size of a header, then JSON."""
    with path.open("rb") as file:
        return path.suffix == ".safetensors" or file.read(9)[8:] == b"{"


def _unpickled(path: Path) -> Any:
    """The content of a PyTorch file, with empty objects for whatever is not PyTorch's."""
    names = _foreign_names(path)
    if ("builtins", "bytearray") in names:  # which torch would make, of any size
        raise WeightsError("holds a bytearray, which no state dict does. Save model.state_dict() alone.")
    stand_ins: list[Any] = [_stand_in(module, name) for module, name in sorted(names)]
    with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about protocols: what cannot be read is an error
        return torch.load(path, map_location="cpu", weights_only=True)


def _foreign_names(path: Path) -> set[tuple[str, str]]:
    """Module and name of every class and function that a PyTorch file would import; none is imported.

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
    with path.open("rb") as file, suppress(ValueError):  # reading it afterwards raises the error
        for _ in range(_LEGACY_PICKLES):
            found.update(_names_in_pickle(file))
    return found


def _names_in_pickle(file: IO[bytes]) -> Iterator[tuple[str, str]]:
    for operation, argument, _ in pickletools.genops(file):
        if operation.name == "GLOBAL":
            module, name = str(argument).split(" ", 1)
            # torch reads names of Python 2 as those of Python 3.
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
    """Creates a plain mapping, the only kind that torch fills."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return OrderedDict()


def _stand_in(module: str, name: str) -> type:
    """A class with the name of another that does nothing."""
    is_mapping = name.lower().endswith(("dict", "cfgnode"))
    return type(name, (_Mapping if is_mapping else _Empty,), {"__module__": module})


def _flat(content: Any) -> dict[str, Tensor]:
    """The tensors in mappings and lists that lie in each other, by their dotted names.

    Raises:
        WeightsError: there are more than any network has, or two of one name.
    """
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    to_visit: list[tuple[str, Any, int]] = [("", content, 0)]
    count = 0
    while to_visit:
        prefix, value, depth = to_visit.pop()
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
        seen.add(id(value))  # a list may contain itself
        count += len(pairs)
        if count > _MOST:
            raise WeightsError(f"holds more than {_MOST:,} values. Save model.state_dict() alone.")
        to_visit += [(f"{prefix}.{name}".removeprefix("."), inner, depth + 1) for name, inner in reversed(pairs)]
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
