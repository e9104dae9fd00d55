"""A plain function from embeddings to scores, as a method like every other."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot_bench.adaptation.base import EmbeddingAdaptation
from fewshot_bench.adaptation.checked_predictions import checked_scores
from fewshot_bench.adaptation.embedded_split import EmbeddedSplit
from fewshot_bench.episodes.sampler import Episodes
from fewshot_bench.errors import FewshotBenchError, PluginError
from fewshot_bench.evaluation.query_use import QueryUse, differs, use_of_queries
from fewshot_bench.plugins import is_plugin, place_of

_TOGETHER = 4
"""Episodes that are scored together and one by one."""

ScoreFunction: TypeAlias = Callable[[Tensor, Tensor], Any]
"""From support embeddings [E, N, K, D] and query embeddings [E, M, D] to scores [E, M, N], higher is closer."""


class FunctionAdaptation(EmbeddingAdaptation):
    """The base of adaptations that call a plain function; they have no settings."""


def adaptation_of(function: ScoreFunction) -> FunctionAdaptation:
    """An adaptation that calls a function with the embeddings as they are, and takes its scores, tensor or array."""

    def scores(self: EmbeddingAdaptation, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Any:
        try:
            found = function(split.rows(support), split.rows(query))
        except (FewshotBenchError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            if is_plugin(self):  # whoever calls names its file and line
                raise
            finding = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
            raise PluginError(
                f"{name_of(function)} cannot be called with support {list(support.shape)} and query "
                f"{list(query.shape)}, each an embedding: {finding}."
            ) from error
        return torch.from_numpy(found).to(query.device) if isinstance(found, np.ndarray) else found

    attributes = {
        "name": name_of(function),
        "__module__": _module_of(function),
        "scores": functools.wraps(function)(scores),  # errors then name the function's file and line
    }
    kind: Any = type(FunctionAdaptation)  # of classes with abstract methods
    made = kind(name_of(function), (FunctionAdaptation,), attributes)
    return cast(FunctionAdaptation, made(features="raw"))


def _module_of(function: object) -> str:
    """The module whose code a function runs: of a partial, that of the function in it."""
    inner = _without_partials(function)
    return getattr(inner, "__module__", None) or type(inner).__module__


def _without_partials(function: object) -> object:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def name_of(function: object) -> str:
    """What to call the method of a function: the function's name, or its class for an object that can be called."""
    inner = _without_partials(function)
    name = str(getattr(inner, "__name__", type(inner).__name__))
    return name if name.isidentifier() else "lambda" if name == "<lambda>" else "function"


@torch.no_grad()
def queries_of_function(
    adaptation: EmbeddingAdaptation, split: EmbeddedSplit, groups: list[Episodes], *, chunk: int | None = None
) -> QueryUse:
    """Whether the queries of an episode inform each other's scores, found by asking for a few in other orders.

    Raises:
        PluginError: the scores of an episode depend on the other episodes of a call, or are random.
    """

    def scores_of(support: NDArray[np.int32], query: NDArray[np.int32]) -> Tensor:
        device = split.embeddings.device
        indices = (torch.from_numpy(np.ascontiguousarray(part)).to(device, torch.int64) for part in (support, query))
        return checked_scores(adaptation, split, *indices).cpu()

    def scores(episodes: Episodes, row: int, queries: NDArray[np.int64], draw: int = 0) -> Tensor:
        return scores_of(episodes.support[row : row + 1], episodes.queries[row : row + 1, queries])[0]

    found = use_of_queries(adaptation.name, {}, scores, groups)
    for group in groups:
        first = group[: min(_TOGETHER, chunk or _TOGETHER)]
        support, query = first.support, first.queries
        together = scores_of(support, query)
        for row, beside_others in enumerate(together):
            if differs(scores_of(support[row : row + 1], query[row : row + 1])[0], beside_others):
                raise PluginError(
                    f"{place_of(adaptation, 'scores')}{adaptation.name} gives an episode other scores when it is "
                    "called with several. Compute every episode by itself, along the first axis, or pass chunk=1."
                )
    return found
