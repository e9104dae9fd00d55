"""Probes of a study: fitted to the embeddings of the train split once, and kept in the cache."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot_bench._io.locations import cache_folder
from fewshot_bench._io.tensors import DamagedFileError, read_tensors, write_tensors
from fewshot_bench._io.versions import installed_version
from fewshot_bench.adaptation.whole_datasets import KNNProbing, LinearProbing, Probe
from fewshot_bench.backbones import Backbone
from fewshot_bench.backbones.embedding import embedding_key
from fewshot_bench.cache import PROBES, build_once
from fewshot_bench.datasets import Dataset, ImageSplit
from fewshot_bench.embeddings import (
    KNNProbe,
    LabelledEmbeddings,
    LinearProbe,
    TrainingImages,
    chosen_knn_probe,
    chosen_linear_probe,
)
from fewshot_bench.embeddings.knn_probe import NEIGHBOURS, TEMPERATURES
from fewshot_bench.embeddings.linear_probe import DINOV2_C
from fewshot_bench.engine.classify import Classifier
from fewshot_bench.engine.engine import Engine
from fewshot_bench.engine.whole_split import WholeClassifier
from fewshot_bench.progress import Progress
from fewshot_bench.study.base_stage import validation_split
from fewshot_bench.training import Recipe
from fewshot_bench.training.division import divided

PROBE_VERSION = 1
_MADE_UP = 4096
_LOG = logging.getLogger(__name__)
_NEVER = -1e4
"""Stands for the logarithm of zero, which is not a finite number."""


@dataclass(frozen=True, eq=False)
class ProbeImages:
    """The images that a probe learns from and chooses on.

    Attributes:
        train: the train split.
        validation: the validation split; None where a part of the train split is held out.
        learned: rows of the train split that candidates are fitted to.
        held_out: rows of the validation split, or of the train split.
    """

    train: ImageSplit
    validation: ImageSplit | None
    learned: NDArray[np.int64]
    held_out: NDArray[np.int64]

    @classmethod
    def of(cls, dataset: Dataset, adaptation: Probe) -> ProbeImages:
        """The images of a probe: a validation split of the same classes is used before a held-out share."""
        train = dataset.split("train")
        validation = validation_split(dataset, train)
        if validation is not None:
            return cls(train, validation, np.arange(len(train)), np.arange(len(validation)))
        division = divided(train.class_sizes, Recipe(validation_share=adaptation.validation_share))
        return cls(train, None, division.learned, division.held_out)

    def parts(self, embeddings: Sequence[NDArray[np.float32]]) -> tuple[LabelledEmbeddings, LabelledEmbeddings]:
        """Both parts, from the embeddings of the train split and of the validation split, where there is one."""
        train, held_out_of = self.train, self.validation or self.train
        return (
            LabelledEmbeddings(embeddings[0], self.learned, train.labels[self.learned]),
            LabelledEmbeddings(embeddings[-1], self.held_out, held_out_of.labels[self.held_out]),
        )

    @property
    def validation_text(self) -> str:
        """The images that hyper-parameters are chosen on, in words."""
        where = "validation split" if self.validation is not None else f"train split, held out of {len(self.train):,}"
        return f"{len(self.held_out):,} images of the {where}"

    @property
    def splits(self) -> list[ImageSplit]:
        """The splits whose embeddings are needed."""
        return [self.train] if self.validation is None else [self.train, self.validation]


@dataclass(frozen=True, eq=False)
class OnProbe:
    """Makes the classifier of a fitted probe."""

    name: str
    probe: LinearProbe | KNNProbe
    embeddings: NDArray[np.float32]

    def __call__(self, device: str) -> Classifier:
        """The classifier on a device."""

        def logits(images: NDArray[np.int64]) -> Tensor:
            found = self.probe.log_probabilities(self.embeddings, rows=images, device=_with_float64(device))
            return torch.from_numpy(np.maximum(found, _NEVER))

        return WholeClassifier(logits, self.name)


def probe_of(
    adaptation: Probe,
    images: ProbeImages,
    embeddings: Sequence[NDArray[np.float32]],
    backbone: Backbone,
    engine: Engine,
    progress: Progress,
) -> LinearProbe | KNNProbe:
    """The probe of an adaptation, fitted or from the cache.

    Args:
        adaptation: the settings; what is not set is chosen.
        images: to learn from and to choose on.
        embeddings: of each of their splits.
        backbone: that embedded them.
        engine: where the probe is fitted.
        progress: shown one unit for the fit.

    Raises:
        EmbeddingError: there are too few images or classes to learn from.
    """
    what = f"{adaptation.name} of {images.train.dataset} by {backbone.name} {backbone.weights[:8]}"

    def built() -> _Fitted:
        with progress.step(f"fitting {what}", 1) as step:
            fitted = engine.call(_fitted, adaptation, images, list(embeddings), _with_float64(engine.device))
            step.advance(1)
        return fitted

    fitted = build_once(
        _path(adaptation, images, backbone, engine.device),
        what,
        read=_read,
        build=built,
        write=lambda path, built: write_tensors(path, built.tensors, {"what": what, **built.facts}),
        progress=progress,
    )
    if adaptation.chooses:
        _LOG.warning("note: %s chose %s on %s", what, fitted.facts["chosen"], images.validation_text)
    if isinstance(adaptation, LinearProbing):
        weights, intercepts = (fitted.tensors[name].numpy() for name in ("weights", "intercepts"))
        facts = json.loads(fitted.facts["fit"])
        return LinearProbe(weights, intercepts, adaptation.features == "l2", **facts)
    training = TrainingImages(*images.parts(embeddings), classes=len(images.train.class_names))
    return KNNProbe(training, features=adaptation.features, **json.loads(fitted.facts["fit"]))


def _with_float64(device: str) -> str:
    """The device, or the CPU in place of one without float64."""
    return "cpu" if device.startswith("mps") else device


def unfitted_probe(adaptation: Probe, images: ProbeImages, embedding_size: int) -> LinearProbe | KNNProbe:
    """A probe that takes as long to predict as a fitted one, for estimates, without embeddings.

    If k is to be chosen, it has the largest candidate.
    """
    classes = len(images.train.class_names)
    if isinstance(adaptation, LinearProbing):
        weights = np.zeros((classes, embedding_size))
        return LinearProbe(weights, np.zeros(classes), adaptation.features == "l2", adaptation.C or 1.0, 0, False)
    assert isinstance(adaptation, KNNProbing)
    made_up = np.random.default_rng(0).standard_normal((_MADE_UP, embedding_size), dtype=np.float32)
    labels = [part.labels for part in images.parts([made_up, made_up])]
    parts = (LabelledEmbeddings(made_up, np.arange(len(part)) % _MADE_UP, part) for part in labels)
    training = TrainingImages(*parts, classes=classes)
    k = min(adaptation.k or max(NEIGHBOURS), len(training))
    temperature = adaptation.temperature or TEMPERATURES[0]
    return KNNProbe(training, k, temperature if adaptation.is_weighted else None, adaptation.features)


@dataclass(frozen=True, eq=False)
class _Fitted:
    """A fitted probe as the cache keeps it: tensors by name, and metadata."""

    tensors: dict[str, Tensor]
    facts: dict[str, str]


def _fitted(adaptation: Probe, images: ProbeImages, embeddings: Sequence[NDArray[np.float32]], device: str) -> _Fitted:
    if isinstance(adaptation, LinearProbing):
        return _fitted_linear(adaptation, images, embeddings, device)
    assert isinstance(adaptation, KNNProbing)
    return _fitted_knn(adaptation, images, embeddings, device)


def _fitted_linear(
    adaptation: LinearProbing, images: ProbeImages, embeddings: Sequence[NDArray[np.float32]], device: str
) -> _Fitted:
    probe, choice = chosen_linear_probe(
        *images.parts(embeddings),
        classes=len(images.train.class_names),
        candidates=DINOV2_C if adaptation.C is None else (adaptation.C,),
        features=adaptation.features,
        max_iterations=adaptation.max_iterations,
        device=device,
    )
    fit = {"C": probe.C, "iterations": probe.iterations, "has_converged": probe.has_converged}
    tensors = {"weights": torch.from_numpy(probe.weights), "intercepts": torch.from_numpy(probe.intercepts)}
    facts = {"fit": json.dumps(fit), "tried": json.dumps(choice.tried), "chosen": f"C = {probe.C:g}"}
    return _Fitted(tensors, facts)


def _fitted_knn(
    adaptation: KNNProbing, images: ProbeImages, embeddings: Sequence[NDArray[np.float32]], device: str
) -> _Fitted:
    temperatures = TEMPERATURES if adaptation.temperature is None else (adaptation.temperature,)
    _, choice = chosen_knn_probe(
        *images.parts(embeddings),
        classes=len(images.train.class_names),
        neighbours=NEIGHBOURS if adaptation.k is None else (adaptation.k,),
        temperatures=temperatures if adaptation.is_weighted else (None,),
        features=adaptation.features,
        device=device,
    )
    temperature = "" if choice.temperature is None else f", temperature {choice.temperature:g}"
    facts = {
        "fit": json.dumps({"k": choice.k, "temperature": choice.temperature}),
        "tried": json.dumps(choice.tried),
        "chosen": f"k = {choice.k}{temperature}",
    }
    return _Fitted({"k": torch.tensor([choice.k])}, facts)


def _read(path: Path) -> _Fitted | None:
    """A fitted probe from the cache; None if it is damaged."""
    try:
        tensors, metadata = read_tensors(path)
        _ = json.loads(metadata["fit"])
    except (DamagedFileError, KeyError, ValueError):
        return None
    return _Fitted(dict(tensors), dict(metadata))


def _path(adaptation: Probe, images: ProbeImages, backbone: Backbone, device: str) -> Path:
    """Where a fitted probe is cached: under a key of everything that decides it."""
    content: dict[str, Any] = {
        "version": PROBE_VERSION,
        "probe": adaptation.name,
        "settings": adaptation.hyper_parameters(),
        "embeddings": [embedding_key(split, backbone, "", device) for split in images.splits],
        "rows": [
            hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest() for rows in (images.learned, images.held_out)
        ],
        "packages": {package: installed_version(package) for package in ("torch", "scipy")},
    }
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return cache_folder() / PROBES / f"{key}.safetensors"
