"""Embeddings drawn in the plane by t-SNE, PCA or UMAP: illustrations, from which nothing can be measured."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.errors import EmbeddingError

ProjectionName = Literal["tsne", "pca", "umap"]
PROJECTIONS: tuple[str, ...] = get_args(ProjectionName)
EXTRA = "projections"
_PACKAGES = {"tsne": ("sklearn", "scikit-learn"), "umap": ("umap", "umap-learn")}
_TITLES = {"tsne": "t-SNE", "pca": "PCA", "umap": "UMAP"}
_PERPLEXITY, _NEIGHBOURS, _LEAST_DISTANCE = 30.0, 15, 0.1


def refuse_missing_package(projection: ProjectionName) -> None:
    """Raise EmbeddingError if the package that a projection needs is not installed."""
    module, package = _PACKAGES.get(projection, ("", ""))
    if module and not _is_installed(module):
        raise EmbeddingError(
            f"{_TITLES[projection]} needs {package}, which is not installed. Install it: pip install "
            f'"fewshot-bench[{EXTRA}]", or use --layout pca.'
        )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ValueError:  # it stands in sys.modules without a specification
        return True


def chosen_images(
    class_sizes: Sequence[int], *, classes: int = 20, per_class: int = 50, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose images to draw: some classes of a split, and as many images of each at most; the seed decides which.

    Args:
        class_sizes: images per class, whose rows follow each other, [C].
        classes: at most so many are drawn.
        per_class: at most so many images of a class.
        seed: of the choice.

    Returns:
        The numbers of the classes, sorted, [c]; the rows of the images, class by class, [P].

    >>> classes, rows = chosen_images([3, 3], per_class=2)
    >>> classes.tolist(), len(rows)
    ([0, 1], 4)
    """
    generator = np.random.default_rng(seed)
    kept = np.sort(generator.permutation(len(class_sizes))[:classes])
    first = np.concatenate([[0], np.cumsum(class_sizes)])
    rows = [first[label] + np.sort(generator.permutation(class_sizes[label])[:per_class]) for label in kept]
    return kept.astype(np.int64), np.concatenate(rows).astype(np.int64)


def projected(
    embeddings: NDArray[np.float32], projection: ProjectionName, *, seed: int = 0
) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """Project embeddings into the plane by their directions: norms are divided out, as for cosine similarities.

    Args:
        embeddings: [P, D], finite.
        projection: t-SNE (van der Maaten and Hinton, 2008) by scikit-learn, principal components, or UMAP (McInnes et
            al., 2018) by umap-learn.
        seed: of t-SNE and UMAP.

    Returns:
        Coordinates [P, 2], and the settings of the projection.

    Raises:
        EmbeddingError: there are fewer than three embeddings, one is not finite, or a package is missing.
    """
    points = np.asarray(embeddings, dtype=np.float64)
    if points.ndim != 2 or len(points) < 3:
        raise EmbeddingError(f"a layout needs three embeddings [P, D] or more, not {list(points.shape)}.")
    if not np.isfinite(points).all():
        raise EmbeddingError("a layout needs finite embeddings; some are NaN or infinite.")
    refuse_missing_package(projection)
    points = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    components = _principal_components(points)
    if projection == "pca":
        return components, {}
    if projection == "tsne":
        return _tsne(points, components, seed)
    return _umap(points, seed)


def _principal_components(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The first two, [P, 2]; the largest loading of each is positive, since the sign of a component is arbitrary."""
    centred = points - points.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    directions = directions[:2]
    largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=1)[:, None], axis=1)
    found = centred @ (directions * np.where(largest < 0, -1.0, 1.0)).T
    return found if found.shape[1] == 2 else np.column_stack([found[:, 0], np.zeros(len(found))])


def _tsne(
    points: NDArray[np.float64], components: NDArray[np.float64], seed: int
) -> tuple[NDArray[np.float64], dict[str, Any]]:
    from sklearn.manifold import TSNE

    settings = {"perplexity": min(_PERPLEXITY, (len(points) - 1) / 3), "init": "pca", "metric": "euclidean, unit norm"}
    spread = components[:, 0].std()
    start = components / spread * 1e-4 if spread > 0 else components
    model = TSNE(perplexity=settings["perplexity"], init=start.astype(np.float32), random_state=seed)
    return np.asarray(model.fit_transform(points.astype(np.float32)), dtype=np.float64), settings


def _umap(points: NDArray[np.float64], seed: int) -> tuple[NDArray[np.float64], dict[str, Any]]:
    from umap import UMAP

    settings = {"n_neighbors": min(_NEIGHBOURS, len(points) - 1), "min_dist": _LEAST_DISTANCE, "metric": "cosine"}
    model = UMAP(n_components=2, random_state=seed, **settings)
    return np.asarray(model.fit_transform(points), dtype=np.float64), settings
