"""Hyper-parameters without a validation split: chosen in each episode from its support set, or averaged over.

"support-cv" is cross-validation within the support set. The K images of each class are dealt into min(K, 5) folds, one
fold of every class is held out at a time, and the values with which most held-out images are classified correctly then
classify the queries. Images are dealt, and asked, in an order that their content decides. A held-out image for which
several classes share the highest score counts as a fraction. Between equally good values the earlier one of the grid is
taken, the default first. A transductive head also sees the unlabelled queries meanwhile, since it needs about as many
images as it will have.

"ensemble" averages the scores of all values, standardised over the classes of each query because their scales differ.
The default counts a thousandth more, which decides ties.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from fewshot_bench.adaptation.base import EmbeddingAdaptation
from fewshot_bench.adaptation.embedded_split import EmbeddedSplit
from fewshot_bench.errors import StudyError

MOST_FOLDS = 5
MOST_COMBINATIONS = 64
_TIED = 1e-6  # of the largest score of a query
_OF_THE_DEFAULT = 1e-3  # the default's extra weight in an ensemble, which decides ties up to rounding


def scores_of(adaptation: EmbeddingAdaptation, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
    """The scores of an adaptation, with its hyper-parameters chosen as its `choose` says.

    Arguments and result are those of `EmbeddingAdaptation.scores`.

    Raises:
        StudyError: there is nothing to choose between, or only one image per class.
    """
    if adaptation.choose == "none":
        return adaptation.scores(split, support, query)
    members = alternatives(adaptation)
    if adaptation.choose == "ensemble":
        return _ensemble(members, split, support, query)
    return _chosen(members, _best(members, split, support, query), split, support, query)


def chosen_for(adaptation: EmbeddingAdaptation, split: EmbeddedSplit, support: Tensor) -> EmbeddingAdaptation:
    """The adaptation with the hyper-parameters that "support-cv" chooses for one support set, [1, N, K].

    Raises:
        StudyError: it is transductive, so that queries have a say, or as for `scores_of`.
    """
    members = alternatives(adaptation)
    if any(member.is_transductive for member in members):
        raise StudyError(f"{adaptation.name} is transductive, so its queries have a say in what is chosen.")
    return members[int(_best(members, split, support, support[:, :, 0]))]


def alternatives(adaptation: EmbeddingAdaptation) -> list[EmbeddingAdaptation]:
    """The adaptation with every combination of the values to try, the preferred one first.

    Raises:
        StudyError: a value is refused, or there are no or too many combinations.
    """
    tried = adaptation.tried
    if not tried:
        raise StudyError(nothing_to_choose(adaptation.name, adaptation.grid))
    known = {field.name for field in fields(adaptation)} - {"features", "choose", "candidates"}
    for name, values in tried.items():
        if name not in known:
            raise StudyError(f"{adaptation.name} cannot choose {name} in each episode. Known: {', '.join(known)}.")
        if len(values) < 2 or any(value in values[:place] for place, value in enumerate(values)):
            raise StudyError(f"{name} of {adaptation.name} is chosen between different values, at least two.")
    if math.prod(map(len, tried.values())) > MOST_COMBINATIONS:
        raise StudyError(f"{adaptation.name} can choose between {MOST_COMBINATIONS} combinations at most.")
    combinations = itertools.product(*tried.values())
    members = [
        replace(adaptation, choose="none", candidates=None, **dict(zip(tried, values, strict=True)))
        for values in combinations
    ]
    for member in members:
        _check_same_kind(adaptation, member)
    return members


_NEEDS = {
    "augmented_views": "other augmented views",
    "augmentation_of_views": "other augmented views",
    "needs_base_covariance": "other statistics of the base split",
}
_CLAIMS = {"is_transductive": "transductive", "assumes_balanced_queries": "for balanced queries"}


def _check_same_kind(adaptation: EmbeddingAdaptation, member: EmbeddingAdaptation) -> None:
    """Refuse a value that needs other inputs than the method, or makes it transductive or balanced.

    Raises:
        StudyError: it does.
    """
    advice = "Set that value without --choose."
    for attribute, needs in _NEEDS.items():
        if getattr(member, attribute) != getattr(adaptation, attribute):
            raise StudyError(f"{adaptation.name} is given values to choose between that need {needs}. {advice}")
    for attribute, kind in _CLAIMS.items():
        if getattr(member, attribute) and not getattr(adaptation, attribute):
            raise StudyError(f"{adaptation.name} is given values to choose between, and some make it {kind}. {advice}")


def nothing_to_choose(name: str, grid: Mapping[str, tuple[Any, ...]]) -> str:
    """The message for a head without a hyper-parameter left to choose."""
    if grid:
        return f"nothing of {name} is left to choose: {' and '.join(grid)} is set. Leave out --choose, or --set."
    return f"{name} knows no values to choose between. Give them, such as --set NAME=0.1,1,10, or leave out --choose."


class OneShotError(StudyError):
    """Support-cv, where every class has one image."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"support-cv chooses the hyper-parameters of {name} by holding out an image of each class, and at 1 shot "
            "none would be left to learn from. Use --shots 5, or --choose ensemble."
        )


