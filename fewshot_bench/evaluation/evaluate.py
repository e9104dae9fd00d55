"""From a method, embeddings and episodes to an evaluation, in one call."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from fewshot_bench._io.versions import installed_versions
from fewshot_bench.adaptation import ADAPTATIONS, Adaptation, EmbeddingAdaptation, check_fields, code_of_adaptation
from fewshot_bench.adaptation.checked_predictions import check_adaptation
from fewshot_bench.adaptation.embedded_split import EmbeddedSplit
from fewshot_bench.arguments import checked_arguments
from fewshot_bench.arrays import as_array, is_real
from fewshot_bench.code_identity import code_of_call
from fewshot_bench.devices import chosen_device
from fewshot_bench.engine.classify import classify, gram_pays, outcome_card, outcome_frame, together
from fewshot_bench.episodes.sampler import Episodes
from fewshot_bench.errors import EmbeddingError, EpisodeError, StudyError
from fewshot_bench.evaluation.evaluation import Evaluation
from fewshot_bench.evaluation.functions import ScoreFunction, adaptation_of, queries_of_function
from fewshot_bench.evaluation.query_use import QueryUse
from fewshot_bench.outcomes import Cell, MethodCard, Outcomes
from fewshot_bench.outcomes.schema import NAME_RULE, is_name
from fewshot_bench.plugins import described

_METHODS = (
    "an adaptation such as fb.Centroid(), its name, or a function from support embeddings [E, N, K, D] and query "
    "embeddings [E, M, D] to scores [E, M, N]"
)


@checked_arguments
def evaluate(
    method: EmbeddingAdaptation | str | ScoreFunction,
    embeddings: ArrayLike | torch.Tensor,
    episodes: Episodes | Sequence[Episodes],
    *,
    name: str = "",
    device: str | torch.device = "cpu",
    chunk: int | None = None,
) -> Evaluation:
    """Adapt a method to every episode, and classify its queries.

    The code of a function is part of the method, as that of an adaptation is: edited code is another method. A lambda,
    a closure, or a function of a notebook is a method of this process only. Whether the queries of an episode inform
    each other's scores is found out.

    Args:
        method: an adaptation such as `Centroid()` or `Logistic(C=10)`; its name, such as "centroid"; or a function from
            support embeddings [E, N, K, D] and query embeddings [E, M, D], float32 tensors as they were given, to
            scores [E, M, N], a tensor or an array, higher is closer.
        embeddings: of all images of the episodes' split, in canonical order, [I, D]: an array, or a tensor on any
            device. Other real numbers than float32 are converted to it.
        episodes: of `sample_episodes`, of each shape from `sample_by_shape`, of several runs, or recorded.
        name: of the method; that of the adaptation or the function by default.
        device: the torch device to compute on.
        chunk: episodes at once; never changes a result.

    Raises:
        UnknownNameError: there is no adaptation of that name.
        StudyError: the method is something else, or needs images; or the device is not here.
        EmbeddingError: the embeddings are not finite, those of another split, or lack what the adaptation needs.
        EpisodeError: the episodes are of several protocols, or some come twice.
        PluginError: your function or adaptation raised, or returned something else than scores; or the function gives
            an episode other scores beside other episodes.
        CodeError: the adaptation's class has settings that cannot be recorded.

    >>> import fewshot_bench as fb
    >>> novel = fb.open_dataset("glyphs").novel
    >>> episodes = fb.sample_episodes(novel, fb.Protocol("glyphs", shot=5, episodes=50, runs=1))
    >>> pixels = novel.images.reshape(len(novel), -1)
    >>> def nearest_mean(support, query):
    ...     return -(query.unsqueeze(2) - support.mean(dim=2).unsqueeze(1)).square().sum(dim=-1)
    >>> fb.evaluate(nearest_mean, pixels, episodes)
    <Evaluation: nearest_mean, glyphs 5-way 5-shot, 50 episodes, 45.04% ± 2.29 (data ± 5.46)>
    """
    groups = _groups_of(episodes)
    resolved = _resolved(method)
    adaptation = resolved.adaptation
    name = name or adaptation.name
    if not isinstance(name, str) or not is_name(name):
        raise StudyError(f"{str(name)[:40]!r} is not a name for the method, which is {NAME_RULE}.")
    if chunk is not None and chunk < 1:
        raise StudyError(f"a chunk should have 1 episode or more, not {chunk}.")
    numbers = _checked_embeddings(embeddings, groups, adaptation)
    split = EmbeddedSplit(torch.from_numpy(numbers).to(chosen_device(str(device))), len(numbers)).with_features(
        adaptation.features
    )
    work = [(len(group), group.way, group.shot, group.protocol.query) for group in groups]
    split = split.with_gram() if gram_pays(adaptation, len(numbers), work) else split
    queries = queries_of_function(adaptation, split, groups, chunk=chunk) if resolved.is_function else None
    # Hashing releases Python's lock, and takes a tenth of the time of nearest centroids.
    with ThreadPoolExecutor(1) as executor:
        digest = executor.submit(_digest, numbers)
        frames = [outcome_frame(group, classify(adaptation, split, group, chunk=chunk)) for group in groups]
    cell = Cell(
        _card(resolved, name, digest.result(), queries),
        outcome_card(groups),
        installed_versions(),
        class_sizes=groups[0].class_sizes,
        provenance={
            "platform": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            **({} if queries is None else {"queries": queries.reason}),
        },
        class_names=groups[0].class_names,
    )
    return Evaluation(Outcomes(cell, together(frames)))


@dataclass(frozen=True)
class _Resolved:
    """A method as an adaptation, with the records of its code."""

    adaptation: EmbeddingAdaptation
    code: dict[str, Any]
    is_function: bool = False


def _resolved(method: object) -> _Resolved:
    if isinstance(method, str):
        entry = ADAPTATIONS[method]
        method = entry.factory(**entry.preset)
    if isinstance(method, type) and issubclass(method, Adaptation):
        raise StudyError(f"{method.__name__} is a class. Pass one of its adaptations: {method.__name__}().")
    if isinstance(method, Adaptation):
        check_fields(type(method).__name__, type(method))
        adaptation = check_adaptation(method, type(method).__name__)
        if not isinstance(adaptation, EmbeddingAdaptation):
            raise StudyError(f"{adaptation.name} needs images, not only embeddings. Use fewshot_bench.run_study.")
        return _Resolved(adaptation, code_of_adaptation(adaptation))
    if not callable(method) or isinstance(method, type):
        raise StudyError(f"the method should be {_METHODS}; it is {described(method)}.")
    code = code_of_call(method)
    return _Resolved(adaptation_of(method), {} if code is None else {"adaptation": code.as_record()}, is_function=True)


def _card(resolved: _Resolved, name: str, weights: str, queries: QueryUse | None) -> MethodCard:
    adaptation = resolved.adaptation
    return MethodCard(
        name=name,
        backbone="embeddings",
        weights=weights,
        adaptation=adaptation.name,
        hyper_parameters=adaptation.hyper_parameters(),
        is_transductive=adaptation.is_transductive if queries is None else queries.is_transductive,
        code=resolved.code,
        assumes_balanced_queries=adaptation.assumes_balanced_queries,
    )


def _digest(embeddings: NDArray[np.float32]) -> str:
    """Digest of the numbers in memory, 64 hexadecimal digits; contiguous ones are not copied."""
    return hashlib.sha256(np.ascontiguousarray(embeddings).data).hexdigest()


def _groups_of(episodes: object) -> list[Episodes]:
    """Episodes by their shape; raises EpisodeError for other objects, without any, or with some twice."""
    groups = list(episodes) if isinstance(episodes, list | tuple) else [episodes]
    known = [group for group in groups if isinstance(group, Episodes)]
    if len(known) < len(groups) or not groups:
        wrong = [described(group) for group in groups if not isinstance(group, Episodes)]
        found = wrong[0] if wrong else "an empty list"
        raise EpisodeError(f"episodes should be those of sample_episodes, or a list of them, not {found}.")
    if any(not group.shot for group in known):
        raise EpisodeError(
            "episodes of a whole split have no support sets to adapt to. Use fewshot_bench.run_study with "
            "protocol='full'."
        )
    outcome_card(known)
    identities = np.concatenate([np.stack([np.full(len(group), group.run), group.numbers]) for group in known], axis=1)
    if not identities.size:
        raise EpisodeError("there is no episode to evaluate on.")
    if np.unique(identities, axis=1).shape != identities.shape:
        raise EpisodeError("some episodes come twice. Pass each run and number once.")
    return known


def _checked_embeddings(
    embeddings: object, groups: Sequence[Episodes], adaptation: EmbeddingAdaptation
) -> NDArray[np.float32]:
    """Embeddings as float32 [I, D], checked against the episodes and what the adaptation needs."""
    try:
        array = as_array(embeddings)
    except ValueError as error:
        raise EmbeddingError(f"embeddings should be real numbers [I, D]: {error}.") from error
    if array.ndim != 2 or not is_real(array) or not array.shape[1]:
        raise EmbeddingError(f"embeddings should be real numbers [I, D], not {array.dtype} {list(array.shape)}.")
    largest = max(int(group.images.max()) for group in groups)
    images = sum(groups[0].class_sizes)
    if largest >= len(array) or (images and images != len(array)):
        split = f"the split has {images:,} images" if images else f"the episodes name image {largest:,}"
        raise EmbeddingError(
            f"{split}, but there are {len(array):,} embeddings. Embed the split that the episodes were drawn from."
        )
    if not np.isfinite(array).all():
        raise EmbeddingError("the embeddings hold NaN or infinite values.")
    with np.errstate(over="ignore"):
        numbers = array.astype(np.float32, copy=False)
    if array.dtype != np.float32 and not np.isfinite(numbers).all():
        raise EmbeddingError(f"the embeddings hold values of {array.dtype} that float32 does not.")
    if adaptation.augmented_views or adaptation.features == "cl2" or adaptation.needs_base_covariance:
        raise EmbeddingError(
            f"{adaptation.name} with these hyper-parameters needs more than the plain embeddings of one split. "
            "Use fewshot_bench.run_study."
        )
    return numbers
