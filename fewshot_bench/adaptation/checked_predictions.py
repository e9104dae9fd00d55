"""Checks of what adaptations declare and return, before anything is computed from it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from fewshot_bench.adaptation.base import Adaptation, EmbeddingAdaptation
from fewshot_bench.adaptation.embedded_split import EmbeddedSplit
from fewshot_bench.adaptation.hyper_parameter_choice import scores_of
from fewshot_bench.errors import EmbeddingError, PluginError
from fewshot_bench.plugins import described, is_plugin, place_of, plugin_errors

_TRANSPOSED = "Are two axes swapped?"


def checked_scores(adaptation: EmbeddingAdaptation, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
    """The scores of an adaptation, see `scores_of`, checked.

    Where two of E, M and N are equal, swapped axes have the right shape. A plug-in is then asked a second time, about
    one episode with N more queries.

    Returns:
        Finite floating-point numbers, [E, M, N].

    Raises:
        PluginError: the method raised, or returned something else.
        EmbeddingError: the scores are not finite.
    """
    with plugin_errors(adaptation, "scores"):
        scores: Any = scores_of(adaptation, split, support, query)
    checked = _checked(adaptation, scores, support, query)
    episodes, queries, way = checked.shape
    if is_plugin(adaptation) and len({episodes, queries, way}) < 3:
        _check_axes(adaptation, split, support[:1], torch.cat([query[:1], support[:1, :, 0]], dim=1))
    return checked


def _checked(adaptation: EmbeddingAdaptation, scores: Any, support: Tensor, query: Tensor) -> Tensor:
    expected = [*query.shape, support.shape[1]]
    finding = _finding(scores, expected)
    if finding:
        raise PluginError(
            f"{place_of(adaptation, 'scores')}scores of {adaptation.name}: {finding} came; scores [E, M, N] = "
            f"{expected} in floating point are expected."
        )
    assert isinstance(scores, Tensor)
    is_finite = torch.isfinite(scores)
    if not bool(is_finite.all()):
        nan, count = int(scores.isnan().sum()), int((~is_finite).sum())
        raise EmbeddingError(
            f"{place_of(adaptation, 'scores')}{adaptation.name} gave scores that are not finite ({nan:,} NaN, "
            f"{count - nan:,} infinite); check the embeddings, and rule classes out by a very low number."
        )
    return scores


def _finding(scores: Any, expected: list[int]) -> str:
    """What was returned instead of scores, as a noun; empty if they are right."""
    if not isinstance(scores, Tensor):
        return described(scores)
    if scores.layout != torch.strided or scores.device.type == "meta":
        return f"{described(scores)} ({scores.layout}, {scores.device})"
    shape = list(scores.shape)
    if shape == expected[:2]:
        return f"labels [E, M] = {shape} of {str(scores.dtype).removeprefix('torch.')}"
    if not scores.dtype.is_floating_point:
        return described(scores)
    if shape != expected:
        is_swapped = sorted(shape) == sorted(expected)
        return described(scores) + (f" ({_TRANSPOSED})" if is_swapped else "")
    return ""


def _check_axes(adaptation: EmbeddingAdaptation, split: EmbeddedSplit, support: Tensor, query: Tensor) -> None:
    """Check the order of axes on one episode that has more queries than classes.

    A method that cannot take such an episode is not judged by it.

    Raises:
        PluginError: the axes are swapped.
    """
    expected = [1, query.shape[1], support.shape[1]]
    devices = [split.embeddings.device] if split.embeddings.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        try:
            scores = scores_of(adaptation, split, support, query)
        except Exception:
            return
    if isinstance(scores, Tensor) and list(scores.shape) != expected and sorted(scores.shape) == sorted(expected):
        raise PluginError(
            f"{place_of(adaptation, 'scores')}scores of {adaptation.name}: of one episode with {expected[1]} queries "
            f"{described(scores)} came; scores [E, M, N] = {expected} are expected. {_TRANSPOSED}"
        )


def check_adaptation(adaptation: object, name: str) -> Adaptation:
    """Check what an adaptation declares, before anything is computed; `name` is as the user wrote it.

    Raises:
        PluginError: it is not an `Adaptation`, or declares something of the wrong type.
    """
    if not isinstance(adaptation, Adaptation):
        raise PluginError(f"{place_of(adaptation)}{name} is {described(adaptation)}. {HOW_TO_WRITE_ONE}")
    if not is_plugin(adaptation):
        return adaptation
    for claim in ("is_transductive", "assumes_balanced_queries"):
        _expect(adaptation, claim, lambda value: isinstance(value, bool), "True or False")
    _expect(adaptation, "stage", lambda value: isinstance(value, str), "text")
    _expect(
        adaptation,
        "hyper_parameters",
        _is_plain_data,
        "a dict of plain values by name: numbers, texts, lists of these",
    )
    if isinstance(adaptation, EmbeddingAdaptation):
        _expect(adaptation, "augmented_views", _is_count, "a whole number of 0 or more")
        with plugin_errors(adaptation, "floats_per_episode"):
            floats = adaptation.floats_per_episode(5, 1, 75, 64)
        if not (isinstance(floats, Real) and 1 <= floats < math.inf):
            raise _refused(adaptation, "floats_per_episode", floats, "a number of 1 or more")
    return adaptation


HOW_TO_WRITE_ONE = (
    "An adaptation is a frozen dataclass below fewshot_bench.adaptation.EmbeddingAdaptation, such as: "
    "@dataclass(frozen=True, kw_only=True) class Mine(EmbeddingAdaptation): name: ClassVar[str] = 'mine'; "
    "def scores(self, split, support, query): ..."
)


def _expect(adaptation: Adaptation, name: str, is_right: Callable[[Any], bool], expected: str) -> None:
    with plugin_errors(adaptation):
        value = getattr(adaptation, name)
        value = value() if name == "hyper_parameters" else value
    if not is_right(value):
        raise _refused(adaptation, name, value, expected)


def _refused(adaptation: Adaptation, name: str, value: Any, expected: str) -> PluginError:
    return PluginError(
        f"{place_of(type(adaptation))}{name} of {adaptation.name} should be {expected}, not {described(value)}."
    )


def _is_plain_data(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
