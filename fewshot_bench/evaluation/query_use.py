"""Whether the queries of a method inform each other's predictions.

Batch norms in training mode normalise every query by the batch it comes in. That is found by looking at the network;
anything else is found by scoring the queries in another order, in halves and alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol as Interface

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fewshot_bench.episodes import Episodes
from fewshot_bench.errors import PluginError

_CHECKED_EPISODES = 8
"""Episodes whose queries are scored in several ways; a method that looks at other queries shows it in most of them."""
_SINGLE_QUERIES = 3
"""Queries of each episode that are scored one by one."""
_ROUNDING = 0.01
"""A change of scores that sums in another order and TF32 may cause, as a share of their standard deviation."""


class Scores(Interface):
    """Scores of some queries of one episode."""

    def __call__(self, episodes: Episodes, row: int, queries: NDArray[np.int64], draw: int = 0) -> Tensor:
        """Scores [m, N] of queries [m], by their positions in `Episodes.queries`, in that order."""


@dataclass(frozen=True)
class QueryUse:
    """What a method does with the queries of an episode.

    Attributes:
        is_transductive: whether they inform each other's predictions.
        reason: how that is known, in words.
    """

    is_transductive: bool
    reason: str


def use_of_queries(
    name: str,
    modules: Mapping[str, nn.Module],
    scores: Scores,
    groups: Sequence[Episodes],
    is_transductive: bool | None = None,
) -> QueryUse:
    """Find out whether the queries of a method inform each other's predictions.

    Args:
        name: of the method, for messages.
        modules: its networks, by their part in it; none of a function.
        scores: of any queries.
        groups: its episodes; the first ones are used.
        is_transductive: what the user says; None if nothing.

    Raises:
        PluginError: the user says that it is inductive and it is not, or its scores are random, so that it is unknown.
    """
    _warn_of_unused_statistics(modules)
    if is_transductive:
        return QueryUse(True, "said to be transductive")
    found = _found_in_network(modules)
    if not found and _is_random(scores, groups):
        if is_transductive is None:
            dropout = " (dropout in training mode?)" if modules else ""
            advice = "Call eval() on the random layers, or pass is_transductive." if modules else "Seed what it draws."
            raise PluginError(
                f"{name} gives other scores when it is called again{dropout}, so whether queries inform each other is "
                f"unknown. {advice}"
            )
        return QueryUse(False, "said to be inductive; its scores are random")
    found = found or _found_by_scoring(scores, groups)
    if found and is_transductive is False:
        raise PluginError(
            f"{name} is said to be inductive, but {found}. Call eval() on the learner, or leave is_transductive out."
        )
    return QueryUse(bool(found), found or "the same scores for queries in another order, in halves and alone")


def _found_in_network(modules: Mapping[str, nn.Module]) -> str:
    """Which layers normalise queries by their own batch, in words; empty if none does."""
    layers = [
        f"{part}.{name}" if name else part
        for part, module in modules.items()
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm) and (layer.training or layer.running_mean is None)
    ]
    if not layers:
        return ""
    why = f"{len(layers)} batch norm{'s' if len(layers) > 1 else ''} ({layers[0]}{', ...' if len(layers) > 1 else ''})"
    return f"queries are normalised by their own batch: {why} in training mode, or without running statistics"


def _warn_of_unused_statistics(modules: Mapping[str, nn.Module]) -> None:
    """Warn of batch norms in evaluation mode whose statistics were never measured."""
    for part, module in modules.items():
        for name, layer in module.named_modules():
            count = getattr(layer, "num_batches_tracked", None)
            if isinstance(layer, _BatchNorm) and not layer.training and count is not None and not int(count):
                warnings.warn(
                    f"{part}.{name} is in evaluation mode, but has never measured a mean and a variance: it has not "
                    "seen a batch in training mode.",
                    stacklevel=4,
                )
                return


def _is_random(scores: Scores, groups: Sequence[Episodes]) -> bool:
    """Whether the same queries get other scores with other random numbers."""
    calls = [(episodes, row, np.arange(episodes.queries.shape[1])) for episodes, row in _first_episodes(groups)]
    return any(differs(scores(*call), scores(*call, draw=1)) for call in calls)


def _found_by_scoring(scores: Scores, groups: Sequence[Episodes]) -> str:
    """How scores depend on the other queries, in words; empty if they do not."""
    for number, (episodes, row) in enumerate(_first_episodes(groups)):
        plain = scores(episodes, row, np.arange(episodes.queries.shape[1]))
        for order, name in _orders(len(plain), number):
            try:
                found = scores(episodes, row, order)
            except PluginError as error:
                return f"it fails for queries {name}: {error}"
            if differs(plain[order], found):
                return f"scores change for queries {name}"
    return ""


def _first_episodes(groups: Sequence[Episodes]) -> Iterator[tuple[Episodes, int]]:
    everything = [(group, row) for group in groups for row in range(len(group))]
    yield from everything[:_CHECKED_EPISODES]


def _orders(count: int, seed: int) -> Iterator[tuple[NDArray[np.int64], str]]:
    """Positions of the queries of a call, and the name of their order."""
    shuffled = np.random.default_rng(seed).permutation(count)
    yield shuffled, "in another order"
    for part in (np.arange(count)[::2], np.arange(count)[1::2]):
        if len(part):
            yield part, "in halves"
    for position in shuffled[:_SINGLE_QUERIES]:
        yield np.array([position]), "alone"


def differs(before: Tensor, after: Tensor) -> bool:
    """Whether scores differ by more than rounding."""
    scale = float(before.std()) if before.numel() > 1 else 0.0
    return float((before - after).abs().max()) > _ROUNDING * scale + 1e-6 * float(before.abs().max())
