"""Measure the embeddings of networks on the images of a split, and store their cards."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import fewshot_bench.embeddings as measures
from fewshot_bench._io.locations import Location, checkpoints_folder
from fewshot_bench._io.versions import installed_versions
from fewshot_bench.backbones import Backbone, BackboneRequest, embed
from fewshot_bench.backbones.backbone import Interpolation
from fewshot_bench.datasets import Dataset, ImageSplit, SplitName, known_dataset
from fewshot_bench.datasets.catalogue import may_be_shown
from fewshot_bench.devices import chosen_device
from fewshot_bench.embeddings.projections import ProjectionName, chosen_images, projected, refuse_missing_package
from fewshot_bench.errors import StudyError, UnknownNameError
from fewshot_bench.progress import SILENT, Progress
from fewshot_bench.report.embeddings.cards import (
    EmbeddingCard,
    Layout,
    Measure,
    NetworkCard,
    PairCard,
    Similarities,
    Thumbnails,
    store_cards,
)
from fewshot_bench.study.admission import admit_checkpoints, admit_fields
from fewshot_bench.study.base_stage import initialised_backbone, stage_name
from fewshot_bench.study.checkpoints import read_checkpoint

SHOWN_BINS = 100
"""Least bins of a stored histogram, where its range has as many."""
_LARGEST_TILE, _TILES_PER_ROW, _DECIMALS = 32, 40, 3


@dataclass(frozen=True, kw_only=True)
class EmbeddingPlan:
    """The settings of `fewshot-bench embeddings`.

    Attributes:
        networks: names of backbones and checkpoints; the others are compared with the first.
        dataset: name or path.
        split: whose images are embedded.
        image_size: side in pixels instead of the backbones' own.
        interpolation: instead of the backbones' own.
        weights: file of weights, if one backbone is named.
        seed: of random initial weights, groups of classes and the layout.
        layout: how twenty classes are projected into the plane; None for no layout.
        classes: two classes for the paper's picture of their similarities; empty for none.
        has_intervals: whether intervals over classes are computed.
        has_thumbnails: whether the images of the layout are kept where the dataset may be shown.
        device: "auto", "cpu", "cuda", ...
        trusts_code: whether code that a checkpoint names is imported.
    """

    networks: tuple[str, ...]
    dataset: str = "glyphs"
    split: SplitName = "novel"
    image_size: int | None = None
    interpolation: Interpolation | None = None
    weights: Path | None = None
    seed: int = 0
    layout: ProjectionName | None = "tsne"
    classes: tuple[str, ...] = ()
    has_intervals: bool = True
    has_thumbnails: bool = True
    device: str = "auto"
    trusts_code: bool = False


@dataclass(frozen=True)
class NamedNetwork:
    """A backbone with its name for people."""

    name: str
    backbone: Backbone


def measure_networks(
    plan: EmbeddingPlan, results: Location | None = None, *, progress: Progress = SILENT
) -> tuple[list[EmbeddingCard], list[PairCard]]:
    """Embed the images of a split by each network, through the cache, and measure the embeddings.

    Args:
        plan: the settings.
        results: the folder whose `embeddings` gets the cards and tables; None to store nothing.
        progress: shown a unit per image that is embedded, and a unit per network that is measured.

    Returns:
        A card for each network, and the differences of each pair on the same images.

    Raises:
        UnknownNameError: a backbone, checkpoint, dataset, split or class is not known.
        StudyError: the options contradict each other.
        DatasetError: the dataset is not here, or lacks the split.
        EmbeddingError: embeddings are not finite or cannot be measured, or a package is missing.
        WeightsError: a checkpoint is damaged.
    """
    if plan.layout is not None:
        refuse_missing_package(plan.layout)
    admit_fields({"dataset": plan.dataset})
    dataset = known_dataset(plan.dataset, progress=progress)
    split = dataset.split(plan.split)
    refuse_unknown_classes(plan.classes, split)
    if plan.weights is not None and sum(not _is_checkpoint(name) for name in plan.networks) != 1:
        raise StudyError("--weights gives the weights of one backbone. Name one backbone, beside any checkpoints.")
    networks = [_network(name, plan, split) for name in dict.fromkeys(plan.networks)]
    cards, pairs = measured(networks, dataset, split, plan, progress=progress)
    if results is not None:
        store_cards(results, cards, pairs)
    return cards, pairs


def measured(
    networks: Sequence[NamedNetwork],
    dataset: Dataset,
    split: ImageSplit,
    plan: EmbeddingPlan,
    *,
    progress: Progress = SILENT,
) -> tuple[list[EmbeddingCard], list[PairCard]]:
    """Measure networks that are loaded already; see `measure_networks`."""
    device = chosen_device(plan.device)
    shown = plan.has_thumbnails and plan.layout is not None and may_be_shown(dataset)
    how: dict[str, Any] = {"intervals": plan.has_intervals, "seed": plan.seed}
    embedded: list[NDArray[np.float32]] = []
    found: list[tuple[measures.Measured, ...]] = []
    cards: list[EmbeddingCard] = []
    for network in networks:
        embedded.append(embed(split, network.backbone, device=device, progress=progress))
        with progress.step(f"measuring {network.name}", 1) as step:
            found.append(measures.measure(embedded[-1], split.labels, **how))
            cards.append(_card(network, split, embedded[-1], found[-1], plan, shown))
            step.advance()
    pairs = []
    for number in range(1, len(networks)):
        with progress.step(f"comparing {networks[number].name} with {networks[0].name}", 1) as step:
            sides, known = (embedded[number], embedded[0]), (found[number], found[0])
            differences = measures.compare_embeddings(*sides, split.labels, measured=known, **how)
            step.advance()
        pairs.append(PairCard(a=cards[0].network, b=cards[number].network, measures=_measures(differences)))
    return cards, pairs


def refuse_unknown_classes(classes: Sequence[str], split: ImageSplit) -> None:
    """Raise StudyError unless two different classes or none are named, UnknownNameError for one that is not there."""
    for name in classes:
        if name not in split.class_names:
            raise UnknownNameError(f"class of {split.dataset} {split.name}", name, split.class_names)
    if classes and len(set(classes)) != 2:
        raise StudyError("--classes takes two different classes, such as --classes baby,whale.")


def _network(name: str, plan: EmbeddingPlan, split: ImageSplit) -> NamedNetwork:
    if _is_checkpoint(name):
        if plan.trusts_code:
            admit_checkpoints([name])
        return NamedNetwork(name, read_checkpoint(name).backbone())
    admit_fields({"backbone": name})
    height, _, channels = split.images.shape[1:]
    request = BackboneRequest(name, channels, height, plan.image_size, plan.interpolation, plan.weights)
    backbone = initialised_backbone(request, plan.seed)
    changes: dict[str, Any] = dict(backbone.changes)
    if plan.weights is not None:
        changes["weights"] = plan.weights.stem
    if not backbone.is_pretrained:
        changes["weights"] = f"random {plan.seed}"
    return NamedNetwork(stage_name(name, changes), backbone)


def _is_checkpoint(name: str) -> bool:
    return "/" not in name and (checkpoints_folder() / f"{name}.safetensors").is_file()


def network_card(network: NamedNetwork, split: ImageSplit) -> NetworkCard:
    """Which network it is, and which images it sees."""
    backbone = network.backbone
    return NetworkCard(
        name=network.name,
        backbone=backbone.name,
        weights=backbone.weights,
        preprocessing=_plain(backbone.preprocessing.as_dict()),
        embedding_size=backbone.embedding_size,
        pretraining=backbone.pretraining,
        dataset=split.dataset,
        dataset_fingerprint=split.dataset_fingerprint,
        split=split.name,
        split_fingerprint=split.fingerprint,
        code={} if backbone.code is None else backbone.code.as_record(),
    )


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives it back, so that a card equals itself after reading."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def _card(
    network: NamedNetwork,
    split: ImageSplit,
    embeddings: NDArray[np.float32],
    found: Iterable[measures.Measured],
    plan: EmbeddingPlan,
    shown: bool,
) -> EmbeddingCard:
    layout = None if plan.layout is None else _layout(split, embeddings, plan.layout, plan.seed)
    numbers = [split.class_names.index(name) for name in plan.classes]
    return EmbeddingCard(
        network=network_card(network, split),
        images=len(split),
        classes=len(split.class_names),
        seed=plan.seed,
        measures=_measures(found),
        similarities=_similarities(measures.similarity_histograms(embeddings, split.labels)),
        two_classes=_similarities(
            measures.similarity_histograms(embeddings, split.labels, classes=numbers), plan.classes
        )
        if numbers
        else None,
        layout=layout,
        thumbnails=thumbnails(split, layout.images) if layout is not None and shown else None,
        versions=installed_versions(),
        has_intervals=plan.has_intervals,
    )


def _measures(found: Iterable[measures.Measured]) -> tuple[Measure, ...]:
    return tuple(
        Measure(
            name=each.name,
            title=measures.MEASURES[each.name].title,
            variant=each.variant,
            **{end: _finite(getattr(each, end)) for end in ("value", "low", "high")},
        )
        for each in found
    )


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _similarities(found: measures.SimilarityHistograms, classes: tuple[str, ...] = ()) -> Similarities:
    edges, same, different = shown_bins(found.edges, found.same, found.different)
    return Similarities(
        edges=tuple(round(float(edge), 6) for edge in edges),
        same=tuple(int(count) for count in same),
        different=tuple(int(count) for count in different),
        auc=_finite(found.auc),
        auc_bound=_finite(found.auc_bound) or 0.0,
        classes=classes,
    )


def shown_bins(
    edges: NDArray[np.float64], same: NDArray[np.int64], different: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """The bins of a picture: those that hold pairs, joined while that leaves `SHOWN_BINS` or more; all counts stay.

    >>> edges, same, different = shown_bins(np.linspace(-1, 1, 10_001), np.ones(10_000, int), np.ones(10_000, int))
    >>> len(same), int(same.sum())
    (100, 10000)
    """
    filled = np.flatnonzero(same + different)
    first, last = int(filled[0]), int(filled[-1]) + 1
    together = max(1, (last - first) // SHOWN_BINS)
    last = min(first + math.ceil((last - first) / together) * together, len(same))
    first = max(0, last - math.ceil((last - first) / together) * together)
    starts = np.arange(first, last, together)
    joined = [np.add.reduceat(counts[:last], starts) for counts in (same, different)]
    return np.append(edges[starts], edges[last]), joined[0], joined[1]


def _layout(split: ImageSplit, embeddings: NDArray[np.float32], projection: ProjectionName, seed: int) -> Layout:
    classes, rows = chosen_images(split.class_sizes, seed=seed)
    points, settings = projected(embeddings[rows], projection, seed=seed)
    points = points / max(float(np.abs(points).max()), 1e-12) * 100  # a plane without units
    return Layout(
        method=projection,
        seed=seed,
        settings=settings,
        classes=tuple(split.class_names[number] for number in classes),
        labels=tuple(int(number) for number in np.searchsorted(classes, split.labels[rows])),
        images=tuple(int(row) for row in rows),
        x=tuple(round(float(x), _DECIMALS) for x in points[:, 0]),
        y=tuple(round(float(y), _DECIMALS) for y in points[:, 1]),
    )


def thumbnails(split: ImageSplit, rows: Sequence[int]) -> Thumbnails:
    """The images of a layout in one PNG, each at most 32 pixels wide and high."""
    side = min(_LARGEST_TILE, max(split.images.shape[1:3]))
    columns = min(_TILES_PER_ROW, len(rows))
    is_grey = split.images.shape[-1] == 1
    sheet = Image.new("L" if is_grey else "RGB", (columns * side, math.ceil(len(rows) / columns) * side))
    for number, row in enumerate(rows):
        pixels = np.asarray(split.images[row])
        tile = Image.fromarray(pixels[..., 0] if is_grey else pixels)
        if tile.size != (side, side):
            tile = tile.resize((side, side), Image.Resampling.BILINEAR)
        sheet.paste(tile, (number % columns * side, number // columns * side))
    content = io.BytesIO()
    sheet.save(content, format="PNG", optimize=True)
    return Thumbnails(png=base64.b64encode(content.getvalue()).decode(), side=side, columns=columns, count=len(rows))