def floats_per_episode(adaptation: EmbeddingAdaptation, way: int, shot: int, queries: int, embedding_size: int) -> int:
    """`EmbeddingAdaptation.floats_per_episode`, including the folds and values to try."""
    if adaptation.choose == "none":
        return adaptation.floats_per_episode(way, shot, queries, embedding_size)
    members = alternatives(adaptation)
    at_the_end = max(member.floats_per_episode(way, shot, queries, embedding_size) for member in members)
    kept = (2 * len(members) + 2) * queries * way
    if adaptation.choose == "ensemble" or shot < 2:
        return int(at_the_end + kept)
    asked = way * -(-shot // MOST_FOLDS) + (queries if adaptation.is_transductive else 0)
    folds = min(shot, MOST_FOLDS)
    in_folds = folds * max(member.floats_per_episode(way, shot - 1, asked, embedding_size) for member in members)
    return int(max(at_the_end, in_folds) + kept)


def products_per_episode(adaptation: EmbeddingAdaptation, way: int, shot: int, query: int) -> int:
    """The most inner products that an episode with Q queries per class needs, with all folds and values."""
    plain = _products(adaptation, way * shot, way * query)
    if adaptation.choose == "none":
        return plain
    members = math.prod(map(len, adaptation.tried.values()))
    if adaptation.choose == "ensemble":
        return members * plain
    asked = 1 + (query if adaptation.is_transductive else 0)  # besides the support set of a fold
    return plain + members * min(shot, MOST_FOLDS) * _products(adaptation, way * (shot - 1), way * asked)


def _products(adaptation: EmbeddingAdaptation, labelled: int, queries: int) -> int:
    """Inner products of one episode; a transductive head also compares the queries with each other."""
    rows = labelled + (queries if adaptation.is_transductive else 0)
    return rows * (labelled + queries)


def _ensemble(members: list[EmbeddingAdaptation], split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
    total = (1 + _OF_THE_DEFAULT) * standardised(members[0].scores(split, support, query))
    for member in members[1:]:
        total = total + standardised(member.scores(split, support, query))
    return total / (len(members) + _OF_THE_DEFAULT)


def standardised(scores: Tensor) -> Tensor:
    """Scores [E, M, N] with mean 0 and standard deviation 1 over the classes, float64; 0 where all are equal.

    >>> standardised(torch.tensor([[[1.0, 3.0], [5.0, 5.0]]]))
    tensor([[[-1.,  1.],
             [ 0.,  0.]]], dtype=torch.float64)
    """
    scores = scores.double()
    largest = scores.abs().amax(dim=-1, keepdim=True)
    centred = scores - scores.mean(dim=-1, keepdim=True)
    deviation = centred.square().mean(dim=-1, keepdim=True).sqrt()
    return torch.where(deviation > 1e-12 * largest, centred / deviation.clamp_min(1e-300), 0)


def _chosen(
    members: list[EmbeddingAdaptation], best: Tensor, split: EmbeddedSplit, support: Tensor, query: Tensor
) -> Tensor:
    """Scores of every episode by the member with the number in `best`, [E]."""
    parts, places = [], []
    for number, member in enumerate(members):
        mine = torch.nonzero(best == number).flatten()
        if len(mine):
            parts.append(member.scores(split, support[mine], query[mine]))
            places.append(mine)
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts)[torch.cat(places).argsort()]


def _best(members: list[EmbeddingAdaptation], split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
    """The member that classifies most held-out images correctly, [E]; between equals the first."""
    if support.shape[2] < 2:
        raise OneShotError(members[0].name)
    right = torch.zeros(len(members), len(support), dtype=torch.float64, device=support.device)
    for learned, held_out, truth in folds_of(split, support):
        folds = len(learned) // len(support)
        asked = held_out
        if any(member.is_transductive for member in members):
            asked = torch.cat([held_out, query.repeat(folds, 1)], dim=1)
        for number, member in enumerate(members):
            scores = member.scores(split, learned, asked)[:, : held_out.shape[1]]
            right[number] += _share_right(scores, truth).view(folds, len(support)).sum(dim=0)
    # Fractions that add up to the same number in another order are the same.
    return (right * 2**20).round().argmax(dim=0)


def _share_right(scores: Tensor, truth: Tensor) -> Tensor:
    """How many images are classified correctly, [E], by scores [E, M, N]; a tie between t classes counts as 1/t."""
    scores = scores.double()
    margin = _TIED * scores.abs().amax(dim=-1, keepdim=True)
    is_best = scores >= scores.amax(dim=-1, keepdim=True) - margin
    is_right = is_best.gather(2, truth.unsqueeze(2)).squeeze(2)
    return (is_right / is_best.sum(dim=-1)).sum(dim=1)


def folds_of(split: EmbeddedSplit, support: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Deal the images of each class, K of 2 or more, into folds, and hold out each fold in turn.

    Yields:
        Folds of one size together, F of them, fold by fold: what is learned from [F * E, N, K - h], what is held out
        [F * E, N * h], and the class of each image that is held out [F * E, N * h].
    """
    way, shot = support.shape[1:]
    images = support.gather(2, split.order[support].argsort(dim=2))
    fold = torch.arange(shot, device=support.device) % MOST_FOLDS
    sizes = torch.bincount(fold)
    classes = torch.arange(way, device=support.device)
    for size in sorted(set(sizes.tolist())):
        folds = torch.nonzero(sizes == size).flatten().tolist()
        learned = torch.cat([images[:, :, fold != number] for number in folds])
        held_out = torch.cat([images[:, :, fold == number] for number in folds]).flatten(1)
        truth = classes.repeat_interleave(size).expand(len(held_out), -1)
        mixed = split.order[held_out].argsort(dim=1)
        yield learned, held_out.gather(1, mixed), truth.gather(1, mixed)
