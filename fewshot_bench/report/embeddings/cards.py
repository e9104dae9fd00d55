"""Embedding cards: the measures of a network on a split, as RESULTS/embeddings/*.json.

A card names the network by the digest of its weights and its preprocessing, and the images by their fingerprints, so
that a method of the leaderboard finds the card of its own network only. A card may come from a stranger: it is checked
against a schema, and its content is shown, never run.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar

import pandas as pd
from pydantic import BaseModel, ConfigDict, FailFast, Field, Strict, ValidationError, model_validator

from fewshot_bench._io.locations import Location
from fewshot_bench._io.storage import files_under, read_bytes, write_atomically
from fewshot_bench._io.text import guarded
from fewshot_bench.errors import IrregularFileError, OutcomeError
from fewshot_bench.limits import MOST_CLASSES
from fewshot_bench.outcomes import Cell
from fewshot_bench.outcomes.schema import (
    LARGEST_COUNT,
    Count,
    Flag,
    PlainMapping,
    Settings,
    first_problem,
    read_mapping,
)

FORMAT: Literal[1] = 1
FOLDER = "embeddings"
MEASURES_FILE, DIFFERENCES_FILE = "measures.csv", "differences.csv"
ISOTROPY = ("isotropy_score", "raw")
"""Name and variant of the measure in Table 4 of the paper."""
_CARD, _PAIR = "card-", "pair-"
_LARGEST = 8_000_000  # bytes of a file
_MOST_MEASURES, _MOST_BINS, _MOST_POINTS, _LARGEST_SIDE = 500, 5000, 20_000, 64
_PNG = b"\x89PNG\r\n\x1a\n"

Name = Annotated[str, Strict(), Field(min_length=1, max_length=400)]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
_Class = Annotated[str, Strict(), Field(max_length=400)]
_NotNegative = Annotated[int, Strict(), Field(ge=0, le=LARGEST_COUNT)]
_Numbers = Annotated[tuple[Number, ...], Field(max_length=_MOST_POINTS), FailFast()]
_Counts = Annotated[tuple[_NotNegative, ...], Field(max_length=_MOST_BINS), FailFast()]
_Places = Annotated[tuple[_NotNegative, ...], Field(max_length=_MOST_POINTS), FailFast()]
_Classes = Annotated[tuple[_Class, ...], Field(max_length=MOST_CLASSES), FailFast()]


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Measure(_Stored):
    """A measure of embeddings, or the difference of two networks in it.

    Attributes:
        name: such as "isotropy_score".
        title: the name as people read it.
        variant: of the embeddings, such as "centred".
        value: the number; None where it does not exist, such as for one class.
        low: lower end of its 95% interval over classes; None without one.
        high: upper end.
    """

    name: Name
    title: Name
    variant: Annotated[str, Strict(), Field(max_length=400)] = ""
    value: Number | None = None
    low: Number | None = None
    high: Number | None = None

    @property
    def label(self) -> str:
        """Title and variant."""
        return f"{self.title}, {self.variant}" if self.variant else self.title


class Similarities(_Stored):
    """Histograms of the cosine similarities of pairs of images.

    Attributes:
        edges: of the bins, [B + 1].
        same: pairs of one class in each bin, [B].
        different: pairs of two classes in each bin, [B].
        auc: probability that a pair of one class is more similar than a pair of two.
        auc_bound: largest error of `auc` by the bins.
        classes: the two classes of the pairs; empty for all classes.
    """

    edges: _Numbers
    same: _Counts
    different: _Counts
    auc: Number | None = None
    auc_bound: Number = 0.0
    classes: _Classes = ()

    @model_validator(mode="after")
    def _fits(self) -> Similarities:
        if not len(self.edges) - 1 == len(self.same) == len(self.different) > 0:
            raise ValueError("edges should be one more than the counts")
        if any(low >= high for low, high in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("edges should rise")
        return self


class Layout(_Stored):
    """Embeddings drawn in the plane: an illustration, not a measurement.

    Attributes:
        method: of projection.
        seed: of the projection and of the choice of images.
        settings: of the projection.
        classes: names of the classes, [C].
        labels: class of each point, [P].
        images: number of each point's image in the split, [P].
        x: [P].
        y: [P].
    """

    method: Literal["tsne", "pca", "umap"]
    seed: Annotated[int, Strict()]
    settings: Settings = Field(default_factory=dict)
    classes: _Classes
    labels: _Places
    images: _Places
    x: _Numbers
    y: _Numbers

    @model_validator(mode="after")
    def _fits(self) -> Layout:
        if not len(self.labels) == len(self.images) == len(self.x) == len(self.y):
            raise ValueError("labels, images, x and y should be equally many")
        if any(label >= len(self.classes) for label in self.labels):
            raise ValueError("labels should be numbers of classes")
        return self


class Thumbnails(_Stored):
    """The images of a layout, tile by tile in one PNG.

    Attributes:
        png: base64 of the file.
        side: of a tile, in pixels.
        columns: tiles in a row.
        count: tiles.
    """

    png: Annotated[str, Strict(), Field(max_length=_LARGEST)]
    side: Annotated[int, Strict(), Field(ge=1, le=_LARGEST_SIDE)]
    columns: Annotated[int, Strict(), Field(ge=1, le=1000)]
    count: Annotated[int, Strict(), Field(ge=1, le=_MOST_POINTS)]

    @model_validator(mode="after")
    def _is_png(self) -> Thumbnails:
        try:
            content = base64.b64decode(self.png, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("png should be base64") from None
        rows = math.ceil(self.count / self.columns)
        size = (int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big"))
        if content[:8] != _PNG or content[12:16] != b"IHDR" or size != (self.columns * self.side, rows * self.side):
            raise ValueError("png should be a PNG of the tiles that side, columns and count say")
        return self


class NetworkCard(_Stored):
    """Which network was measured, on which images.

    Attributes:
        name: a backbone with its settings, or a checkpoint.
        backbone: its architecture.
        weights: digest of its weights.
        preprocessing: of the images.
        embedding_size: D.
        pretraining: the data of its weights.
        dataset: name of the dataset.
        dataset_fingerprint: of its pixels.
        split: name of the split.
        split_fingerprint: of the pixels of the split.
        code: a record of the network's code, if it is a user's own.
    """

    name: Name
    backbone: Name
    weights: Name
    preprocessing: PlainMapping
    embedding_size: Count
    pretraining: Annotated[str, Strict(), Field(max_length=4000)] = ""
    dataset: Name
    dataset_fingerprint: Name
    split: Name
    split_fingerprint: Name
    code: PlainMapping = Field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits of everything but names and pretraining."""
        content = self.model_dump(exclude={"name", "backbone", "dataset", "pretraining"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def images_title(self) -> str:
        """Dataset and split."""
        return f"{self.dataset} {self.split}"

    def is_of(self, cell: Cell) -> bool:
        """Whether a cell's method embeds with this network, and its episodes are of these images."""
        settings = cell.method.hyper_parameters
        return (
            cell.method.weights == self.weights
            and settings.get("preprocessing") == self.preprocessing
            and (cell.method.code.get("backbone") or {}) == self.code
            and cell.protocol.dataset_fingerprint == self.dataset_fingerprint
            and cell.protocol.split == self.split
        )


class EmbeddingCard(_Stored):
    """The measures of a network on a split.

    Attributes:
        format: of the file.
        network: which network, on which images.
        images: how many, I.
        classes: how many, C.
        seed: of the groups of classes and the layout.
        measures: in the order of the tables.
        similarities: of all pairs of images.
        two_classes: of the images of two classes, as in the paper; None unless asked for.
        layout: the illustration; None unless asked for.
        thumbnails: of its images, where the dataset may be shown.
        versions: of the packages.
        has_intervals: whether intervals over classes were computed.
    """

    format: Literal[1] = FORMAT
    network: NetworkCard
    images: Count
    classes: Count
    seed: Annotated[int, Strict()] = 0
    measures: Annotated[tuple[Measure, ...], Field(max_length=_MOST_MEASURES), FailFast()]
    similarities: Similarities
    two_classes: Similarities | None = None
    layout: Layout | None = None
    thumbnails: Thumbnails | None = None
    versions: Annotated[dict[str, str], Strict()] = Field(default_factory=dict)
    has_intervals: Flag = True

    def __repr__(self) -> str:
        network = self.network
        return f"<EmbeddingCard: {network.name} on {network.images_title}, {len(self.measures)} measures>"

    @property
    def isotropy(self) -> float | None:
        """The isotropy score of the embeddings as they are, as Table 4 of the paper has it; None if not measured."""
        found = [measure.value for measure in self.measures if (measure.name, measure.variant) == ISOTROPY]
        return found[0] if found else None


class PairCard(_Stored):
    """How two networks differ on the same images.

    Attributes:
        format: of the file.
        a: the first network.
        b: the second; differences are b - a.
        measures: differences, and measures of both such as linear CKA.
    """

    format: Literal[1] = FORMAT
    a: NetworkCard
    b: NetworkCard
    measures: Annotated[tuple[Measure, ...], Field(max_length=_MOST_MEASURES), FailFast()]


_T = TypeVar("_T", bound=_Stored)


def stored_cards(results: Location) -> tuple[list[EmbeddingCard], list[PairCard]]:
    """The cards and pairs in RESULTS/embeddings, by dataset, split and name of the network.

    Raises:
        OutcomeError: a file is not a card; the sentence names what is wrong.
    """
    folder = results / FOLDER
    names = sorted(name for name in files_under(folder) if "/" not in name and name.endswith(".json"))
    cards = [_read(folder / name, EmbeddingCard) for name in names if name.startswith(_CARD)]
    pairs = [_read(folder / name, PairCard) for name in names if name.startswith(_PAIR)]
    by_images = sorted(cards, key=lambda card: (*_images(card.network), card.network.name, card.network.key))
    return by_images, sorted(pairs, key=lambda pair: (*_images(pair.a), pair.a.name, pair.b.name))


def _images(network: NetworkCard) -> tuple[str, str, str]:
    return network.dataset, network.split, network.split_fingerprint


def _read(path: Location, kind: type[_T]) -> _T:
    try:
        values = read_mapping(read_bytes(path, _LARGEST))
        if values.get("format") != FORMAT:
            raise OutcomeError(f"format should be {FORMAT}, not {str(values.get('format'))[:40]!r}")
        return kind.model_validate(values)
    except IrregularFileError:
        raise
    except ValidationError as error:
        raise _refused(path, first_problem(error)) from error
    except OutcomeError as error:
        raise _refused(path, str(error)) from error


def _refused(path: Location, finding: str) -> OutcomeError:
    return OutcomeError(
        f"{path} is not an embedding card: {finding.rstrip('.')}. Delete it; fewshot-bench embeddings writes it again."
    )


def store_cards(results: Location, cards: Iterable[EmbeddingCard], pairs: Iterable[PairCard]) -> None:
    """Write cards and pairs, and both tables of everything that is stored; cards of the same network are replaced.

    Raises:
        OutcomeError: an older file in the folder is not a card.
    """
    folder = results / FOLDER
    for card in cards:
        write_atomically(folder / f"{_CARD}{card.network.key}.json", _text(card))
    for pair in pairs:
        write_atomically(folder / f"{_PAIR}{pair.a.key}-{pair.b.key}.json", _text(pair))
    every, every_pair = stored_cards(results)
    write_atomically(folder / MEASURES_FILE, _csv(measure_rows(every)))
    write_atomically(folder / DIFFERENCES_FILE, _csv(difference_rows(every_pair)))


def _text(card: _Stored) -> bytes:
    return (json.dumps(card.model_dump(mode="json"), sort_keys=True, allow_nan=False) + "\n").encode()


def measure_rows(cards: Sequence[EmbeddingCard]) -> list[dict[str, Any]]:
    """A row for each measure of each card."""
    return [
        {"network": card.network.name, **_images_row(card.network), **_measured(measure), **_identity(card.network)}
        for card in cards
        for measure in card.measures
    ]


def difference_rows(pairs: Sequence[PairCard]) -> list[dict[str, Any]]:
    """A row for each measure of each pair; the numbers are those of network_b minus those of network_a."""
    return [
        {
            "network_a": pair.a.name,
            "network_b": pair.b.name,
            **_images_row(pair.a),
            **_measured(measure),
            **{f"{name}_a": value for name, value in _identity(pair.a).items()},
            **{f"{name}_b": value for name, value in _identity(pair.b).items()},
        }
        for pair in pairs
        for measure in pair.measures
    ]


def _images_row(network: NetworkCard) -> dict[str, Any]:
    return {"dataset": network.dataset, "split": network.split}


def _measured(measure: Measure) -> dict[str, Any]:
    ends = {"value": measure.value, "ci95_low": measure.low, "ci95_high": measure.high}
    return {"measure": measure.name, "variant": measure.variant, **ends}


def _identity(network: NetworkCard) -> dict[str, Any]:
    return {
        "weights": network.weights,
        "preprocessing": json.dumps(network.preprocessing, sort_keys=True),
        "dataset_fingerprint": network.dataset_fingerprint,
        "split_fingerprint": network.split_fingerprint,
    }


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    safe = [{name: guarded(value) if isinstance(value, str) else value for name, value in row.items()} for row in rows]
    text = io.StringIO()
    pd.DataFrame(safe).to_csv(text, index=False, float_format="%.8g", lineterminator="\n")
    return text.getvalue().encode()


def card_of_cell(cards: Iterable[EmbeddingCard], cell: Cell) -> EmbeddingCard | None:
    """The card of the network and the images of a cell; None where they were not measured."""
    return next((card for card in cards if card.network.is_of(cell)), None)
