"""From embeddings and episodes to outcomes in memory, in one call of Python."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from fewshot_bench.adaptation import EmbeddedSplit, EmbeddingAdaptation, check_fields, code_of_adaptation
from fewshot_bench.engine.classify import classify, gram_pays
from fewshot_bench.episodes.protocol import Protocol
from fewshot_bench.episodes.sampler import Episodes
from fewshot_bench.errors import EmbeddingError
from fewshot_bench.outcomes import Cell, MethodCard, Outcomes, ProtocolCard, episode_frame
from fewshot_bench.outcomes.packing import Positions


def adapt(
    embeddings: NDArray[np.float32],
    episodes: Episodes | Sequence[Episodes],
    adaptation: EmbeddingAdaptation,
    *,
    name: str = "",
    device: str = "cpu",
    chunk: int | None = None,
) -> Outcomes:
    """Adapt a method to every episode, and return its outcomes.

    Args:
        embeddings: of all images of the episodes' split, in canonical order, [I, D].
        episodes: of `sample_episodes`, or of each shape from `sample_by_shape`.
        adaptation: e.g. `Centroid()` or `Logistic(C=10)`.
        name: of the method; the adaptation's name by default.
        device: a torch device.
        chunk: episodes at once; never changes a result.

    Raises:
        EmbeddingError: the embeddings are not finite, too few, or lack what the adaptation needs.
        CodeError: the adaptation's class has settings that cannot be recorded.
    """
    check_fields(type(adaptation).__name__, type(adaptation))
    groups = [episodes] if isinstance(episodes, Episodes) else list(episodes)
    _check(embeddings, groups, adaptation)
    split = EmbeddedSplit(torch.from_numpy(embeddings).to(device), len(embeddings)).with_features(adaptation.features)
    work = [(len(group), group.way, group.shot, group.protocol.query) for group in groups]
    split = split.with_gram() if gram_pays(adaptation, len(embeddings), work) else split
    # Hashing releases Python's lock, and takes a tenth of the time of nearest centroids.
    with ThreadPoolExecutor(1) as executor:
        digest = executor.submit(_digest, embeddings)
        frames = [outcome_frame(group, classify(adaptation, split, group, chunk=chunk)) for group in groups]
    method = MethodCard(
        name=name or adaptation.name,
        backbone="embeddings",
        weights=digest.result(),
        adaptation=adaptation.name,
        hyper_parameters=adaptation.hyper_parameters(),
        is_transductive=adaptation.is_transductive,
        code=code_of_adaptation(adaptation),
        assumes_balanced_queries=adaptation.assumes_balanced_queries,
    )
    card = protocol_card(groups[0].protocol, groups[0].dataset_fingerprint)
    return Outcomes(Cell(method, card, {}), together(frames))


def _digest(embeddings: NDArray[np.float32]) -> str:
    """Digest of the numbers in memory, 64 hexadecimal digits; contiguous ones are not copied."""
    return hashlib.sha256(np.ascontiguousarray(embeddings).data).hexdigest()


def outcome_frame(episodes: Episodes, predictions: Positions, seconds: float = math.nan) -> pd.DataFrame:
    """The outcomes of episodes of one shape, as `episode_frame` makes them.

    Args:
        episodes: that were classified.
        predictions: in the order of `Episodes.queries`, [E, M].
        seconds: time per episode; NaN if unknown.
    """
    return episode_frame(episodes.run, episodes.numbers, predictions, episodes.way, seconds, truth=episodes.truth)


def together(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The outcomes of episodes of several shapes as one frame, by run and episode."""
    return pd.concat(frames).sort_values(["run", "episode"], kind="stable", ignore_index=True)


def protocol_card(protocol: Protocol, dataset_fingerprint: str) -> ProtocolCard:
    """The description of a protocol that outcomes carry."""
    return ProtocolCard(
        dataset=protocol.dataset,
        dataset_fingerprint=dataset_fingerprint,
        split=protocol.split,
        way=protocol.way,
        shot=protocol.shot,
        query=protocol.query,
        seed=protocol.seed,
        sampler_version=protocol.sampler_version,
        sampler=protocol.sampler,
        sampler_settings=protocol.sampler_settings,
    )


def _check(embeddings: NDArray[np.float32], groups: Sequence[Episodes], adaptation: EmbeddingAdaptation) -> None:
    if embeddings.ndim != 2 or embeddings.dtype != np.float32:
        raise EmbeddingError(f"embeddings must be float32 [I, D], not {embeddings.dtype} {list(embeddings.shape)}.")
    largest = max((int(group.images.max()) for group in groups if len(group)), default=-1)
    if largest >= len(embeddings):
        raise EmbeddingError(
            f"the episodes name image {largest}, but there are {len(embeddings)} embeddings. "
            "Embed the split that the episodes were drawn from."
        )
    if not np.isfinite(embeddings).all():
        raise EmbeddingError("the embeddings hold NaN or infinite values.")
    if adaptation.augmented_views or adaptation.features == "cl2" or adaptation.needs_base_covariance:
        raise EmbeddingError(
            f"{adaptation.name} with these hyper-parameters needs more than the plain embeddings of one split. "
            "Use fewshot_bench.run_study."
        )
