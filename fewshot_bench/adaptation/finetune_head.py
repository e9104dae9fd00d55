"""A head trained on each support set with Adam, all episodes of a chunk in one optimisation.

Chen et al. (2019), "A closer look at few-shot classification", fine-tune a head on frozen embeddings. Parameters
of all episodes are stacked, and the loss is the sum over episodes: Adam works element by element, so each
episode's head goes exactly where it would go alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fewshot_bench.adaptation.base import ADAPTATIONS, LOGITS, EmbeddingAdaptation, LinearIn
from fewshot_bench.adaptation.embedded_split import EmbeddedSplit, in_parts, square_roots
from fewshot_bench.arguments import checked_names
from fewshot_bench.errors import EmbeddingError, StudyError
from fewshot_bench.losses import (
    LOSSES,
    Anchors,
    Reading,
    StopGradient,
    extra_settings,
    loss_function,
    other_reading,
    reading_of,
)

HeadKind = Literal["linear", "cosine", "projection"]
Start = Literal["centroid", "zero"]
Coordinates = Literal["span", "full"]

# Enough episodes per step that arithmetic outweighs the overhead of each call, few enough to stay near the cache.
_FLOATS_AT_ONCE = 1 << 20
_VIEWS_PER_STEP = 2


@ADAPTATIONS.register(
    "finetune-head",
    "a linear, cosine or projection head trained on each support set with Adam and a loss of choice",
    paper="Chen et al., 2019, A Closer Look at Few-shot Classification",
    family="fine-tuning",
)
@checked_names
@dataclass(frozen=True, kw_only=True)
class FinetuneHead(EmbeddingAdaptation):
    """A head trained on the support set; the backbone stays frozen.

    A linear or cosine head has nothing but its weights to learn, so its contrastive term acts on the L2-normalised
    logits. A projection head learns a square map before the linear layer, and the contrastive term acts on the
    L2-normalised projected embeddings.

    Attributes:
        head: "linear" (weights and a bias), "cosine" (cosines between weights and embeddings), or "projection".
        loss: name of a loss; a contrastive loss trains on two augmented views of every support image.
        lambda_: share of the contrastive term.
        tau: temperature of the contrastive term.
        reading: how the contrastive term takes the mean over positives; None for the default of the loss.
        steps: Adam steps, each on the whole support set.
        learning_rate: of Adam.
        weight_decay: added to the gradient, as in Adam, not decoupled.
        start: the head's first weights, the class centroids of the plain images or zero. At zero the bias of a
            balanced support set has no gradient but rounding errors, which Adam takes for one: scores then move by
            up to steps * learning_rate with the order of summation.
        scale: factor of cosine logits.
        coordinates: "span" trains in orthonormal coordinates of the span of the support embeddings, at most 25
            numbers per class at 5-way 5-shot instead of D, and needs inner products only. Adam is not invariant
            to rotation, so the path differs from "full", which trains in the embedding's own D coordinates.
        views: augmented views of every image that are embedded once; each step takes the next two of them. None is
            two for a contrastive loss, whose positives they are, and for cross-entropy the plain images instead.
        stop_gradient: "beta" takes the weights of SCHaNe's negatives as constants; "none" differentiates them.
        anchors: whether the contrastive term is the "mean" or the "sum" over anchors.

    >>> import fewshot_bench as fb
    >>> method = fb.FinetuneHead(head="cosine", loss="ce+schane")
    >>> method.augmented_views, method.is_transductive
    (2, False)
    >>> fb.FinetuneHead(steps=0)
    Traceback (most recent call last):
    ...
    fewshot_bench.errors.StudyError: steps of finetune-head should be a whole number of 1 or more, not 0.
    """

    name: ClassVar[str] = "finetune-head"
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = {"learning_rate": (1e-2, 1e-3, 3e-2)}
    head: HeadKind = "linear"
    loss: str = "ce"
    lambda_: float = 0.9
    tau: float = 0.5
    reading: Reading | None = None
    steps: int = 100
    learning_rate: float = 1e-2
    weight_decay: float = 0.0
    start: Start = "centroid"
    scale: float = 10.0
    coordinates: Coordinates = "span"
    views: int | None = None
    stop_gradient: StopGradient = "none"
    anchors: Anchors = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "reading", other_reading(self.loss, self.reading))
        extra_settings(self.loss, **self._contrast)
        self._expect_whole(1, "steps")
        self._expect_positive("learning_rate", "tau", "scale")
        self._expect_not_negative("weight_decay")
        self._expect(isinstance(self.lambda_, int | float) and 0 <= self.lambda_ <= 1, "lambda_", "between 0 and 1")
        if self.views is not None:
            self._expect_whole(2, "views")
        self._expect(not (self.head == "cosine" and self.start == "zero"), "start", "centroid for a cosine head")

    @property
    def is_contrastive(self) -> bool:
        """Whether the loss compares embeddings with each other."""
        return bool(LOSSES[self.loss].facts.get("is_contrastive", False))

    @property
    def _contrast(self) -> dict[str, str]:
        """The settings of the contrastive term that only some losses take."""
        return {"stop_gradient": self.stop_gradient, "anchors": self.anchors}

    @property
    def augmented_views(self) -> int:
        """Two augmented views for a contrastive loss, as in the paper, or as many as asked for; none otherwise."""
        if self.views is not None:
            return self.views
        return _VIEWS_PER_STEP if self.is_contrastive else 0

    @property
    def stage(self) -> str:
        """The episode stage of the method's name."""
        return f"episode-{self.loss}"

    def hyper_parameters(self) -> dict[str, Any]:
        """Every hyper-parameter that matters for the loss."""
        values = super().hyper_parameters()
        values["reading"] = reading_of(self.loss, self.reading)
        unused = [] if LOSSES[self.loss].facts.get("is_contrastive", True) else ["lambda_", "tau", "reading"]
        unused += ["views"] if self.views is None else []
        unused += self._contrast.keys() - extra_settings(self.loss, **self._contrast)
        return {name: value for name, value in values.items() if name not in unused}

    @property
    def linear_in(self) -> LinearIn:
        """Linear in the embedding, or in its direction for a cosine head."""
        return "direction" if self.head == "cosine" else "embedding"

    @property
    def score_kind(self) -> str:
        """Logits, if cross-entropy is a part of the loss."""
        return LOGITS if self.lambda_ < 1 or not self.is_contrastive else "score"

    def scores(self, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
        """Logits of every query; see `EmbeddingAdaptation.scores`."""
        views = self.augmented_views
        if split.views < views:
            raise EmbeddingError(f"{self.stage} needs {views} augmented views; there are {split.views}.")
        per_episode = 4 * support[0].numel() * max(1, views) * (support.shape[1] + support[0].numel())
        if self.coordinates == "full":
            per_episode = 8 * support.shape[1] * split.embeddings.shape[1]
        at_once = max(1, _FLOATS_AT_ONCE // per_episode)
        return torch.cat([self._train(split, *part) for part in in_parts(at_once, support, query)])

    def _train(self, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
        way, shot = support.shape[1:]
        plain = support.flatten(1)
        trained_on = plain
        views = self.augmented_views
        if views:
            trained_on = torch.cat([plain + view * split.images for view in range(1, views + 1)], dim=1)
        place = _span_coordinates if self.coordinates == "span" else _full_coordinates
        features, plain_features, queries = place(split, trained_on, plain, query)
        centroids = plain_features.view(len(support), way, shot, -1).mean(dim=2)
        if self.head == "cosine":
            # A query's norm counts what lies outside the span too.
            features = normalize(features, dim=-1)
            queries = queries / split.squared_norms[query].unsqueeze(2).clamp_min(1e-30).sqrt()
        images = torch.arange(way * shot, device=support.device).repeat(min(views, _VIEWS_PER_STEP) or 1)
        labels = images // shot
        with torch.enable_grad():
            head = _Head(self, centroids)
            self._optimise(head, features, labels, images)
        with torch.no_grad():
            logits: Tensor = head(queries)[0]
            return logits

    def _optimise(self, head: _Head, features: Tensor, labels: Tensor, images: Tensor) -> None:
        loss, reading = loss_function(self.loss), reading_of(self.loss, self.reading)
        settings = {"lambda_": self.lambda_, "tau": self.tau, **extra_settings(self.loss, **self._contrast)}
        adam = torch.optim.Adam(head.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay, foreach=True)
        for step in range(self.steps):
            logits, contrasted = head(_views_of_step(features, step, len(labels)))
            losses = loss(logits, contrasted, labels, images, reading=reading, **settings)
            adam.zero_grad(set_to_none=True)
            torch.autograd.backward(losses.sum())
            adam.step()
        if not bool(torch.isfinite(losses).all()):
            raise StudyError(
                f"training a head with {self.loss} gave a loss that is not finite. Use a smaller learning_rate."
            )

    def floats_per_episode(self, way: int, shot: int, queries: int, embedding_size: int) -> int:
        """Gathered embeddings, and the parameters and activations of the optimisation."""
        trained_on = way * shot * max(1, self.augmented_views)
        size = trained_on if self.coordinates == "span" else embedding_size
        gathered = (trained_on + way * shot + queries) * embedding_size
        return 2 * gathered + 16 * (way * size + size * size * (self.head == "projection") + trained_on * size)


def _views_of_step(features: Tensor, step: int, count: int) -> Tensor:
    """The rows that a step trains on, [E, count, .]: all there are, or the next two of several views."""
    if features.shape[1] == count:
        return features
    views = features.split(count // _VIEWS_PER_STEP, dim=1)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    turns = [(_VIEWS_PER_STEP * step + turn) % len(views) for turn in range(_VIEWS_PER_STEP)]
    return torch.cat([views[turn] for turn in turns], dim=1)


class _Head(nn.Module):
    """The heads of a stack of episodes: parameters [E, ...]."""

    def __init__(self, settings: FinetuneHead, centroids: Tensor) -> None:
        super().__init__()
        episodes, way, size = centroids.shape
        self.kind, self.scale = settings.head, settings.scale
        first = centroids if settings.start == "centroid" else torch.zeros_like(centroids)
        self.weights = nn.Parameter(first.clone())
        if self.kind != "cosine":
            self.bias = nn.Parameter(centroids.new_zeros(episodes, 1, way))
        if self.kind == "projection":
            identity = torch.eye(size, dtype=centroids.dtype, device=centroids.device)
            self.projection = nn.Parameter(identity.expand(episodes, -1, -1).clone())

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [E, B, N], and what a contrastive term compares [E, B, .]; a cosine head expects unit features."""
        if self.kind == "cosine":
            logits = features @ (self.scale * normalize(self.weights, dim=-1)).transpose(1, 2)
            return logits, logits
        projected = features @ self.projection if self.kind == "projection" else features
        logits = torch.baddbmm(self.bias, projected, self.weights.transpose(1, 2))
        return logits, projected if self.kind == "projection" else logits


def _full_coordinates(
    split: EmbeddedSplit, trained_on: Tensor, plain: Tensor, query: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The embeddings themselves: of the images trained on, of the plain support, of the queries, [E, ., D]."""
    return split.rows(trained_on), split.rows(plain), split.rows(query)


def _span_coordinates(
    split: EmbeddedSplit, trained_on: Tensor, plain: Tensor, query: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Orthonormal coordinates in the span of the images trained on, [E, ., n]."""
    features, inverse = square_roots(split.products(trained_on, trained_on).double())
    queries = split.products(trained_on, query).transpose(1, 2).double() @ inverse
    # Without views the images trained on are the plain support.
    same = trained_on.shape == plain.shape
    plain_features = features if same else split.products(plain, trained_on).double() @ inverse
    return features.float(), plain_features.float(), queries.float()
