"""What every adaptation of embeddings must keep, so that its accuracy means something and a chunk changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from fewshot_bench.adaptation import ADAPTATIONS, EmbeddedSplit, EmbeddingAdaptation, check_fields
from fewshot_bench.adaptation.base import words_of
from fewshot_bench.adaptation.checked_predictions import check_adaptation as check_declarations
from fewshot_bench.adaptation.checked_predictions import checked_scores
from fewshot_bench.engine.classify import classify
from fewshot_bench.errors import ConformanceError, FewshotBenchError
from fewshot_bench.evaluation.functions import FunctionAdaptation, adaptation_of
from fewshot_bench.plugins import described
from fewshot_bench.testing.clusters import (
    as_wanted,
    clustered_split,
    drawn_episodes,
    support_and_query,
)
from fewshot_bench.testing.conformance import (
    Properties,
    difference,
    expect,
    is_mixing_devices,
    other_random_numbers,
    random_states,
    second_device,
)

Function = Callable[[Tensor, Tensor], Tensor]
"""Embeddings of the support sets [E, N, K, D] and of the queries [E, M, D] -> scores [E, M, N]."""


def check_adaptation(adaptation: EmbeddingAdaptation | type | Function | str, *properties: str) -> None:
    """Check that an adaptation has the properties that results rely on, on clusters of made-up embeddings.

    Args:
        adaptation: an instance, a class (checked at its defaults), a registered name, or a function from embeddings of
            the support sets [E, N, K, D] and of the queries [E, M, D] to scores [E, M, N], which counts as inductive.
        properties: some of `ADAPTATION_PROPERTIES`; none for all.

    Raises:
        ConformanceError: it lacks a property. The sentence says which, how far off it is and how to mend it.
        UnknownNameError: there is no such property or adaptation.

    >>> check_adaptation("centroid", "shapes", "query_order")
    >>> check_adaptation(lambda support, query: -torch.cdist(query, support.mean(2)), "shapes")
    """
    made = _made(adaptation)
    ADAPTATION_PROPERTIES.check(made.name, made, properties)


def _made(adaptation: EmbeddingAdaptation | type | Function | str) -> EmbeddingAdaptation:
    made: object = adaptation
    if isinstance(made, str):
        entry = ADAPTATIONS[made]
        made = entry.factory(**entry.preset)
    elif isinstance(made, type):
        check_fields(made.__name__, made)
        made = made()
    elif not isinstance(made, EmbeddingAdaptation) and callable(made):
        return adaptation_of(made)
    if not isinstance(made, EmbeddingAdaptation):
        raise ConformanceError(
            f"{described(made)} is not an EmbeddingAdaptation. Pass an instance, its class, its registered name, or a "
            "function from support [E, N, K, D] and query [E, M, D] to scores [E, M, N]."
        )
    return made


@torch.no_grad()
def _scores(
    adaptation: EmbeddingAdaptation, support: Tensor, query: Tensor, split: EmbeddedSplit | None = None
) -> Tensor:
    return checked_scores(adaptation, _embedded(adaptation) if split is None else split, support, query)


def _embedded(adaptation: EmbeddingAdaptation, size: int = 40) -> EmbeddedSplit:
    return as_wanted(clustered_split(size=size, views=adaptation.augmented_views), adaptation)


def _drawn(shot: int = 2, way: int = 5, query: int = 6, count: int = 8) -> tuple[Tensor, Tensor]:
    return support_and_query(drawn_episodes(count, way=way, shot=shot, query=query))


def _changed(found: Tensor, expected: Tensor) -> str:
    """How scores differ, and predictions that are no ties; empty if they do not."""
    finding = difference(found, expected, "scores")
    best = expected.double().topk(2, dim=-1).values
    is_clear = best[..., 0] - best[..., 1] > 1e-6 * expected.abs().max()
    others = int(((found.argmax(-1) != expected.argmax(-1)) & is_clear).sum())
    if others:
        predictions = f"{others:,} of {is_clear.numel():,} predictions differ"
        return f"{finding}; {predictions}" if finding else predictions
    return finding


def _settings(adaptation: EmbeddingAdaptation) -> None:
    if isinstance(adaptation, FunctionAdaptation):
        return
    check_fields(type(adaptation).__name__, type(adaptation))
    check_declarations(adaptation, type(adaptation).__name__)
    for name, changed in _other_settings(adaptation):
        if changed.hyper_parameters() != adaptation.hyper_parameters():
            continue
        parts = _drawn()
        finding = _changed(_scores(changed, *parts), _scores(adaptation, *parts))
        expect(
            finding,
            f"{name}={getattr(changed, name)} gives other scores than {name}={getattr(adaptation, name)} ({{}}), and "
            "hyper_parameters() is the same, so results of both would be mixed. Leave hyper_parameters() to the class "
            "above, which records every field.",
        )


def _other_settings(adaptation: EmbeddingAdaptation) -> Iterator[tuple[str, EmbeddingAdaptation]]:
    """Adaptations that differ in one setting, which it takes."""
    words = words_of(type(adaptation))
    for name in (field.name for field in fields(adaptation) if field.init and field.name not in ("choose", "features")):
        value = getattr(adaptation, name)
        others: list[Any] = [word for word in words.get(name, ()) if word != value]
        if isinstance(value, bool):
            others = [not value]
        elif isinstance(value, int | float):
            others = [value + 1, value / 2] if isinstance(value, float) else [value + 1]
        for other in others:
            try:
                yield name, replace(adaptation, **{name: other})
            except (FewshotBenchError, ValueError):
                continue


def _memory(adaptation: EmbeddingAdaptation) -> None:
    few, many = (adaptation.floats_per_episode(5, 1, queries, 64) for queries in (10, 1000))
    if not 0 < few < many:
        raise ConformanceError(
            f"floats_per_episode is {few:,} with 10 queries and {many:,} with 1,000, and should grow with them: chunks "
            "are sized by it. Give an upper estimate, or leave it to the class above."
        )


_SIZES = ((3, 2, 1, 1, 2), (1, 5, 1, 1, 40), (3, 2, 20, 3, 2), (2, 3, 2, 4, 600))
"""Episodes, way, shot, queries per class and embedding size."""


def _shapes(adaptation: EmbeddingAdaptation) -> None:
    for count, way, shot, query, size in _SIZES:
        _scores(adaptation, *_drawn(shot, way, query, count), _embedded(adaptation, size))  # shape and type are checked


def _dtype(adaptation: EmbeddingAdaptation) -> None:
    dtype = _scores(adaptation, *_drawn()).dtype
    if dtype not in (torch.float32, torch.float64):
        name = str(dtype).removeprefix("torch.")
        raise ConformanceError(
            f"scores of float32 embeddings are {name}, which rounds near scores to ties, and a tie goes to the first "
            "class. Return float32 or float64."
        )


def _finite(adaptation: EmbeddingAdaptation) -> None:
    plain = clustered_split(views=adaptation.augmented_views)
    copies = plain.embeddings[:1].expand_as(plain.embeddings).clone()
    is_zero = torch.rand(plain.images, generator=torch.Generator().manual_seed(0)).repeat(1 + plain.views).unsqueeze(1)
    cases = {
        "all images are the same": copies,
        "the embeddings of some images are zero": plain.embeddings.masked_fill(is_zero < 0.3, 0),
        "all embeddings are zero": torch.zeros_like(copies),
        "all embeddings are tiny": 1e-6 * plain.embeddings,
    }
    for shot in (1, 3):
        support, query = _drawn(shot, count=3)
        for case, embeddings in cases.items():
            split = as_wanted(EmbeddedSplit(embeddings, plain.images), adaptation)
            _finite_where(case, adaptation, support, query, split)
    support[:, :, 1] = support[:, :, 0]
    _finite_where("a support image comes twice", adaptation, support, query, _embedded(adaptation))


def _finite_where(
    case: str, adaptation: EmbeddingAdaptation, support: Tensor, query: Tensor, split: EmbeddedSplit
) -> None:
    try:
        _scores(adaptation, support, query, split)
    except FewshotBenchError as error:
        raise ConformanceError(
            f"where {case}: {str(error).rstrip('.')}. Bound divisors and logarithms from below, "
            "e.g. by clamp_min(1e-12)."
        ) from error


def _accuracy(adaptation: EmbeddingAdaptation) -> None:
    support, query = _drawn(shot=5, count=40)
    predicted = _scores(adaptation, support, query).argmax(-1)
    share = float((predicted == torch.arange(5).repeat_interleave(6)).double().mean())
    if share < 0.6:
        why = " Higher scores must be closer: return negative distances." if share < 0.15 else ""
        raise ConformanceError(
            f"{share:.0%} of the queries are classified correctly on 5-way 5-shot episodes of clear clusters, where "
            f"nearest centroids reach 95% and chance is 20%.{why}"
        )


def _inputs(adaptation: EmbeddingAdaptation) -> None:
    split, (support, query) = _embedded(adaptation), _drawn()
    given = {"the embeddings": split.embeddings, "support": support, "query": query}
    before = {name: tensor.clone() for name, tensor in given.items()}
    _scores(adaptation, support, query, split)
    for name, tensor in given.items():
        changed = int((tensor != before[name]).sum())
        if changed:
            raise ConformanceError(
                f"scores() changes {changed:,} of {tensor.numel():,} numbers of {name} in place, and the next episodes "
                "get them so. Replace operations that end in _ or have out=, such as normalize(..., out=x) or x /= n, "
                "by those that return a new tensor."
            )


def _determinism(adaptation: EmbeddingAdaptation) -> None:
    parts = _drawn()
    with other_random_numbers(1):
        before = random_states()
        first = _scores(adaptation, *parts)
        is_untouched = random_states() == before
    with other_random_numbers(2):
        expect(
            _changed(_scores(adaptation, *parts), first),
            "a second call gives other scores ({}). Draw random numbers from a torch.Generator of your own, seeded by "
            "a setting such as seed: int = 0, within scores(); keep nothing from an earlier call.",
        )
    if not is_untouched:
        raise ConformanceError(
            "scores() draws from or seeds the global random numbers of torch, NumPy or Python, so it changes those of "
            "others. Use a torch.Generator or numpy.random.default_rng of your own."
        )


def _support_order(adaptation: EmbeddingAdaptation) -> None:
    support, query = _drawn(shot=5)
    expected = _scores(adaptation, support, query)
    expect(
        _changed(_scores(adaptation, support[:, :, [3, 0, 4, 1, 2]], query), expected),
        "the order of the images within a class changes scores ({}). Use means, sums or other functions of the set.",
    )


def _class_order(adaptation: EmbeddingAdaptation) -> None:
    for way, shot in ((5, 1), (3, 2), (2, 3)):
        support, query = _drawn(shot, way, query=3, count=3)
        expected = _scores(adaptation, support, query)
        for order in (list(reversed(range(way))), [*range(1, way), 0]):
            expect(
                difference(_scores(adaptation, support[:, order], query), expected[:, :, order], "scores"),
                "the order of the classes changes scores beyond their order ({}). Treat every class alike; start heads "
                "from the support set rather than from random numbers.",
            )


def _query_order(adaptation: EmbeddingAdaptation) -> None:
    support, query = _drawn()
    order = torch.randperm(query.shape[1], generator=torch.Generator().manual_seed(0))
    expect(
        _changed(_scores(adaptation, support, query[:, order]), _scores(adaptation, support, query)[:, order]),
        "the order of the queries changes scores ({}). Queries come class by class in an episode, so a method that "
        "uses their places sees the truth. Score each query by itself or by functions of the set of queries.",
    )


def _episodes(adaptation: EmbeddingAdaptation) -> None:
    support, query = _drawn()
    expected = _scores(adaptation, support, query)
    cause = "Keep the axis of episodes apart in every mean, norm and fit, and keep nothing from one call to the next."
    for row in (0, 7):
        expect(
            _changed(_scores(adaptation, support[row : row + 1], query[row : row + 1]), expected[row : row + 1]),
            f"an episode alone gets other scores than among others ({{}}). {cause}",
        )
    expect(
        _changed(_scores(adaptation, support.flip(0), query.flip(0)).flip(0), expected),
        f"the order of the episodes changes their scores ({{}}). {cause}",
    )


def _chunks(adaptation: EmbeddingAdaptation) -> None:
    split = _embedded(adaptation)
    for shot in (1, 3):
        episodes = drawn_episodes(8, shot=shot)
        whole = classify(adaptation, split, episodes, chunk=8)
        for chunk in (1, 7):
            others = int((classify(adaptation, split, episodes, chunk=chunk) != whole).sum())
            if others:
                raise ConformanceError(
                    f"{others:,} of {whole.size:,} predictions differ in chunks of {chunk} from chunks of 8. Chunks "
                    "only bound memory: an episode's scores must not depend on its neighbours or on earlier calls."
                )


def _transduction(adaptation: EmbeddingAdaptation) -> None:
    if adaptation.is_transductive:
        support, query = _drawn(shot=1)
        alone, together = _scores(adaptation, support, query[:, :1]), _scores(adaptation, support, query)[:, :1]
        if torch.allclose(alone, together, rtol=1e-3, atol=1e-5):
            raise ConformanceError(
                "it is transductive by its declaration, but a query's scores do not depend on the other queries, and "
                "tables would rank it apart from its equals. Leave is_transductive out."
            )
        return
    support, query = _drawn()
    others = query.clone()
    others[:, 3:] = support[:, :1, 0]
    whole = _scores(adaptation, support, query)[:, :3]
    for queries, what in ((query[:, :3], "fewer other queries"), (others, "other images as the other queries")):
        expect(
            _changed(_scores(adaptation, support, queries)[:, :3], whole),
            f"it is inductive by its declaration, but {what} change the scores of a query ({{}}). Statistics over "
            "queries (means, norms, batch norm in training mode) are transductive: remove them, or let the property "
            "is_transductive return True.",
        )


def _gram(adaptation: EmbeddingAdaptation) -> None:
    split = _embedded(adaptation)
    for shot in (1, 5):
        parts = _drawn(shot)
        expect(
            _changed(_scores(adaptation, *parts, split.with_gram()), _scores(adaptation, *parts, split)),
            "scores change when the split has a Gram matrix ({}). Take inner products from split.products(), or use "
            "split.rows() alone.",
        )


def _device(adaptation: EmbeddingAdaptation) -> None:
    plain, parts = _embedded(adaptation), _drawn()
    way_out = "Make tensors on support.device, e.g. torch.arange(way, device=support.device)."
    with second_device() as device, torch.no_grad():
        covariance = None if plain.base_covariance is None else plain.base_covariance.to(device)
        split = EmbeddedSplit(plain.embeddings.to(device), plain.images, base_covariance=covariance)
        try:
            found: Any = adaptation.scores(split, *(part.to(device) for part in parts))
        except Exception as error:
            if is_mixing_devices(error):
                text = " ".join(str(error).split())[:200]
                raise ConformanceError(
                    f"it mixes the CPU with the device of the embeddings ({text}). {way_out}"
                ) from error
            if torch.cuda.is_available():
                raise
            return  # it reads values, and the stand-in has none
        where = found.device
    if where.type != device.type:
        raise ConformanceError(f"scores are on {where} where the embeddings are on {device}. {way_out}")


ADAPTATION_PROPERTIES = Properties(
    {
        "settings": _settings,
        "shapes": _shapes,
        "dtype": _dtype,
        "finite": _finite,
        "accuracy": _accuracy,
        "inputs": _inputs,
        "determinism": _determinism,
        "support_order": _support_order,
        "class_order": _class_order,
        "query_order": _query_order,
        "episodes": _episodes,
        "chunks": _chunks,
        "transduction": _transduction,
        "gram": _gram,
        "memory": _memory,
        "device": _device,
    }
)
"""The names of what `check_adaptation` checks, for `pytest.mark.parametrize`."""
