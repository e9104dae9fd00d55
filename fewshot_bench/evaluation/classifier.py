"""A method that has learned its classes: kept in a folder, loaded without running what the folder says, and used.

model.json                  everything but numbers; names, sizes and digests are checked
head.safetensors            weights of a linear head, or the support set
weights.safetensors         the network, where it cannot be made again from its name
"""

from __future__ import annotations

import html
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot_bench._io.storage import is_abandoned, open_regular, temporary_name, write_atomically
from fewshot_bench._io.tensors import DamagedFileError, read_tensors, tensors_digest
from fewshot_bench.adaptation import ADAPTATIONS, EmbeddedSplit, EmbeddingAdaptation
from fewshot_bench.adaptation.base import LOGITS
from fewshot_bench.adaptation.fitted_head import FittedHead, LinearHead, SupportHead
from fewshot_bench.backbones import (
    Backbone,
    BackboneRequest,
    Preprocessing,
    embed,
    is_fetched_already,
    known_backbone,
    model_of_hub,
)
from fewshot_bench.code_identity import what_changed
from fewshot_bench.datasets import ImageSplit
from fewshot_bench.datasets.bit_depth import ValueRange
from fewshot_bench.datasets.images import Preprocessing as ImagePreprocessing
from fewshot_bench.devices import chosen_device
from fewshot_bench.errors import ClassifierError, FewshotBenchError, OutcomeError, WeightsError
from fewshot_bench.evaluation.classifier_card import (
    CARD_FILE,
    BackboneRecord,
    ClassifierCard,
    HeadRecord,
    MeasuredAccuracy,
    read_card,
)
from fewshot_bench.evaluation.new_images import NewImages, in_channels
from fewshot_bench.evaluation.predictions import PROBABILITY, Predictions
from fewshot_bench.plugins import described, plugin_errors
from fewshot_bench.progress import SILENT, Progress
from fewshot_bench.study.admission import admit_checkpoints, admit_fields
from fewshot_bench.study.checkpoints import read_checkpoint
from fewshot_bench.training.checkpoints import save_tensors

HEAD_FILE = "head.safetensors"
WEIGHTS_FILE = "weights.safetensors"

_SCORED_AT_ONCE = 512
_ROOM = 1 << 20  # bytes of a file of tensors besides their numbers

Images = str | Path | Sequence[str | Path] | NDArray[np.uint8] | ImageSplit
"""Files and folders, or pixels uint8 [B, H, W, C] or [H, W, C]."""

_IMAGES = "files, folders, or uint8 [B, H, W, C] with 1 or 3 channels"


