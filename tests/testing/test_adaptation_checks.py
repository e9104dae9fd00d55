"""Every check of an adaptation finds what it is for, in methods that somebody could write."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import batch_norm, normalize

from fewshot_bench.adaptation import EmbeddedSplit, EmbeddingAdaptation, nearest_centroid
from fewshot_bench.errors import FewshotBenchError, UnknownNameError
from fewshot_bench.testing import ADAPTATION_PROPERTIES, ConformanceError, check_adaptation

Function = Callable[[Tensor, Tensor], Tensor]


def centroid(support: Tensor, query: Tensor) -> Tensor:
    return nearest_centroid(support, query)


def squared(support: Tensor, query: Tensor) -> Tensor:
    """Squared distances to the centroids, [E, M, N]."""
    return (query.unsqueeze(2) - support.mean(2).unsqueeze(1)).square().sum(-1)


def with_noise(noise: Callable[[tuple[int, ...]], Any]) -> Function:
    return lambda support, query: centroid(support, query) + torch.as_tensor(noise((query.shape[1], 1))).float()


def seeding(support: Tensor, query: Tensor) -> Tensor:
    torch.manual_seed(0)
    return centroid(support, query)


def counting() -> Function:
    calls: list[int] = []

    def method(support: Tensor, query: Tensor) -> Tensor:
        calls.append(1)
        return centroid(support, query) * len(calls)

    return method


def caching() -> Function:
    """Keeps the centroids of the first call with as many episodes."""
    kept: dict[tuple[int, ...], Tensor] = {}
    return lambda support, query: centroid(kept.setdefault(tuple(support.shape), support), query)


def random_head(support: Tensor, query: Tensor) -> Tensor:
    start = torch.randn(support.shape[1], support.shape[3], generator=torch.Generator().manual_seed(0))
    return query @ (support.mean(2) + 10 * start).transpose(1, 2)


def by_place(support: Tensor, query: Tensor) -> Tensor:
    """Knows that queries come class by class."""
    way, queries = support.shape[1], query.shape[1]
    place = torch.arange(queries) * way // queries
    return centroid(support, query) + (place.unsqueeze(1) == torch.arange(way)).float()


def batch_normalised(support: Tensor, query: Tensor) -> Tensor:
    """Each episode's queries by their own mean and variance."""
    columns = query.transpose(1, 2).reshape(1, -1, query.shape[1])
    normal = batch_norm(columns, None, None, training=query.shape[1] > 1).view(query.shape[0], -1, query.shape[1])
    return centroid(normalize(support, dim=-1), normal.transpose(1, 2))


def many_queries(support: Tensor, query: Tensor) -> Tensor:
    """Centred by the queries if they are many."""
    return centroid(support, query - query.mean(1, keepdim=True) if query.shape[1] > 10 else query)


def per_query_softmax(support: Tensor, query: Tensor) -> Tensor:
    return (10 * centroid(support, query)).log_softmax(dim=1)


def across_episodes(support: Tensor, query: Tensor) -> Tensor:
    mean = support.mean(dim=(0, 1, 2))
    return centroid(support - mean, query - mean)


BROKEN: Mapping[str, Mapping[str, Function]] = {
    "shapes": {
        "swapped axes": lambda support, query: centroid(support, query).transpose(1, 2),
        "labels": lambda support, query: centroid(support, query).argmax(-1),
        "axes of length one lost": lambda support, query: centroid(support, query).squeeze(),
        "two images needed": lambda support, query: centroid(support[:, :, 1:], query),
    },
    "dtype": {
        "half": lambda support, query: centroid(support, query).half(),
        "bfloat16": lambda support, query: centroid(support, query).bfloat16(),
    },
    "finite": {
        "a norm of zero": lambda support, query: query / query.norm(dim=-1, keepdim=True) @ support.mean(2).mT,
        "a spread of one": lambda support, query: squared(support, query) / -support.std(2).mean(-1).unsqueeze(1),
        "no spread": lambda support, query: centroid(support, query) / query.var(dim=(1, 2), keepdim=True),
        "a logarithm": lambda support, query: -squared(support, query).log(),
    },
    "accuracy": {"distances": squared, "a constant": lambda support, query: 0 * squared(support, query)},
    "determinism": {
        "torch": with_noise(lambda shape: torch.randn(shape)),
        "NumPy": with_noise(lambda shape: np.random.random(shape)),  # noqa: NPY002
        "Python": with_noise(lambda shape: random.random()),
        "unused random numbers": lambda support, query: centroid(support, query) + 0 * torch.rand(1),
        "seeding": seeding,
        "state": counting(),
    },
    "support_order": {
        "the first image": lambda support, query: centroid(support[:, :, :1], query),
        "weights by place": lambda support, query: centroid(
            support * torch.arange(1.0, 1 + support.shape[2]).view(-1, 1), query
        ),
    },
    "class_order": {
        "the first class": lambda support, query: centroid(support, query) + torch.eye(support.shape[1])[0],
        "a random head": random_head,
    },
    "query_order": {
        "places": by_place,
        "queries before": lambda support, query: centroid(support, query.cumsum(1)),
    },
    "episodes": {"the chunk's mean": across_episodes, "a cache": caching()},
    "chunks": {"the chunk's mean": across_episodes, "a cache": caching()},
    "transduction": {
        "batch norm": batch_normalised,
        "centred": lambda support, query: centroid(support, query - query.mean(1, keepdim=True)),
        "a softmax over queries": per_query_softmax,
        "where there are many": many_queries,
    },
    "device": {
        "a tensor on the CPU": lambda support, query: centroid(support, query) + torch.zeros(support.shape[1]),
        "scores on the CPU": lambda support, query: centroid(support, query).cpu(),
    },
}
CASES = [(name, how) for name, methods in BROKEN.items() for how in methods]


