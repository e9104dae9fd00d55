"""Transductive information maximisation: predictions that are certain for each query and varied over all of them.

Boudiaf et al. (2020), "Transductive Information Maximization for Few-Shot Learning", move class prototypes w_k,
which start as the class means of the support set. The probability of class k for an embedding x of unit norm is

    p_k(x) ~ exp(-temperature / 2 * |w_k - x|^2)

The loss is the cross-entropy of the support set minus the mutual information between queries and predictions:

    loss = c * CE - (m * H(mean of p) - a * mean of H(p))

with the weights c of the cross-entropy, m of the marginal entropy and a of the conditional one. TIM-GD descends with
Adam. TIM-ADM alternates between two updates in closed form, for S support images and M queries:

    q_ik ~ p_ik^(1 + a) / (sum over queries i of p_ik^(1 + a))^(m / (1 + m))
    w_k = [ c / (1 + a) * sum over the support set of (y_ik x_i + p_ik (w_k - x_i))
            + S / M * sum over the queries of (q_ik x_i + p_ik (w_k - x_i)) ]
          / [ c / (1 + a) * sum over the support set of y_ik + S / M * sum over the queries of q_ik ]

alpha-TIM (Veilleux et al., 2021, "Realistic evaluation of transductive few-shot learning") puts the entropy of order
alpha, (1 - sum of p^alpha) / (alpha - 1), in place of both of Shannon's. A large alpha pulls less strongly towards
classes of equal size. It has no closed form and is trained with Adam.

The first term of the mutual information is largest where all classes have the same number of queries. On uneven
queries the published weights lose much; Veilleux et al. run TIM with weights of 1 there.

The authors' code agrees with the paper. easyfsl's TIM takes cosines to normalised prototypes in place of distances
(`metric="cosine"`), a temperature of 10, weights of 1, 1 and 0.1, and 50 steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from fewshot_bench.adaptation.base import ADAPTATIONS, EmbeddingAdaptation
from fewshot_bench.adaptation.centroid import Metric
from fewshot_bench.adaptation.embedded_split import EmbeddedSplit, in_parts
from fewshot_bench.adaptation.transductive.prototype_descent import (
    Coordinates,
    Turn,
    class_means,
    cross_entropy_slope,
    descend,
    logits_of,
    placed_episodes,
)
from fewshot_bench.arguments import checked_names
from fewshot_bench.errors import ShapeError, StudyError

Solver = Literal["adm", "gd"]

# Inner products of so many episodes still stay near a core's cache over all steps.
_EPISODES_AT_ONCE = 128
_PUBLISHED_STEPS = {"adm": 150, "gd": 1000}
_OF_DESCENT = ("learning_rate", "metric", "coordinates")


@ADAPTATIONS.register(
    "tim",
    "prototypes moved until queries are classified with certainty and all classes occur; alpha-TIM with --set alpha=5",
    paper="Boudiaf et al., 2020, Transductive Information Maximization for Few-Shot Learning; "
    "Veilleux et al., 2021, Realistic Evaluation of Transductive Few-Shot Learning",
    family="information maximisation",
)
@checked_names
@dataclass(frozen=True, kw_only=True)
class TIM(EmbeddingAdaptation):
    """TIM-ADM, TIM-GD and alpha-TIM.

    Attributes:
        solver: "adm" for alternating closed-form updates, "gd" for Adam. None is "adm" for Shannon entropies and "gd"
            for others, which have no closed form.
        alpha: order of the two entropies of the queries. 1 is Shannon's, which is TIM; others are alpha-TIM. Published
            are 2 at one shot and 7 at five or more.
        temperature: factor of half the squared distances, or of the cosines. The published 15 belongs to embeddings
            of unit norm.
        steps: updates; None for the published 150 of "adm" or 1,000 of "gd".
        cross_entropy_weight: of the support set's cross-entropy (the paper's lambda); None for the published 0.1, or 1
            for alpha-TIM.
        marginal_entropy_weight: of the entropy of the mean prediction; large values even out the class sizes.
        conditional_entropy_weight: of the mean entropy of predictions (the paper's alpha); None for the published 0.1,
            or 1 for alpha-TIM.
        learning_rate: of Adam; for solver=gd.
        metric: "euclidean" as in the paper, or "cosine" to normalised prototypes as in easyfsl; for solver=gd.
        coordinates: "full" runs Adam on the embedding's own D numbers; "span" on orthonormal coordinates of the
            span of the episode's images, which are fewer. Adam is not invariant to rotation, and a step in fewer
            coordinates is shorter, so "span" arrives elsewhere. For solver=gd.

    >>> import fewshot_bench as fb
    >>> method = fb.TIM(alpha=5.0)
    >>> method.alpha, method.is_transductive
    (5.0, True)
    >>> fb.TIM(alpha=5.0, solver="adm")
    Traceback (most recent call last):
    ...
    fewshot_bench.errors.StudyError: tim with alpha=5.0 has no closed-form updates. Use --set solver=gd.
    """

    name: ClassVar[str] = "tim"
    is_transductive = True
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {"temperature": (15.0, 7.5, 30.0, 60.0)}
    solver: Solver | None = None
    alpha: float = 1.0
    temperature: float = 15.0
    steps: int | None = None
    cross_entropy_weight: float | None = None
    marginal_entropy_weight: float = 1.0
    conditional_entropy_weight: float | None = None
    learning_rate: float = 1e-4
    metric: Metric = "euclidean"
    coordinates: Coordinates = "full"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect_positive("alpha", "temperature", "learning_rate")
        self._expect_not_negative("marginal_entropy_weight")
        for name in ("cross_entropy_weight", "conditional_entropy_weight"):
            if getattr(self, name) is not None:
                self._expect_not_negative(name)
        if self.steps is not None:
            self._expect_whole(1, "steps")
        if self.solver == "adm" and self.alpha != 1:
            raise StudyError(f"tim with alpha={self.alpha} has no closed-form updates. Use --set solver=gd.")
        # One value has one spelling: a published value that is typed becomes None.
        for name, published in self._published().items():
            if getattr(self, name) == published:
                object.__setattr__(self, name, None)
        idle = [name for name in _OF_DESCENT if getattr(self, name) != self.__dataclass_fields__[name].default]
        if idle and self._solver == "adm":
            raise StudyError(f"{idle[0]} of tim belongs to Adam. Add --set solver=gd, or leave it out.")

    @property
    def _solver(self) -> Solver:
        return self.solver or ("adm" if self.alpha == 1 else "gd")

    def _published(self) -> dict[str, Any]:
        """What None stands for, by hyper-parameter."""
        weight = 0.1 if self.alpha == 1 else 1.0
        return {
            "solver": "adm" if self.alpha == 1 else "gd",
            "steps": _PUBLISHED_STEPS[self._solver],
            "cross_entropy_weight": weight,
            "conditional_entropy_weight": weight,
        }

    def hyper_parameters(self) -> dict[str, Any]:
        """Every hyper-parameter of the solver, with published values in place of None."""
        values = super().hyper_parameters()
        tried = self.tried if self.choose != "none" else {}
        if tried.keys() & {"alpha", "solver"}:  # None stands for something else with each of them
            return values
        values |= {name: published for name, published in self._published().items() if values.get(name, 0) is None}
        unused = _OF_DESCENT if self._solver == "adm" else ()
        return {name: value for name, value in values.items() if name not in unused}

    def scores(self, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
        """Logits of every query after the last update; see `EmbeddingAdaptation.scores`."""
        way, shot = support.shape[1:]
        settings = self.hyper_parameters()
        weights = {name: value for name, value in settings.items() if name.endswith("_weight")}
        steps = settings["steps"]
        if settings["solver"] == "adm":
            images, queries, classes = _in_order(split, support, query)
            parts = [
                alternating_information_maximisation(
                    split.products(part, part), way, shot, temperature=self.temperature, steps=steps, **weights
                )
                for (part,) in in_parts(_EPISODES_AT_ONCE, images)
            ]
            scores = torch.cat(parts)
            scores = scores.gather(1, queries.unsqueeze(2).expand_as(scores))
            return scores.gather(2, classes.unsqueeze(1).expand_as(scores))
        turn = Turn(slice(None), _Loss(way * shot, self.alpha, **weights))
        parts = []
        for features in placed_episodes(split, support, query, self.coordinates):
            prototypes = descend(
                features,
                class_means(features, way, shot),
                [turn],
                head=self.metric,
                temperature=self.temperature,
                steps=steps,
                learning_rate=self.learning_rate,
            )
            queries = features[:, way * shot :]
            if self.metric == "cosine":
                queries = torch.nn.functional.normalize(queries, dim=2)
            parts.append(logits_of(queries, prototypes, self.metric, self.temperature).transpose(1, 2))
        return torch.cat(parts)

    def floats_per_episode(self, way: int, shot: int, queries: int, embedding_size: int) -> int:
        """Inner products or gathered embeddings, prototypes and what a step makes of them."""
        images = way * shot + queries
        if self._solver == "adm":
            return 2 * images * images + 16 * way * images
        return images * embedding_size + 8 * way * embedding_size + 16 * way * images + 4 * images * images


def alternating_information_maximisation(
    products: Tensor,
    way: int,
    shot: int,
    *,
    temperature: float = 15.0,
    steps: int = 150,
    cross_entropy_weight: float = 0.1,
    marginal_entropy_weight: float = 1.0,
    conditional_entropy_weight: float = 0.1,
) -> Tensor:
    """TIM-ADM on inner products: prototypes are combinations of an episode's images, N * (S + M) numbers.

    Args:
        products: inner products of the images of each episode, the support set class by class and then the queries,
            [E, N * K + M, N * K + M].
        way: N.
        shot: K.
        temperature: factor of half the squared distances.
        steps: updates of the soft labels and the prototypes.
        cross_entropy_weight: c of the module's equations, the paper's lambda.
        marginal_entropy_weight: m, which is 1 in the paper.
        conditional_entropy_weight: a, the paper's alpha.

    Returns:
        Logits of the queries, [E, M, N].

    Raises:
        ShapeError: the products are not square, or there are no queries.

    Example:
        >>> embeddings = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [0.6, 0.8]]])
        >>> scores = alternating_information_maximisation(embeddings @ embeddings.transpose(1, 2), way=2, shot=1)
        >>> scores.argmax(dim=2).tolist()
        [[0, 1]]
    """
    support = way * shot
    images = products.shape[-1]
    if products.ndim != 3 or products.shape[1] != images or images <= support:
        raise ShapeError(f"products [E, I, I] do not fit {way} ways of {shot} and queries: {list(products.shape)}.")
    power = 1 + conditional_entropy_weight
    evening = marginal_entropy_weight / (1 + marginal_entropy_weight)
    share = products.new_full((images,), cross_entropy_weight / power)
    share[support:] = support / (images - support)
    # Classes before images, [E, N, I]: softmax over a middle axis is several times faster than over a short last one.
    labels = torch.eye(way, dtype=products.dtype, device=products.device).repeat_interleave(shot, dim=1)
    soft_labels = products.new_empty(len(products), way, images)
    soft_labels[:, :, :support] = labels
    coefficients = torch.zeros_like(soft_labels)
    coefficients[:, :, :support] = labels / shot
    logits = _logits(coefficients, products, temperature)
    for _ in range(steps):
        log_probabilities = torch.log_softmax(logits, dim=1)
        sharpened = power * log_probabilities[:, :, support:]
        # In logarithms: a power of a probability may be too small for a float.
        sharpened = sharpened - evening * sharpened.logsumexp(dim=2, keepdim=True)
        soft_labels[:, :, support:] = torch.softmax(sharpened, dim=1)
        probabilities = log_probabilities.exp()
        # Row by row: one product with the vector for all episodes would round by their number.
        mass = (soft_labels * share).sum(dim=2, keepdim=True).clamp_min(torch.finfo(products.dtype).tiny)
        kept = (probabilities * share).sum(dim=2, keepdim=True)
        coefficients = ((soft_labels - probabilities) * share + kept * coefficients) / mass
        logits = _logits(coefficients, products, temperature)
    of_queries = logits[:, :, support:].transpose(1, 2)
    return of_queries - temperature / 2 * products.diagonal(dim1=1, dim2=2)[:, support:].unsqueeze(2)


def _in_order(split: EmbeddedSplit, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The images of each episode, [E, N * K + M], in an order that their content decides.

    Where embeddings hardly differ, as those of an untrained network, the alternating updates amplify rounding errors.
    In one order there is one result. Also returns the places of the queries, [E, M], and of the classes, [E, N].
    """
    support = support.gather(2, split.order[support].argsort(dim=2))
    classes = split.order[support[:, :, 0]].argsort(dim=1)
    queries = split.order[query].argsort(dim=1)
    ordered = support.gather(1, classes.unsqueeze(2).expand_as(support)).flatten(1)
    return torch.cat([ordered, query.gather(1, queries)], dim=1), queries.argsort(dim=1), classes.argsort(dim=1)


