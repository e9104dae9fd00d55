"""Fit a method to all classes of a split, and keep what it learned as a `Classifier`.

An evaluation fits a method to many small support sets. Here the support set is the whole split, or a number of images
of each class. Where classes differ in size, methods that can take that learn from all images; the others get the same
number of images of each class, chosen by a seed.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from fewshot_bench._io.locations import Location, location_of
from fewshot_bench._io.versions import __version__
from fewshot_bench.adaptation import ADAPTATIONS, EmbeddedSplit, EmbeddingAdaptation, check_fields, code_of_adaptation
from fewshot_bench.adaptation.base import Adaptation
from fewshot_bench.adaptation.checked_predictions import check_adaptation
from fewshot_bench.adaptation.fitted_head import SupportHead, fit_head, takes_uneven_classes
from fewshot_bench.backbones import Backbone, create_backbone, embed
from fewshot_bench.backbones.backbone import BackboneRequest
from fewshot_bench.code_identity import code_of
from fewshot_bench.datasets import Dataset, ImageSplit, open_dataset
from fewshot_bench.datasets.dataset import SplitName
from fewshot_bench.devices import chosen_device
from fewshot_bench.engine.engine import LocalEngine
from fewshot_bench.errors import ClassifierError, DatasetError, StudyError
from fewshot_bench.evaluation.classifier import Classifier, backbone_record, head_digest
from fewshot_bench.evaluation.classifier_card import ClassifierCard, HeadRecord, ImageRecord, MeasuredAccuracy
from fewshot_bench.evaluation.new_images import preprocessing_of
from fewshot_bench.outcomes import MethodCard, OutcomeStore
from fewshot_bench.outcomes.schema import first_problem
from fewshot_bench.plugins import plugin_errors
from fewshot_bench.progress import SILENT, Progress
from fewshot_bench.report import leaderboard
from fewshot_bench.report.leaderboard_rows import MEASURED
from fewshot_bench.study.admission import admit_fields
from fewshot_bench.study.methods import adaptations_of, expand_groups, method_name, planned_adaptations
from fewshot_bench.study.networks import Backbones
from fewshot_bench.study.resolved import ResolvedMethod, ResolvedStudy, open_study_dataset
from fewshot_bench.study.study import Study
from fewshot_bench.study.workers import ClassifierBuilder, OnEmbeddings

_LARGEST_SUPPORT = 20_000  # images: their inner products are a matrix, 3 GB in float64
_NAMED = 3


def fit(
    method: EmbeddingAdaptation | str,
    dataset: Dataset | str,
    backbone: Backbone | str,
    *,
    split: SplitName = "novel",
    shot: int | None = None,
    seed: int = 0,
    results: Location | str | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Classifier:
    """Fit a method to the classes of a split, as an evaluation fits it to each support set.

    Args:
        method: an adaptation such as `Logistic(C=10)`, or its registered name. It is inductive, and works on plain
            embeddings; `fit_study` takes those that need augmented views or the base split.
        dataset: the images, or their name or path.
        backbone: the network, or its name. Of a network that is given, the classifier keeps the weights.
        split: whose classes it learns.
        shot: images of each class to learn from; None for all.
        seed: of the choice of images.
        results: folder of results in which to look for measured accuracies of this method.
        device: a torch device, or "auto".
        progress: shown a unit per image.

    Raises:
        StudyError: the method is transductive, needs more than embeddings, or cannot take these images.
        DatasetError: there is no such dataset or split, or a class has fewer images.
        EmbeddingError: embeddings or scores are not finite.

    >>> import fewshot_bench as fb
    >>> images = np.repeat(np.array([0, 200], np.uint8), 5 * 32 * 32 * 3).reshape(10, 32, 32, 3)
    >>> split = fb.ImageSplit("shades", "novel", images, ("dark", "light"), (5, 5), fingerprint="0" * 64)
    >>> shades = fb.Dataset("shades", {"novel": split})
    >>> classifier = fb.fit("centroid", shades, fb.create_backbone("conv4_32"), device="cpu")
    >>> classifier.predict(images[[0, 9]]).labels
    ['dark', 'light']
    """
    adaptation, name = _adaptation(method)
    images_of = open_dataset(dataset) if isinstance(dataset, str) else dataset
    images = images_of.split(split)
    is_named = isinstance(backbone, str)
    if isinstance(backbone, str):
        height, _, channels = images.images.shape[1:]
        backbone = create_backbone(BackboneRequest(backbone, channels, height))
    if adaptation.augmented_views or adaptation.features == "cl2" or adaptation.needs_base_covariance:
        raise StudyError(
            f"{adaptation.name} with these hyper-parameters needs more than the plain embeddings of one split. Use "
            "fewshot_bench.evaluation.fit.fit_study."
        )
    where = chosen_device(device)
    embeddings = torch.from_numpy(np.array(embed(images, backbone, device=where, progress=progress))).to(where)
    embedded = EmbeddedSplit(embeddings, len(images)).with_features(adaptation.features)
    card = MethodCard(
        name=method_name(backbone.name, dict(backbone.changes), "", adaptation),
        backbone=backbone.name,
        weights=backbone.weights,
        adaptation=adaptation.name,
        hyper_parameters={
            "preprocessing": backbone.preprocessing.as_dict(),
            "base": {},
            "adaptation": adaptation.hyper_parameters(),
        },
        code={
            **({} if backbone.code is None else {"backbone": backbone.code.as_record()}),
            **code_of_adaptation(adaptation),
        },
        assumes_balanced_queries=adaptation.assumes_balanced_queries,
    )
    reference = _Reference(name, is_named and backbone.is_pretrained)
    place = None if results is None else location_of(results)
    learned = _Learned(images_of, images, backbone, adaptation, embedded, None, card, reference, where)
    return learned.classifier(shot, seed, place)


def fit_study(study: Study, *, shot: int | None = None, progress: Progress = SILENT) -> Classifier:
    """Fit the one method of a study to the classes of its split; its results are searched for measured accuracies.

    Args:
        study: as it was run. It should be your own: code that it names is imported.
        shot: images of each class to learn from; None for all. They are chosen by the study's seed.
        progress: shown the import of own images, the training of the network and the embedding.

    Raises:
        FewshotBenchError: see `fit`; or the study has several methods.
    """
    admit_fields(study.model_dump())
    dataset = open_study_dataset(study, progress)
    images = dataset.split(study.split)
    shots = (shot or min(images.class_sizes),)  # what cross-validation within the support set has
    study = study.model_copy(update={"dataset": dataset.name, "shots": shots})
    study, _ = expand_groups(study, dataset)
    for name in study.adaptations:
        _usable(adaptations_of(study, name)[0])
    adaptations = tuple(planned_adaptations(study))
    if len(adaptations) != 1:
        raise StudyError(f"a classifier has one method; these are {len(adaptations)}. Name one with --adapt.")
    adaptation = _usable(adaptations[0])
    resolved = ResolvedStudy(study, dataset, (), adaptations, None, (), Backbones())
    if len(resolved.networks) != 1:
        raise StudyError(
            f"a classifier has one network; these are {len(resolved.networks)}. Name one by --backbone "
            "with --base-loss, or by --checkpoint."
        )
    method = ResolvedMethod.of(resolved.networks[0], adaptation, study)
    engine = LocalEngine(chosen_device(study.device))
    backbone = method.network.trained(dataset, engine, progress)
    factory = ClassifierBuilder(resolved, backbone, engine, progress).factory(adaptation)
    assert isinstance(factory, OnEmbeddings)
    prepared = factory.embeddings
    center = None if prepared.center is None else torch.from_numpy(np.array(prepared.center))
    checkpoint = study.checkpoints[0] if study.checkpoints else ""
    is_named = not checkpoint and study.weights is None and method.network.recipe is None and backbone.is_pretrained
    reference = _Reference(study.adaptations[0], is_named, checkpoint)
    embedded = prepared.on(engine.device)
    card = method.card(backbone)
    learned = _Learned(dataset, images, backbone, adaptation, embedded, center, card, reference, engine.device)
    return learned.classifier(shot, study.seed, study.results)


@dataclass(frozen=True)
class _Reference:
    """What leads to the parts of a method again: names of the adaptation, and of the backbone or checkpoint."""

    adaptation: str
    is_backbone_named: bool
    checkpoint: str = ""


@dataclass(frozen=True)
class _Learned:
    """A method and the embeddings of a split, ready to be fitted."""

    dataset: Dataset
    images: ImageSplit
    backbone: Backbone
    adaptation: EmbeddingAdaptation
    embedded: EmbeddedSplit
    center: Tensor | None
    method: MethodCard
    reference: _Reference
    device: str

    def classifier(self, shot: int | None, seed: int, results: Location | None) -> Classifier:
        """Fit the head, and describe everything."""
        done = preprocessing_of(self.dataset, self.images)
        support, note = chosen_images(self.images, self.adaptation, shot, seed)
        indices = [torch.from_numpy(rows).to(self.device) for rows in support]
        head = fit_head(self.adaptation, self.embedded, indices)
        kept = head.adaptation if isinstance(head, SupportHead) else self.adaptation
        own_code = code_of(type(kept))
        assert done.size is not None
        scale = done.scale
        measured = None if results is None else measured_accuracies(self.method, self.images, results)
        try:
            card = ClassifierCard(
                made_by=f"fewshot-bench {__version__}",
                method=self.method.name,
                method_fingerprint=self.method.fingerprint,
                dataset=self.dataset.name,
                dataset_fingerprint=self.images.dataset_fingerprint,
                split=self.images.name,
                class_names=self.images.class_names,
                class_sizes=tuple(len(rows) for rows in support),
                note=note,
                backbone=backbone_record(
                    self.backbone, is_named=self.reference.is_backbone_named, checkpoint=self.reference.checkpoint
                ),
                images=ImageRecord(
                    size=done.size,
                    channels=1 if self.images.images.shape[-1] == 1 else 3,
                    fit=done.fit,
                    interpolation=done.interpolation,
                    turns_by_exif=done.turns_by_exif,
                    **({} if scale is None else asdict(scale)),
                ),
                head=HeadRecord(
                    kind="support" if isinstance(head, SupportHead) else "linear",
                    adaptation=self.reference.adaptation,
                    settings=_settings(kept),
                    features=self.adaptation.features,
                    linear_in="" if isinstance(head, SupportHead) else head.linear_in,
                    scores="mean of standardised scores" if kept.choose == "ensemble" else kept.score_kind,
                    tensors=head_digest(head, self.center),
                    code={} if own_code is None else own_code.as_record(),
                ),
                measured=measured,
            )
        except ValidationError as error:
            raise ClassifierError(f"the classifier cannot be described: {first_problem(error)}.") from error
        center = None if self.center is None else self.center.to(self.device)
        return Classifier(card, self.backbone, head, center, self.device)


def _adaptation(method: EmbeddingAdaptation | str) -> tuple[EmbeddingAdaptation, str]:
    """A method and its name in the registry, or as `module:callable`."""
    if isinstance(method, str):
        admit_fields({"adaptations": [method]})
        entry = ADAPTATIONS[method]
        with plugin_errors(entry.factory):
            made = entry.factory(**entry.preset)
        return _usable(check_adaptation(made, method)), method
    adaptation, kind = _usable(method), type(method)
    check_fields(kind.__name__, kind)
    named = [entry.name for entry in ADAPTATIONS if entry.factory is kind and not entry.preset]
    return adaptation, named[0] if named else f"{kind.__module__}:{kind.__qualname__}"


def _usable(adaptation: object) -> EmbeddingAdaptation:
    """Refuse a method that leaves no classifier behind.

    Raises:
        StudyError: it is transductive, changes the network, or classifies whole datasets.
    """
    name = getattr(adaptation, "name", type(adaptation).__name__)
    if not isinstance(adaptation, Adaptation):
        raise StudyError(f"fit takes an adaptation such as Logistic(C=10), or its name, not {name}.")
    if adaptation.is_transductive:
        raise StudyError(
            f"{name} is transductive: its class for an image depends on the images beside it, so there is no "
            "classifier to keep. Use an inductive method, such as --adapt logistic."
        )
    if not isinstance(adaptation, EmbeddingAdaptation):
        raise StudyError(
            f"{name} is not a method on embeddings, and fit keeps no others. Train the network once with fewshot-bench "
            "train, then use fit --checkpoint NAME --adapt logistic."
        )
    return adaptation


def _settings(adaptation: EmbeddingAdaptation) -> dict[str, Any]:
    """All fields of an adaptation as JSON gives them back."""
    settings: dict[str, Any] = json.loads(json.dumps(asdict(adaptation)))
    return settings


def chosen_images(
    images: ImageSplit, adaptation: EmbeddingAdaptation, shot: int | None, seed: int
) -> tuple[list[NDArray[np.int64]], str]:
    """Which images of each class a classifier learns from.

    Args:
        images: the split.
        adaptation: that learns.
        shot: images of each class; None for all, or for as many as the smallest class has where the adaptation needs
            classes of one size.
        seed: decides which.

    Returns:
        Rows of the split, [n] per class, sorted; and a sentence on what was not used, or nothing.

    Raises:
        StudyError: there are fewer than two classes, or more images than the inner products of a head may have.
        DatasetError: a class has fewer images than asked for.
    """
    sizes = images.class_sizes
    if len(sizes) < 2:
        raise StudyError(f"the {images.name} split of {images.dataset} has one class. A classifier needs two or more.")
    smallest = min(sizes)
    if shot is not None and shot > smallest:
        few = [f"{name} has {size}" for name, size in zip(images.class_names, sizes, strict=True) if size < shot]
        more = f" and {len(few) - _NAMED} more classes" if len(few) > _NAMED else ""
        raise DatasetError(
            f"--shot {shot} needs {shot} images of each class, and {', '.join(few[:_NAMED])}{more}. "
            f"Use --shot {smallest} or fewer."
        )
    note = ""
    if shot is None and len(set(sizes)) > 1 and not takes_uneven_classes(adaptation):
        shot = smallest
        why = f"choose={adaptation.choose}" if adaptation.choose != "none" else adaptation.name
        note = (
            f"{why} needs classes of one size: {shot} images of each class were used, chosen by seed {seed}; "
            f"{sum(sizes) - shot * len(sizes):,} others were not"
        )
    rows = [np.arange(start, start + size) for start, size in zip(images.offsets, sizes, strict=False)]
    if shot is not None:
        rows = [_some(of_class, shot, seed, number) for number, of_class in enumerate(rows)]
    if (total := sum(map(len, rows))) > _LARGEST_SUPPORT:
        raise StudyError(
            f"{total:,} images are more than a head learns from at once ({_LARGEST_SUPPORT:,}). Use --shot "
            f"{_LARGEST_SUPPORT // len(sizes)} or fewer."
        )
    return rows, note


def _some(rows: NDArray[np.int64], count: int, seed: int, label: int) -> NDArray[np.int64]:
    """A seeded choice of the images of a class: those with the smallest random keys, in canonical order."""
    keys = np.random.Philox(key=np.array([seed % (1 << 64), label], np.uint64)).random_raw(len(rows))
    return np.sort(rows[np.argsort(keys, kind="stable")[:count]])


def measured_accuracies(
    method: MethodCard, images: ImageSplit, results: Location
) -> tuple[MeasuredAccuracy, ...] | None:
    """The stored accuracies of a method on the images of a split, by shots; None if nothing was measured.

    Raises:
        OutcomeError: stored outcomes are damaged.
    """
    store = OutcomeStore(results / "outcomes")
    cells = [
        cell
        for cell in store.cells()
        if cell.method.fingerprint == method.fingerprint
        and cell.protocol.dataset_fingerprint == images.dataset_fingerprint
        and cell.protocol.split == images.name
        and not cell.protocol.is_whole
        and store.done(cell)
    ]
    if not cells:
        return None
    rows = leaderboard(store, cells=cells).to_dict("records")
    measured = [
        MeasuredAccuracy(
            split=row["split"],
            way=int(row["way"]),
            shot=int(row["shot"]),
            sampler=row["sampler"],
            episodes=int(row["episodes"]) * int(row["runs"]),
            mean=float(row["mean"]),
            ci95=_finite(row["ci95"]),
            data_ci95=_finite(row["data_ci95"]),
            protocol=row["protocol_fingerprint"],
        )
        for row in rows
        if row["source"] == MEASURED
    ]
    return tuple(sorted(measured, key=lambda accuracy: (accuracy.way, accuracy.shot, accuracy.sampler)))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