@dataclass(frozen=True, repr=False, eq=False)
class Classifier:
    """A network, a head and what is done to images, which together name the class of any image.

    Attributes:
        card: everything but numbers.
        backbone: image to embedding.
        head: features of an embedding to scores.
        center: subtracted from embeddings with the features cl2, [D].
        device: a torch device.

    >>> import fewshot_bench as fb
    >>> classifier = fb.Classifier.load("model")  # doctest: +SKIP
    >>> classifier.class_names, classifier.measured  # doctest: +SKIP
    """

    card: ClassifierCard
    backbone: Backbone
    head: FittedHead
    center: Tensor | None = None
    device: str = "cpu"

    def __repr__(self) -> str:
        card = self.card
        measured = card.measured[-1].text if card.measured else "not measured"
        return f"<Classifier: {len(card.class_names):,} classes of {card.dataset}, {card.method}, {measured}>"

    def _repr_html_(self) -> str:
        """One line and the classes, for notebooks."""
        classes = ", ".join(self.card.class_names[:20]) + (", ..." if len(self.card.class_names) > 20 else "")
        return f"<p>{html.escape(repr(self)[1:-1])}</p><p>{html.escape(classes)}</p>"

    @property
    def class_names(self) -> tuple[str, ...]:
        """What it tells apart."""
        return self.card.class_names

    @property
    def measured(self) -> tuple[MeasuredAccuracy, ...]:
        """The accuracies of its method that were measured on the same dataset; empty if there are none."""
        return self.card.measured or ()

    def predict(self, images: Images, *, progress: Progress = SILENT) -> Predictions:
        """Score images. An image's scores do not depend on the others.

        Args:
            images: files and folders, with everything below them; or pixels, uint8 [B, H, W, C] or [H, W, C].
            progress: shown a unit per file.

        Returns:
            Scores of the images that can be read; the others are in `refused`.

        Raises:
            DatasetError: there are no images, none can be read, or a place is missing or named twice.
            ClassifierError: an array has another shape or type.
            EmbeddingError: an embedding is not finite.
        """
        names: list[str] = []
        scores: list[NDArray[np.float64]] = []
        files = None
        if isinstance(images, np.ndarray | ImageSplit):
            blocks: Iterator[tuple[list[str], NDArray[np.uint8]]] = iter([self._pixels(images)])
        else:
            given: Any = images
            places = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
            if not all(isinstance(place, str | Path) for place in places):
                raise ClassifierError(f"images should be {_IMAGES}, not {described(images)}.")
            files = NewImages(places)
            blocks = files.blocks(self._preprocessing, self.card.images.channels, progress)
        for block_names, pixels in blocks:
            names += block_names
            scores.append(self._scores(pixels))
        refused = files.refused if files is not None else ()
        return Predictions(tuple(names), self.class_names, np.concatenate(scores), self._kind, refused)

    @property
    def _kind(self) -> str:
        return PROBABILITY if self.card.head.scores == LOGITS else self.card.head.scores

    @property
    def _preprocessing(self) -> ImagePreprocessing:
        record = self.card.images
        scale = ValueRange(record.black, record.white, record.is_fractional)
        return ImagePreprocessing(record.size, record.fit, record.interpolation, record.turns_by_exif, scale)

    def _pixels(self, images: NDArray[np.uint8] | ImageSplit) -> tuple[list[str], NDArray[np.uint8]]:
        """Names and pixels of decoded images, brought to the size and channels of the dataset."""
        if isinstance(images, ImageSplit):
            names, pixels = [images.image_id(number) for number in range(len(images))], images.images
        else:
            pixels = images[None] if images.ndim == 3 else images
            names = [str(number) for number in range(len(pixels))]
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] not in (1, 3) or not pixels.size:
            raise ClassifierError(
                f"images should be {_IMAGES}, not {pixels.dtype} "
                f"{list(images.shape) if isinstance(images, np.ndarray) else list(pixels.shape)}."
            )
        size, channels = self.card.images.size, self.card.images.channels
        if pixels.shape[1:3] != (size, size):
            squeezed = [image[..., 0] if image.shape[-1] == 1 else image for image in pixels]
            pixels = np.stack([self._preprocessing.resize(image) for image in squeezed])
        return names, in_channels(pixels, channels)

    @torch.no_grad()
    def _scores(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Scores of every class, [B, N]; probabilities if the head has logits."""
        split = ImageSplit("new images", "novel", pixels, ("new",), (len(pixels),), "new images")
        embeddings = torch.from_numpy(embed(split, self.backbone, device=self.device, use_cache=False))
        raw = EmbeddedSplit(embeddings.to(self.device), len(pixels))
        features = raw.with_features(self.card.head.features, self.center).embeddings
        parts = [self.head.scores(part).double().cpu() for part in torch.split(features, _SCORED_AT_ONCE)]
        scores = torch.cat(parts)
        found: NDArray[np.float64] = (scores.softmax(dim=1) if self.card.head.scores == LOGITS else scores).numpy()
        return found

    def save(self, folder: str | Path, *, with_weights: bool = False, replace: bool = False) -> Path:
        """Keep it in a folder, all or nothing.

        Args:
            folder: is made.
            with_weights: whether the network's weights are copied, so that the folder works on another machine; they
                are in any case where no name leads to them.
            replace: whether a classifier that is there may be replaced.

        Raises:
            ClassifierError: something else is there, or a classifier that should not be replaced.
            OSError: the disk is full, or the folder cannot be written to.
        """
        path = Path(os.path.abspath(folder))
        check_free(path, replace=replace)
        _remove_abandoned_beside(path)
        unfinished = path.with_name(temporary_name(path.name))
        try:
            self._write(unfinished, with_weights)
            _install(unfinished, path)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return Path(folder)

    def _write(self, folder: Path, with_weights: bool) -> None:
        card, backbone = self.card, self.card.backbone
        if with_weights:
            backbone = backbone.model_copy(update={"weights_from": "folder", "checkpoint": ""})
        if backbone.weights_from == "folder":
            save_tensors(folder / WEIGHTS_FILE, self.backbone.network.state_dict(), {"backbone": backbone.name})
        save_tensors(folder / HEAD_FILE, tensors_of(self.head, self.center), {"kind": card.head.kind})
        write_atomically(folder / CARD_FILE, card.model_copy(update={"backbone": backbone}).as_json())

    @classmethod
    def load(
        cls, folder: str | Path, *, device: str = "auto", trusts_code: bool = False, downloads: bool = False
    ) -> Classifier:
        """A classifier that `save` kept. A stranger may have written the folder: nothing in it is executed.

        Args:
            folder: as it was given to `save`.
            device: a torch device, or "auto".
            trusts_code: whether code that it names as `module:callable` is imported.
            downloads: whether weights that are not on this machine are fetched from their model hub.

        Raises:
            ClassifierError: there is no classifier, it is damaged or of a later release, or the network has other
                weights or code than the one that it learned with.
            CodeNotTrustedError: it names code, which was not admitted.
            UnknownNameError: a name in it is not known here.
            WeightsError: the weights are not here.
        """
        path = Path(folder)
        card = read_card(path)
        if trusts_code:
            named = [card.head.adaptation] if card.head.kind == "support" else []
            admit_fields({"adaptations": named, "backbone": card.backbone.name})
            admit_checkpoints(filter(None, [card.backbone.checkpoint]))
        where = chosen_device(device)
        head, center = _read_head(path, card, where)
        backbone = _backbone(path, card, downloads)
        return cls(card, backbone, head, center, where)


def check_free(folder: Path, *, replace: bool = False) -> None:
    """See that a classifier can be kept in a folder; nothing is made.

    Raises:
        ClassifierError: something is there that should not be replaced.
    """
    if not os.path.lexists(folder) or (folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir())):
        return
    if folder.is_symlink() or not folder.is_dir() or not (folder / CARD_FILE).is_file():
        raise ClassifierError(f"{folder} exists and is not a classifier. Choose another folder for -o.")
    if not replace:
        raise ClassifierError(f"{folder} holds a classifier already. Add --replace, or choose another folder.")


def _install(unfinished: Path, folder: Path) -> None:
    """Rename a finished folder to its place; what was there is removed afterwards."""
    if not folder.is_dir():
        os.rename(unfinished, folder)
        return
    old = folder.with_name(temporary_name(folder.name))
    os.rename(folder, old)
    try:
        os.rename(unfinished, folder)
    except OSError:
        os.rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _remove_abandoned_beside(folder: Path) -> None:
    """Remove the unfinished folders of dead processes for the same target."""
    with suppress(OSError):
        for entry in folder.parent.iterdir():
            if entry.name.startswith(f".{folder.name}.") and is_abandoned(entry.name) and entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)


def tensors_of(head: FittedHead, center: Tensor | None) -> dict[str, Tensor]:
    """The numbers of a head by name."""
    tensors: dict[str, Tensor | None] = {"center": center}
    if isinstance(head, LinearHead):
        tensors |= {"weights": head.weights, "bias": head.bias}
    else:
        sizes = torch.tensor(head.class_sizes)
        tensors |= {"support": head.support, "class_sizes": sizes, "base_covariance": head.base_covariance}
    return {name: tensor.detach().cpu() for name, tensor in tensors.items() if tensor is not None}


def head_digest(head: FittedHead, center: Tensor | None) -> str:
    """Digest of the numbers of a head."""
    return tensors_digest(tensors_of(head, center))


def _read_head(folder: Path, card: ClassifierCard, device: str) -> tuple[FittedHead, Tensor | None]:
    """The head in a folder, with shapes, types and values as its card says."""
    path, record = folder / HEAD_FILE, card.head
    adaptation = _adaptation(record) if record.kind == "support" else None
    expected = _expected_shapes(card, adaptation)
    numbers = sum(math.prod(shape) for shape, _ in expected.values())
    tensors = _tensors(path, 8 * numbers + _ROOM)
    for name, (shape, dtype) in expected.items():
        tensor = tensors.get(name)
        if tensor is None or tuple(tensor.shape) != shape or tensor.dtype != dtype:
            found = "absent" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
            raise ClassifierError(f"{path} is damaged: {name} should be {dtype} {list(shape)}, and is {found}.")
        if dtype.is_floating_point and not bool(tensor.isfinite().all()):
            raise ClassifierError(f"{path} is damaged: {name} holds NaN or infinite values.")
    if tensors.keys() != expected.keys() or tensors_digest(tensors) != record.tensors:
        raise ClassifierError(f"{path} and {CARD_FILE} do not belong together. Fit the classifier again.")
    on_device = {name: tensor.clone().to(device) for name, tensor in tensors.items()}
    center = on_device.get("center")
    if adaptation is None:
        assert record.linear_in != ""
        return LinearHead(on_device["weights"], on_device["bias"], record.linear_in), center
    if tensors["class_sizes"].tolist() != list(card.class_sizes):
        raise ClassifierError(f"{path} and {CARD_FILE} do not belong together. Fit the classifier again.")
    covariance = on_device.get("base_covariance")
    return SupportHead(adaptation, on_device["support"], card.class_sizes, covariance), center


def _expected_shapes(
    card: ClassifierCard, adaptation: EmbeddingAdaptation | None
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    way, size = len(card.class_names), card.backbone.embedding_size
    expected: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    if card.head.features == "cl2":
        expected["center"] = ((size,), torch.float32)
    if adaptation is None:
        return expected | {"weights": ((way, size), torch.float64), "bias": ((way,), torch.float64)}
    views = 1 + adaptation.augmented_views
    expected |= {"support": ((views, sum(card.class_sizes), size), torch.float32)}
    if adaptation.needs_base_covariance:
        expected["base_covariance"] = ((size, size), torch.float32)
    return expected | {"class_sizes": ((way,), torch.int64)}


def _tensors(path: Path, largest: int) -> dict[str, Tensor]:
    """The tensors of a regular file of at most so many bytes."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
        if size > largest:
            raise ClassifierError(f"{path} is damaged: it has {size:,} bytes, where at most {largest:,} belong.")
        return read_tensors(path)[0]
    except FileNotFoundError as error:
        raise ClassifierError(f"{path} is missing. Fit the classifier again.") from error
    except OutcomeError as error:  # a link, a pipe, ...
        raise ClassifierError(f"{path} cannot be read: {error}") from error
    except DamagedFileError as error:
        raise ClassifierError(f"{path} {error}. Fit the classifier again.") from error


def _adaptation(record: HeadRecord) -> EmbeddingAdaptation:
    """The adaptation that a support set needs."""
    entry = ADAPTATIONS[record.adaptation]
    _check_code("adaptation", record.adaptation, record.code, entry.code)
    factory: Any = entry.factory
    try:
        with plugin_errors(factory):
            adaptation = factory(**record.settings)
    except FewshotBenchError as error:
        raise ClassifierError(f"the settings of {record.adaptation} in {CARD_FILE} are refused: {error}") from error
    except (TypeError, ValueError) as error:
        raise ClassifierError(f"the settings of {record.adaptation} in {CARD_FILE} do not fit: {error}.") from error
    if not isinstance(adaptation, EmbeddingAdaptation) or adaptation.is_transductive:
        raise ClassifierError(f"{record.adaptation} in {CARD_FILE} is not an inductive method on embeddings.")
    return adaptation


def _check_code(kind: str, name: str, recorded: dict[str, Any], code: Any) -> None:
    """Refuse other code than the classifier was fitted with."""
    here = None if code is None else code.as_record()
    if (here or {}).get("digest") != recorded.get("digest"):
        changed = what_changed(recorded or None, here)
        raise ClassifierError(f"the code of the {kind} {name} has changed ({changed}). Fit the classifier again.")


def _backbone(folder: Path, card: ClassifierCard, downloads: bool) -> Backbone:
    """The network of a classifier, with the weights that it learned with."""
    record = card.backbone
    backbone = _named_backbone(folder, card, downloads)
    _check_code("backbone", record.name, record.code, backbone.code)
    if backbone.embedding_size != record.embedding_size or backbone.weights != record.weights:
        source = {"name": f"the backbone {record.name}", "checkpoint": f"the checkpoint {record.checkpoint}"}
        raise ClassifierError(
            f"{source.get(record.weights_from, folder / WEIGHTS_FILE)} is another network than the one that "
            f"{folder} learned with: its weights are {backbone.weights[:12]}... instead of {record.weights[:12]}... "
            "Fit the classifier again, or keep it with --with-weights."
        )
    preprocessing = Preprocessing(record.image_size, record.mean, record.std, record.interpolation)
    return replace(backbone, preprocessing=preprocessing, pretraining=record.pretraining)


def _named_backbone(folder: Path, card: ClassifierCard, downloads: bool) -> Backbone:
    record = card.backbone
    if record.weights_from == "checkpoint":
        return read_checkpoint(record.checkpoint).backbone()
    weights = folder / WEIGHTS_FILE if record.weights_from == "folder" else None
    tensors = None if weights is None else _tensors(weights, weights.stat().st_size if weights.is_file() else 0)
    request = BackboneRequest(
        record.name, card.images.channels, card.images.size, record.image_size, record.interpolation, weights
    )
    hub = model_of_hub(request)
    if hub is not None and not downloads and not is_fetched_already(hub):
        raise WeightsError(
            f"the weights of {hub} are not on this machine. Fetch them from their model hub with --download, or keep "
            "the classifier with --with-weights."
        )
    backbone = known_backbone(request)
    if tensors is not None:
        try:
            backbone.network.load_state_dict(tensors)
        except RuntimeError as error:
            raise ClassifierError(f"{weights} does not fit the present {record.name}. Fit it again.") from error
    return backbone


def backbone_record(backbone: Backbone, *, is_named: bool, checkpoint: str = "") -> BackboneRecord:
    """The record of a network; `is_named` where its name alone gives the same weights."""
    done = backbone.preprocessing
    return BackboneRecord(
        name=backbone.name,
        weights=backbone.weights,
        weights_from="checkpoint" if checkpoint else "name" if is_named else "folder",
        checkpoint=checkpoint,
        embedding_size=int(backbone.embedding_size),
        image_size=done.image_size,
        mean=tuple(map(float, done.mean)),
        std=tuple(map(float, done.std)),
        interpolation=done.interpolation,
        pretraining=backbone.pretraining,
        code={} if backbone.code is None else backbone.code.as_record(),
    )