@pytest.mark.parametrize(("name", "how"), CASES, ids=lambda text: text)
def test_a_function_that_lacks_a_property_is_told_which(name: str, how: str) -> None:
    if name in ("transduction", "episodes"):
        check_adaptation(BROKEN[name][how], "shapes", "query_order")
    with pytest.raises(ConformanceError, match=f"lacks the property '{name}': ") as caught:
        check_adaptation(BROKEN[name][how], name)
    assert isinstance(caught.value, AssertionError)
    assert isinstance(caught.value, FewshotBenchError)


@dataclass(frozen=True, kw_only=True)
class Good(EmbeddingAdaptation):
    """Nearest centroid in float64."""

    name: ClassVar[str] = "good"
    scale: float = 1.0

    def scores(self, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
        return self.scale * nearest_centroid(split.rows(support), split.rows(query)).double()


@dataclass(frozen=True, kw_only=True)
class ChangesEmbeddings(Good):
    name: ClassVar[str] = "changes embeddings"

    def scores(self, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
        split.embeddings.sub_(split.embeddings.mean(0))
        return super().scores(split, support, query)


@dataclass(frozen=True, kw_only=True)
class SortsQueries(Good):
    name: ClassVar[str] = "sorts queries"

    def scores(self, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
        return super().scores(split, support, query.copy_(query.flip(1)))


@dataclass(frozen=True, kw_only=True)
class HidesASetting(Good):
    name: ClassVar[str] = "hides"
    root: bool = False

    def scores(self, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
        return super().scores(split, support, query) * (-1 if self.root else 1)

    def hyper_parameters(self) -> dict[str, Any]:
        values = super().hyper_parameters()
        values.pop("root")
        return values


@dataclass(frozen=True, kw_only=True)
class NoField(Good):
    name: ClassVar[str] = "no field"
    scale = 10


@dataclass(frozen=True, kw_only=True)
class ClaimsToBeTransductive(Good):
    name: ClassVar[str] = "claims"

    @property
    def is_transductive(self) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class OwnProducts(Good):
    name: ClassVar[str] = "own products"

    def scores(self, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
        scores = super().scores(split, support, query)
        return scores if split.gram is None else scores + split.gram[query, query].unsqueeze(2) * scores.argsort()


@dataclass(frozen=True, kw_only=True)
class ThinksSmall(Good):
    name: ClassVar[str] = "thinks small"

    def floats_per_episode(self, way: int, shot: int, queries: int, embedding_size: int) -> int:
        return 1000


@pytest.mark.parametrize(
    ("name", "adaptation"),
    [
        ("inputs", ChangesEmbeddings()),
        ("inputs", SortsQueries()),
        ("settings", HidesASetting()),
        ("settings", NoField()),
        ("transduction", ClaimsToBeTransductive()),
        ("gram", OwnProducts()),
        ("memory", ThinksSmall()),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_an_adaptation_that_lacks_a_property_is_told_which(name: str, adaptation: EmbeddingAdaptation) -> None:
    with pytest.raises(ConformanceError, match=f"{adaptation.name} lacks the property '{name}': "):
        check_adaptation(adaptation, name)


def test_every_property_has_a_method_that_lacks_it() -> None:
    assert set(BROKEN) | {"inputs", "settings", "gram", "memory"} == set(ADAPTATION_PROPERTIES)


@pytest.mark.slow
@pytest.mark.parametrize(
    "subject", [Good, Good(scale=2.0), centroid, "centroid"], ids=["class", "instance", "function", "name"]
)
def test_what_has_all_properties_passes_as_class_instance_function_or_name(subject: Any) -> None:
    check_adaptation(subject)


def test_the_sentence_says_what_how_far_off_and_how_to_mend_it() -> None:
    with pytest.raises(ConformanceError) as caught:
        check_adaptation(BROKEN["transduction"]["centred"], "transduction")
    sentence = str(caught.value)
    assert "fewer other queries change the scores of a query" in sentence
    assert "scores differ, by up to " in sentence
    assert "remove them" in sentence
    assert "\n" not in sentence


def test_an_error_of_the_method_is_told_by_its_line() -> None:
    with pytest.raises(ConformanceError, match=r"test_adaptation_checks\.py, line \d+, in <lambda>: ZeroDivisionError"):
        check_adaptation(lambda support, query: 1 // 0, "shapes")  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("subject", [3, object, None], ids=["number", "class", "nothing"])
def test_what_is_no_adaptation_is_refused(subject: Any) -> None:
    with pytest.raises(ConformanceError, match="Pass an instance, its class"):
        check_adaptation(subject)


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean finite"):
        check_adaptation(Good(), "finit")
    with pytest.raises(UnknownNameError, match="Did you mean centroid"):
        check_adaptation("centroit")
