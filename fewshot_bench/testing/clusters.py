"""Embeddings in clusters, one per class, and episodes of them: what adaptations are checked on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fewshot_bench.adaptation import EmbeddedSplit, EmbeddingAdaptation
from fewshot_bench.episodes import Episodes, Protocol, sample_indices

CLASSES, IMAGES = 8, 24


def clustered_split(
    *, size: int = 40, norm: float = 30.0, spread: float = 1.5, views: int = 0, seed: int = 0
) -> EmbeddedSplit:
    """Embeddings of about this norm, one cluster per class; views lie close to their image.

    >>> clustered_split(size=3).embeddings.shape
    torch.Size([192, 3])
    """
    generator = np.random.default_rng(seed)
    centers = generator.normal(size=(CLASSES, 1, size))
    plain = (centers + spread * generator.normal(size=(CLASSES, IMAGES, size))).reshape(-1, size)
    plain *= norm / np.linalg.norm(plain, axis=1).mean()
    shift = norm / size**0.5 / 2
    augmented = [plain + shift * generator.normal(size=plain.shape) for _ in range(views)]
    rows = np.concatenate([plain, *augmented]).astype(np.float32)
    return EmbeddedSplit(torch.from_numpy(rows), CLASSES * IMAGES)


def as_wanted(split: EmbeddedSplit, adaptation: EmbeddingAdaptation) -> EmbeddedSplit:
    """A clustered split as an adaptation wants it; itself stands for the base split."""
    if adaptation.features == "power":  # of networks that end in a ReLU
        split = replace(split, embeddings=split.embeddings.abs())
    wanted = split.with_features(adaptation.features, split.embeddings[: split.images].mean(dim=0))
    if not adaptation.needs_base_covariance:
        return wanted
    return replace(wanted, base_covariance=wanted.covariance_within([IMAGES] * CLASSES))


def drawn_episodes(count: int = 30, *, way: int = 5, shot: int = 1, query: int = 6, seed: int = 0) -> Episodes:
    """Episodes of a clustered split."""
    protocol = Protocol("clusters", way=way, shot=shot, query=query, episodes=count, seed=seed)
    images = sample_indices(
        [IMAGES] * CLASSES,
        dataset="clusters",
        split="novel",
        way=way,
        shot=shot,
        query=query,
        seed=seed,
        run=0,
        numbers=np.arange(count),
    )
    return Episodes(protocol, "clusters", 0, np.arange(count), images)


def support_and_query(episodes: Episodes) -> tuple[Tensor, Tensor]:
    """Indices as an adaptation takes them: [E, N, K] and [E, N * Q]."""
    support = torch.from_numpy(episodes.support.copy()).long()
    return support, torch.from_numpy(episodes.query.copy()).long().flatten(1)
