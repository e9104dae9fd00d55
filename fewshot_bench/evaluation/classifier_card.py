"""What the file model.json of a kept classifier says: a stranger may have written it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from fewshot_bench._io.storage import read_bytes
from fewshot_bench.datasets.images import Filter, Fit
from fewshot_bench.errors import ClassifierError, OutcomeError
from fewshot_bench.limits import MOST_CLASSES
from fewshot_bench.outcomes.schema import PlainMapping, first_problem, read_mapping

FORMAT = 1
"""Of model.json and the files beside it; raised when older releases would misread them."""
LARGEST_CARD = 8_000_000
"""Bytes of a model.json."""
CARD_FILE = "model.json"

# Those of the adaptations and backbones, whose modules import torch; a mistyped folder should not wait for that.
_Features = Literal["raw", "l2", "cl2", "power", "signed-power"]
_Interpolation = Literal["bicubic", "bilinear", "nearest"]
_LARGEST_SIDE = 4096
_MOST_NUMBERS = 1 << 20


def _is_printable(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError("should be printable text")
    return text


_Name = Annotated[str, Field(max_length=1000), AfterValidator(_is_printable)]
_Text = Annotated[str, Field(max_length=10_000)]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Side = Annotated[int, Field(ge=1, le=_LARGEST_SIDE)]
_Count = Annotated[int, Field(ge=1, le=1 << 40)]
_Channels = Annotated[tuple[float, ...], Field(min_length=1, max_length=4)]


class Record(BaseModel):
    """A part of the file: known fields only, of the right types, and finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class BackboneRecord(Record):
    """The network.

    Attributes:
        name: of the backbone.
        weights: digest of its weights.
        weights_from: "name" for the weights that come with that name, "checkpoint" for a network that the user trained,
            "folder" for a copy beside this file.
        checkpoint: its name, if the weights come from one.
        embedding_size: D.
        image_size: side of its input in pixels.
        mean: per channel of its input.
        std: per channel of its input.
        interpolation: how images are resized to its input.
        pretraining: the data that its weights have seen.
        code: identity of the code of a plug-in.
    """

    name: _Name
    weights: _Digest
    weights_from: Literal["name", "checkpoint", "folder"]
    checkpoint: _Text = ""
    embedding_size: Annotated[int, Field(ge=1, le=_MOST_NUMBERS)]
    image_size: _Side
    mean: _Channels
    std: _Channels
    interpolation: _Interpolation
    pretraining: _Text = ""
    code: PlainMapping = {}

    @model_validator(mode="after")
    def _check_channels(self) -> BackboneRecord:
        if len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise ValueError("mean and std should have a number per channel, and std is above 0")
        return self


class ImageRecord(Record):
    """What is done to an image before the network sees it: what was done to those of the dataset.

    Attributes:
        size: side in pixels.
        channels: 1 for grey, 3 for colour.
        fit: "crop" keeps the middle of the image; "squash" changes its aspect ratio.
        interpolation: Pillow's filter.
        turns_by_exif: whether the orientation that a camera recorded is applied.
        black: of images of more than 8 bits, the value that becomes 0.
        white: of these, the value that becomes 255.
        is_fractional: whether this range is for floating-point pixels.
    """

    size: _Side
    channels: Literal[1, 3]
    fit: Fit
    interpolation: Filter
    turns_by_exif: bool
    black: float = 0
    white: float = 65_535
    is_fractional: bool = False

    @model_validator(mode="after")
    def _check_range(self) -> ImageRecord:
        if self.white <= self.black:
            raise ValueError("white should be above black")
        return self


class HeadRecord(Record):
    """How embeddings are classified.

    Attributes:
        kind: "linear" for a vector of weights per class, "support" for a support set that the adaptation looks at.
        adaptation: its name in the registry, or `module:callable`.
        settings: its hyper-parameters.
        features: what is done to the embeddings first.
        linear_in: of a linear head, "embedding" or "direction".
        scores: what its scores are.
        tensors: digest of head.safetensors.
        code: identity of the code of a plug-in, which a support set needs.
    """

    kind: Literal["linear", "support"]
    adaptation: _Name
    settings: PlainMapping
    features: _Features
    linear_in: Literal["", "embedding", "direction"]
    scores: _Name
    tensors: _Digest
    code: PlainMapping = {}

    @model_validator(mode="after")
    def _check_kind(self) -> HeadRecord:
        if (self.kind == "linear") != (self.linear_in != ""):
            raise ValueError("linear_in should be embedding or direction for a linear head, and empty for another")
        return self


