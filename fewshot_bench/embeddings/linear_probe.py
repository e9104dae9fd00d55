"""Linear probe: multinomial logistic regression on the frozen embeddings of a whole dataset.

The objective is scikit-learn's, with an intercept that is not penalised:

    1/2 |W|^2 + C * sum over i of -log softmax(W x_i + b)[y_i]

The protocol is that of DINOv2 (Oquab et al., 2024; `dinov2/eval/log_regression.py`): raw embeddings, L-BFGS on all
images in float64 with at most 1,000 iterations, C chosen among 45 values from 1e-6 to 1e5 by the accuracy on a
validation part (the smallest of equally good values), then fitted anew to the training and validation parts together.
torchgeo-bench evaluates in the same way.

What is done for speed changes no optimum. Embeddings are centred, which the free intercept undoes. L-BFGS runs in
coordinates in which the objective is nearly round: those of a Cholesky factor of the Hessian, averaged over classes,
renewed after every 50 iterations. Each fit starts from that of the next smaller C. The fits that choose C are in
float32 and stop earlier than the last one. A search ends before the largest C when eight values in a row are not more
accurate than the best, since these fits are the slowest; DINOv2 computes them all. Values are counted only once the
probe explains the training images, with less than half the loss that class frequencies alone leave. Before that, a
strong penalty leaves many values of C with the same predictions (often a single class) before accuracy rises.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from fewshot_bench.devices import free_bytes
from fewshot_bench.embeddings.labelled_embeddings import (
    BLOCK_NUMBERS,
    FeatureScale,
    LabelledEmbeddings,
    ProbeFeatures,
    TrainingImages,
    blocks_of,
    normalised,
    refuse_empty_validation,
)

DINOV2_C: tuple[float, ...] = tuple(float(f"{10**power:.6g}") for power in np.linspace(-6, 5, 45))
"""The 45 values of DINOv2, four per decade, to six digits."""

MAX_ITERATIONS = 1000
PATIENCE = 8
"""How many values of C in a row may be no more accurate than the best before a search ends: two decades."""

_EXPLAINED = 0.5  # share of the loss of class frequencies below which values count towards PATIENCE

_TOLERANCE = 1e-8
_ROUGH_TOLERANCE = 1e-5
_IS_AT_LIMIT = 1  # scipy's status of a fit that needs more iterations
_REFRESH = 50
_IMAGES_PER_DIMENSION = 8
_LARGEST_FACTOR = 4096  # dimensions; beyond it only the diagonal of the Hessian is used, and the memory stays small
_JITTER = 1e-10
_KEPT_ON_CPU = 1 << 30
_SMALL = 1 << 26


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """A linear classifier of embeddings.

    Attributes:
        weights: float64 [C, D].
        intercepts: float64 [C]; minus infinity for a class that had no training images.
        is_normalised: whether embeddings are divided by their norm first.
        C: inverse strength of the penalty it was fitted with.
        iterations: of L-BFGS.
        has_converged: whether the gradient was small enough at the end.
    """

    weights: NDArray[np.float64]
    intercepts: NDArray[np.float64]
    is_normalised: bool
    C: float
    iterations: int
    has_converged: bool

    def log_probabilities(
        self, embeddings: NDArray[Any], *, rows: NDArray[np.int64] | None = None, device: str = "cpu"
    ) -> NDArray[np.float64]:
        """Logarithm of the probability of each class.

        Args:
            embeddings: [I, D].
            rows: of the images; all of them by default, [n].
            device: a torch device.

        Returns:
            [n, C].

        Raises:
            EmbeddingError: an embedding is not finite.
        """
        rows = np.arange(len(embeddings)) if rows is None else rows
        at = torch.device(device)
        weights, intercepts = _on(at, self.weights), _on(at, self.intercepts)
        found = np.empty((len(rows), len(intercepts)))
        for places, block in blocks_of(embeddings, rows, at, weights.dtype, largest=_rows_at_once(len(intercepts))):
            features = normalised(block) if self.is_normalised else block
            found[places] = torch.log_softmax(features @ weights.T + intercepts, dim=1).cpu().numpy()
        return found


@dataclass(frozen=True)
class LinearChoice:
    """How C was chosen.

    Attributes:
        C: the value with the highest accuracy on the validation part, the smallest of equally good ones.
        tried: each value that was fitted and its validation accuracy, in ascending order.
    """

    C: float
    tried: tuple[tuple[float, float], ...]


def chosen_linear_probe(
    training: LabelledEmbeddings,
    validation: LabelledEmbeddings,
    *,
    classes: int,
    candidates: Sequence[float] = DINOV2_C,
    features: ProbeFeatures = "raw",
    max_iterations: int = MAX_ITERATIONS,
    device: str = "cpu",
) -> tuple[LinearProbe, LinearChoice]:
    """Choose C on a validation part, then fit to the training and validation parts together, as DINOv2 does.

    Args:
        training: images that every candidate is fitted to.
        validation: images whose accuracy decides.
        classes: C, the number of classes.
        candidates: values of C.
        features: what is done with the embeddings; "standard" takes mean and deviation of the images fitted to.
        max_iterations: of L-BFGS for each value.
        device: a torch device.

    Raises:
        EmbeddingError: an embedding is not finite, or there are too few images or classes.
        ShapeError: embeddings or labels do not fit together.

    >>> images = LabelledEmbeddings.of(np.array([[0.0], [1.0], [4.0], [5.0]]), np.array([0, 0, 1, 1]))
    >>> probe, choice = chosen_linear_probe(images, images, classes=2, candidates=(0.1, 1.0))
    >>> choice.C, probe.log_probabilities(np.array([[1.0], [4.5]])).argmax(axis=1).tolist()
    (0.1, [0, 1])
    """
    refuse_empty_validation(validation, "C")
    fit = _Fit(TrainingImages(training, classes=classes), features, device, rough=True)
    tried: list[tuple[float, float]] = []
    probe = best = None
    since_best = 0
    for C in sorted(set(candidates)):
        probe = fit(C, start=probe, max_iterations=max_iterations)
        found = probe.log_probabilities(validation.embeddings, rows=validation.rows, device=device)
        accuracy = float((found.argmax(axis=1) == validation.labels).mean())
        is_best = not tried or accuracy > max(other for _, other in tried)
        tried.append((C, accuracy))
        best, since_best = (probe, 0) if is_best else (best, since_best + fit.has_learned)
        if accuracy == 1 or since_best >= PATIENCE:  # nothing is better than all images right
            break
    assert best is not None
    del fit
    everything = _Fit(TrainingImages(training, validation, classes=classes), features, device)
    final = everything(best.C, start=best, max_iterations=max_iterations)
    return final, LinearChoice(best.C, tuple(tried))


def fitted_linear_probe(
    training: LabelledEmbeddings,
    *,
    classes: int,
    C: float,
    features: ProbeFeatures = "raw",
    max_iterations: int = MAX_ITERATIONS,
    device: str = "cpu",
) -> LinearProbe:
    """Fit a linear probe with a given C; arguments and errors as for `chosen_linear_probe`.

    >>> images = LabelledEmbeddings.of(np.array([[0.0], [1.0], [4.0], [5.0]]), np.array([0, 0, 1, 1]))
    >>> probe = fitted_linear_probe(images, classes=2, C=1.0)
    >>> probe.log_probabilities(np.array([[1.0], [4.5]])).argmax(axis=1).tolist()
    [0, 1]
    """
    return _Fit(TrainingImages(training, classes=classes), features, device)(C, max_iterations=max_iterations)


class _Fit:
    """Fits linear probes to the same images, one C after the other."""

    def __init__(self, training: TrainingImages, features: ProbeFeatures, device: str, *, rough: bool = False) -> None:
        self._training, self._device = training, torch.device(device)
        self._dtype = torch.float32 if rough else torch.float64
        self._tolerance = _ROUGH_TOLERANCE if rough else _TOLERANCE
        self._size = training.embedding_size
        self._count = len(training)
        # Centring changes no optimum, since the intercept is free, and makes the fit faster.
        self._scale = FeatureScale.of(training, features, self._device, is_centred=True)
        shares = np.bincount(training.labels)[training.present] / self._count
        self._entropy = -float(shares @ np.log(shares))
        self.has_learned = False  # whether the last fit explains the images far better than class frequencies do
        self._kept: list[tuple[Tensor, Tensor]] | None = None
        if _stays(self._dtype.itemsize * self._count * self._size, self._device):
            self._kept = list(self._read())

    def __call__(
        self, C: float, *, start: LinearProbe | None = None, max_iterations: int = MAX_ITERATIONS
    ) -> LinearProbe:
        weights = torch.zeros(len(self._training.present), self._size + 1, dtype=torch.float64, device=self._device)
        if start is not None:
            weights = self._centred(start)
        iterations = 0
        while True:
            factor = _Factor(self._curvature(weights), 1 / (C * self._count))

            def objective(flat: NDArray[np.float64], factor: _Factor = factor) -> tuple[float, NDArray[np.float64]]:
                weights = factor.from_round(torch.from_numpy(flat).to(self._device).view(-1, self._size + 1))
                value, gradient = self._value_and_gradient(weights, C)
                return value, factor.gradient(gradient).cpu().numpy().ravel()

            # maxls and ftol are those of scikit-learn.
            result = minimize(
                objective,
                factor.to_round(weights).cpu().numpy().ravel(),
                jac=True,
                method="L-BFGS-B",
                options={
                    "maxiter": min(_REFRESH, max_iterations - iterations),
                    "gtol": self._tolerance,
                    "ftol": 64 * np.finfo(float).eps,
                    "maxls": 50,
                },
            )
            weights = factor.from_round(torch.from_numpy(result.x).to(self._device).view(-1, self._size + 1))
            iterations += max(1, int(result.nit))  # a fit that cannot move ends too
            if result.status != _IS_AT_LIMIT or iterations >= max_iterations:
                # The objective is the loss plus the penalty, both at least 0.
                self.has_learned = float(result.fun) < _EXPLAINED * self._entropy
                return self._probe(weights, C, iterations, result.status != _IS_AT_LIMIT)

    def _probe(self, weights: Tensor, C: float, iterations: int, has_converged: bool) -> LinearProbe:
        """The probe of weights [K, D + 1] of centred and scaled embeddings, for these as they are."""
        training = self._training
        of_raw = np.zeros((training.classes, self._size))
        intercepts = np.full(training.classes, -np.inf)
        scaled = weights[:, :-1] / self._scale.deviation
        of_raw[training.present] = scaled.cpu().numpy()
        intercepts[training.present] = (weights[:, -1] - scaled @ self._scale.mean).cpu().numpy()
        return LinearProbe(of_raw, intercepts, self._scale.is_normalised, C, iterations, has_converged)

    def _centred(self, probe: LinearProbe) -> Tensor:
        """The weights [K, D + 1] of a probe for centred and scaled embeddings; the inverse of `_probe`."""
        present = self._training.present
        weights, intercepts = _on(self._device, probe.weights[present]), _on(self._device, probe.intercepts[present])
        intercepts = torch.where(torch.isfinite(intercepts), intercepts, 0.0) + weights @ self._scale.mean
        return torch.cat([weights * self._scale.deviation, intercepts.unsqueeze(1)], dim=1)

    def _curvature(self, weights: Tensor) -> Tensor:
        """What `_Factor` takes, at weights [K, D + 1]; every s-th image is enough for it."""
        size, has_matrix = self._size + 1, self._size <= _LARGEST_FACTOR
        step = max(1, self._count // (_IMAGES_PER_DIMENSION * size))
        total = torch.zeros((size, size) if has_matrix else (size,), dtype=torch.float64, device=self._device)
        images = 0
        for features, _, log_probabilities in self._log_probabilities(weights, step):
            curvature = (1 - log_probabilities.exp_().square_().sum(dim=1)) / (len(weights) - 1)
            extended = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
            weighted = extended * curvature.unsqueeze(1)
            total += extended.T @ weighted if has_matrix else (extended * weighted).sum(dim=0)
            images += len(features)
        return total / images

    def _read(self) -> Iterable[tuple[Tensor, Tensor]]:
        """Centred and scaled embeddings [B, D], and the places of their classes among those present, [B]."""
        places = torch.zeros(self._training.classes, dtype=torch.int64, device=self._device)
        present = torch.from_numpy(self._training.present).to(self._device)
        places[present] = torch.arange(len(present), device=self._device)
        for block, labels in self._training.blocks(self._device, torch.float64):
            yield self._scale(block).to(self._dtype), places[labels]

    def _log_probabilities(self, weights: Tensor, step: int = 1) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
        """Embeddings [B, D], classes [B] and log-probabilities [B, K] at weights [K, D + 1], of every s-th image."""
        rows = _rows_at_once(len(weights))
        weights = weights.to(self._dtype)
        for features, labels in self._kept if self._kept is not None else self._read():
            features, labels = features[::step], labels[::step]
            for first in range(0, len(features), rows):
                block = features[first : first + rows]
                logits = torch.addmm(weights[:, -1], block, weights[:, :-1].T)
                yield block, labels[first : first + rows], torch.log_softmax(logits, dim=1)

    def _value_and_gradient(self, weights: Tensor, C: float) -> tuple[float, Tensor]:
        """The objective divided by C and the number of images, and its gradient, at weights [K, D + 1]."""
        loss = 0.0
        gradient = torch.zeros_like(weights)
        for features, labels, log_probabilities in self._log_probabilities(weights):
            loss -= float(log_probabilities.gather(1, labels.unsqueeze(1)).sum(dtype=torch.float64))
            residuals = log_probabilities.exp_()
            residuals.scatter_add_(1, labels.unsqueeze(1), residuals.new_full((len(labels), 1), -1.0))
            gradient[:, :-1] += residuals.T @ features
            gradient[:, -1] += residuals.sum(dim=0)
        gradient /= self._count
        penalty = 1 / (C * self._count)
        gradient[:, :-1] += penalty * weights[:, :-1]
        return loss / self._count + penalty * float(weights[:, :-1].square().sum()) / 2, gradient


class _Factor:
    """The change to coordinates in which the Hessian at some weights is nearly the identity.

    Args:
        curvature: second moments of the embeddings and a constant 1, each weighted by the mean curvature of its
            probabilities, [D + 1, D + 1]; or their diagonal, [D + 1].
        penalty: added to the diagonal, but for the intercept.
    """

    def __init__(self, curvature: Tensor, penalty: float) -> None:
        diagonal = curvature.diagonal() if curvature.ndim == 2 else curvature
        extra = torch.full_like(diagonal, penalty + _JITTER * float(diagonal.mean()))
        extra[-1] -= penalty
        if curvature.ndim == 1:
            self._factor = (curvature + extra).sqrt()
        else:
            self._factor = torch.linalg.cholesky(curvature + torch.diag(extra))

    def to_round(self, weights: Tensor) -> Tensor:
        """W L of the weights [K, D + 1]."""
        return weights * self._factor if self._factor.ndim == 1 else weights @ self._factor

    def from_round(self, weights: Tensor) -> Tensor:
        """The inverse of `to_round`."""
        if self._factor.ndim == 1:
            return weights / self._factor
        solved: Tensor = torch.linalg.solve_triangular(self._factor, weights, upper=False, left=False)
        return solved

    def gradient(self, gradient: Tensor) -> Tensor:
        """The gradient with respect to round weights, from that with respect to the weights."""
        if self._factor.ndim == 1:
            return gradient / self._factor
        solved: Tensor = torch.linalg.solve_triangular(self._factor.T, gradient, upper=True, left=False)
        return solved


def _on(device: torch.device, array: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(array).to(device)


def _rows_at_once(classes: int) -> int:
    """How many images have their logits computed together."""
    return max(1, BLOCK_NUMBERS // classes)


def _stays(size: int, device: torch.device) -> bool:
    """Whether the embeddings may stay on the device between evaluations, by their bytes in float64."""
    if size <= _SMALL:  # asking for the free memory takes a while
        return True
    free = free_bytes(device)
    return free is not None and size <= free // 2 and (device.type != "cpu" or size <= _KEPT_ON_CPU)