def _logits(coefficients: Tensor, products: Tensor, temperature: float) -> Tensor:
    """Half the negative squared distances times the temperature, without the norms of images, [E, N, I]."""
    of_prototypes = coefficients @ products
    norms = (coefficients * of_prototypes).sum(dim=2, keepdim=True)
    return temperature * (of_prototypes - norms / 2)


@dataclass(frozen=True)
class _Loss:
    """The slope of TIM's loss, for `Turn`."""

    support: int
    alpha: float
    cross_entropy_weight: float
    marginal_entropy_weight: float
    conditional_entropy_weight: float

    def __call__(self, log_probabilities: Tensor) -> Tensor:
        slope = torch.empty_like(log_probabilities)
        of_support, of_queries = log_probabilities[:, :, : self.support], log_probabilities[:, :, self.support :]
        slope[:, :, : self.support] = self.cross_entropy_weight * cross_entropy_slope(of_support)
        probabilities = of_queries.exp()
        # Times the probability, the derivative of an entropy stays finite where the probability is zero.
        conditional = self._information(probabilities, of_queries)
        mean = probabilities.mean(dim=2, keepdim=True).clamp_min(torch.finfo(probabilities.dtype).tiny)
        marginal = probabilities * (self._information(mean, mean.log()) / mean)
        change = self.marginal_entropy_weight * marginal - self.conditional_entropy_weight * conditional
        change = change - probabilities * change.sum(dim=1, keepdim=True)
        slope[:, :, self.support :] = change / of_queries.shape[2]
        return slope

    def _information(self, probabilities: Tensor, logarithms: Tensor) -> Tensor:
        """Minus the derivative of the entropy times the probability, up to a constant times the probability."""
        if self.alpha == 1:
            return probabilities * logarithms
        return (self.alpha * logarithms).exp() * (self.alpha / (self.alpha - 1))