class MeasuredAccuracy(Record):
    """The accuracy of the method on episodes of the same dataset, in percent, as the leaderboard has it.

    Attributes:
        split: that the episodes were drawn from.
        way: classes per episode, which the classifier may have more of.
        shot: labelled images per class, which the classifier may have learned from more of.
        sampler: of the episodes.
        episodes: how many.
        mean: over episodes.
        ci95: half-width of the 95% interval over episodes, in points.
        data_ci95: half-width over classes and images too; None if it is not known.
        protocol: fingerprint of the episodes.
    """

    split: _Name
    way: _Count
    shot: Annotated[int, Field(ge=0, le=1 << 40)]
    sampler: _Name
    episodes: _Count
    mean: Annotated[float, Field(ge=0, le=100)]
    ci95: Annotated[float, Field(ge=0)] | None
    data_ci95: Annotated[float, Field(ge=0)] | None
    protocol: _Text

    @property
    def text(self) -> str:
        """One line for people."""
        width = "" if self.ci95 is None else f" ± {self.ci95:.2f}"
        data = "" if self.data_ci95 is None else f" (± {self.data_ci95:.2f} for other classes and images)"
        return f"{self.mean:.2f}{width}%{data} at {self.way}-way {self.shot}-shot, {self.episodes:,} episodes"


class ClassifierCard(Record):
    """Everything about a classifier but its numbers.

    Attributes:
        format: of the folder.
        made_by: the release that wrote it.
        method: what the method is called in results.
        method_fingerprint: of the method; outcomes of the same method have the same.
        dataset: that it learned from.
        dataset_fingerprint: digest of its pixels.
        split: of the dataset.
        class_names: N.
        class_sizes: images that it learned from, of each class.
        note: which images were not used, and why; empty if all were.
        backbone: the network.
        images: what is done to images.
        head: how embeddings are classified.
        measured: accuracies of the method that were measured on this dataset; None if nothing was measured.
    """

    format: Literal[1] = 1
    made_by: _Text
    method: _Name
    method_fingerprint: _Digest
    dataset: _Name
    dataset_fingerprint: _Text
    split: _Name
    class_names: Annotated[tuple[_Name, ...], Field(min_length=2, max_length=MOST_CLASSES)]
    class_sizes: Annotated[tuple[_Count, ...], Field(min_length=2, max_length=MOST_CLASSES)]
    note: _Text = ""
    backbone: BackboneRecord
    images: ImageRecord
    head: HeadRecord
    measured: tuple[MeasuredAccuracy, ...] | None

    @model_validator(mode="after")
    def _check_classes(self) -> ClassifierCard:
        if len(self.class_names) != len(self.class_sizes):
            raise ValueError("there should be a size for each class")
        if len(set(self.class_names)) != len(self.class_names):
            raise ValueError("two classes have the same name")
        return self

    def as_json(self) -> bytes:
        """The content of the file."""
        return (self.model_dump_json(indent=1) + "\n").encode()


def read_card(folder: Path) -> ClassifierCard:
    """The description of the classifier in a folder.

    Raises:
        ClassifierError: the folder holds none, or it is damaged or of a later release.
    """
    path = folder / CARD_FILE
    if not folder.is_dir() or not path.exists():
        what = "has no model.json" if folder.is_dir() else "is not a folder" if folder.exists() else "does not exist"
        raise ClassifierError(f"there is no classifier: {folder} {what}. Make one with: fewshot-bench fit -o {folder}")
    try:
        content = read_bytes(path, LARGEST_CARD)
        format_ = read_mapping(content).get("format")
    except OutcomeError as error:  # an irregular, huge or garbled file
        raise ClassifierError(f"{path} cannot be read: {str(error).rstrip('.')}. Fit the classifier again.") from error
    if type(format_) is int and format_ > FORMAT:
        raise ClassifierError(
            f"{folder} has format {format_}, and this release reads {FORMAT}. Install a later release of fewshot-bench."
        )
    try:
        return ClassifierCard.model_validate_json(content)
    except ValidationError as error:
        problem = first_problem(error).removeprefix(" ")
        raise ClassifierError(f"{path} is damaged: {problem}. Fit the classifier again.") from error
