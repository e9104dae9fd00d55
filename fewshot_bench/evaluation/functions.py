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
from fewshot_bench.evaluation.query_use import QueryUse, use_of_queries

ScoreFunction: TypeAlias = Callable[[Tensor, Tensor], Any]
"""From support embeddings [E, N, K, D] and query embeddings [E, M, D] to scores [E, M, N], higher is closer."""


class FunctionAdaptation(EmbeddingAdaptation):
    """The base of adaptations that call a plain function; they have no settings."""


def adaptation_of(function: ScoreFunction) -> FunctionAdaptation:
    """An adaptation that calls a function with the embeddings as they are, and takes its scores, tensor or array."""

    def scores(self: EmbeddingAdaptation, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Any:
        found = function(split.rows(support), split.rows(query))
        return torch.from_numpy(found).to(query.device) if isinstance(found, np.ndarray) else found

    attributes = {
        "name": name_of(function),
        "__module__": getattr(function, "__module__", None) or type(function).__module__,
        "scores": functools.wraps(function)(scores),  # errors then name the function's file and line
    }
    kind: Any = type(FunctionAdaptation)  # of classes with abstract methods
    made = kind(name_of(function), (FunctionAdaptation,), attributes)
    return cast(FunctionAdaptation, made(features="raw"))


def name_of(function: object) -> str:
    """What to call the method of a function: the function's name, or its class for an object that can be called."""
    inner = function.func if isinstance(function, functools.partial) else function
    name = str(getattr(inner, "__name__", type(inner).__name__))
    return name if name.isidentifier() else "lambda" if name == "<lambda>" else "function"


def queries_of_function(adaptation: EmbeddingAdaptation, split: EmbeddedSplit, groups: list[Episodes]) -> QueryUse:
    """Whether the queries of an episode inform each other's scores, found by asking for a few in other orders."""

    def scores(episodes: Episodes, row: int, queries: NDArray[np.int64], draw: int = 0) -> Tensor:
        device = split.embeddings.device
        support, query = (
            torch.from_numpy(np.ascontiguousarray(part)).to(device, torch.int64)
            for part in (episodes.support[row : row + 1], episodes.queries[row : row + 1, queries])
        )
        return checked_scores(adaptation, split, support, query)[0].cpu()

    return use_of_queries(adaptation.name, {}, scores, groups)
