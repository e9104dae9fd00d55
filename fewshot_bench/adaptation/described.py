"""What can be said of an adaptation without running it: its hyper-parameters, their defaults and meaning."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from fewshot_bench.adaptation.base import Adaptation, EmbeddingAdaptation

_NO_HYPER_PARAMETERS = ("choose", "candidates")
_ATTRIBUTE = re.compile(r"(\w+): (.*)")


@dataclass(frozen=True)
class HyperParameter:
    """A hyper-parameter of an adaptation.

    Attributes:
        name: as --set takes it.
        default: its value where nothing is said.
        meaning: one line from the class's docstring; empty where that says nothing.
        tried: the values that --choose tries, none where it leaves it alone.
    """

    name: str
    default: Any
    meaning: str
    tried: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Description:
    """What can be said of an adaptation.

    Attributes:
        is_transductive: whether queries inform each other's predictions, at the defaults.
        assumes_balanced_queries: whether it expects as many queries of every class, at the defaults.
        hyper_parameters: in the order of the class, those of its own before those it shares with others.
    """

    is_transductive: bool
    assumes_balanced_queries: bool
    hyper_parameters: tuple[HyperParameter, ...]


def described(factory: Callable[..., Adaptation] | None, preset: Mapping[str, Any] | None = None) -> Description | None:
    """Describe an adaptation; None if it is not a class of adaptations.

    Args:
        factory: its class.
        preset: values that an alias fixes; they are shown as its defaults, and --choose leaves them alone.

    >>> from fewshot_bench.adaptation import Centroid
    >>> [(one.name, one.default) for one in described(Centroid).hyper_parameters]
    [('metric', 'cosine'), ('features', 'l2')]
    """
    if not isinstance(factory, type) or not issubclass(factory, Adaptation):
        return None
    meanings, fixed = meanings_of(factory), preset or {}
    grid = factory.grid if issubclass(factory, EmbeddingAdaptation) else {}
    grid = {name: values for name, values in grid.items() if name not in fixed}
    shared = {field.name for field in fields(EmbeddingAdaptation)}
    hyper_parameters = [
        HyperParameter(
            field.name,
            fixed.get(field.name, _default(field)),
            meanings.get(field.name, ""),
            tuple(grid.get(field.name, ())),
        )
        for field in sorted(fields(factory), key=lambda field: field.name in shared)
        if field.name not in _NO_HYPER_PARAMETERS
    ]
    try:
        plain = factory(**fixed)
        kinds = (bool(plain.is_transductive), bool(plain.assumes_balanced_queries))
    except Exception:  # somebody's own class may need values, or be abstract
        kinds = (False, False)
    return Description(*kinds, tuple(hyper_parameters))


def meanings_of(adaptation: type) -> dict[str, str]:
    """The lines of the section `Attributes:` of a class and of the classes above it, by attribute."""
    found: dict[str, str] = {}
    for kind in reversed(adaptation.__mro__):
        found |= _attributes(inspect.cleandoc(kind.__doc__ or ""))
    return found


def _attributes(docstring: str) -> dict[str, str]:
    """The entries of the section `Attributes:` of a docstring, each as one line."""
    found: dict[str, str] = {}
    name = ""
    for line in docstring.partition("\nAttributes:\n")[2].splitlines():
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if text and indent == 0:  # the next section
            break
        entry = _ATTRIBUTE.fullmatch(text) if indent == 4 else None
        if entry is not None:
            name, found[entry[1]] = entry[1], entry[2]
        elif name and text:
            found[name] += f" {text}"
    return found


def _default(field: Any) -> Any:
    if field.default is not MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not MISSING else None
