"""What every backbone must keep, so that an image has one embedding, whatever it is embedded with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from fewshot_bench.backbones import Backbone, BackboneRequest, Preprocessing, embed, known_backbone
from fewshot_bench.backbones.backbone import BackboneFactory, checked_backbone
from fewshot_bench.backbones.weights import weights_digest
from fewshot_bench.datasets import ImageSplit
from fewshot_bench.datasets.dataset import split_fingerprint
from fewshot_bench.errors import ConformanceError
from fewshot_bench.plugins import described
from fewshot_bench.testing.conformance import Properties, difference, expect, other_random_numbers, random_states

_SHAPES = ((1, 28), (3, 32))
"""Channels and side of the images that a backbone is asked for: as glyphs, and as CIFAR has them."""


def check_backbone(backbone: Backbone | BackboneFactory | str, *properties: str) -> None:
    """Check that a backbone has the properties that embeddings rely on, on made-up images.

    Args:
        backbone: a function from `BackboneRequest` to `Backbone`, a registered name, or a `Backbone`, which then is not
            made a second time.
        properties: some of `BACKBONE_PROPERTIES`; none for all.

    Raises:
        ConformanceError: it lacks a property. The sentence says which, how far off it is and how to mend it.
        UnknownNameError: there is no such property or backbone.

    >>> check_backbone("conv4_32", "preprocessing", "weights")
    """
    subject = _subject(backbone)
    BACKBONE_PROPERTIES.check(subject.name, subject, properties)


@dataclass(frozen=True)
class _Subject:
    """A backbone under test.

    Attributes:
        name: for messages.
        make: it, for images with so many channels and pixels on a side.
    """

    name: str
    make: Callable[[int, int], Backbone]

    def each(self) -> Iterator[tuple[Backbone, ImageSplit]]:
        """It with images, for every shape of images."""
        for channels, size in _SHAPES:
            yield self.make(channels, size), _images(channels, size)


def _subject(backbone: Backbone | BackboneFactory | str) -> _Subject:
    if isinstance(backbone, Backbone):
        made = backbone
        return _Subject(made.name, lambda channels, size: made)
    if isinstance(backbone, str):
        name, make = backbone, known_backbone
    elif callable(backbone) and not isinstance(backbone, torch.nn.Module | type):
        name, make = getattr(backbone, "__name__", "backbone"), partial(checked_backbone, backbone)
    else:
        raise ConformanceError(
            f"{described(backbone)} is not a backbone. Pass a function from BackboneRequest to Backbone, its "
            "registered name, or a Backbone."
        )
    return _Subject(name, lambda channels, size: make(BackboneRequest(name, channels=channels, native_size=size)))


def _images(channels: int, size: int) -> ImageSplit:
    """Random images, and a black and a white one, of two classes."""
    images = np.random.default_rng(0).integers(0, 256, (12, size, size, channels)).astype(np.uint8)
    images[0], images[1] = 0, 255
    names, sizes = ("a", "b"), (6, 6)
    return ImageSplit("made-up", "novel", images, names, sizes, split_fingerprint(images, names, sizes))


def _embedded(backbone: Backbone, images: ImageSplit, batch_size: int = 12) -> torch.Tensor:
    return torch.from_numpy(embed(images, backbone, batch_size=batch_size, use_cache=False))


def _preprocessing(subject: _Subject) -> None:
    for channels, size in _SHAPES:
        backbone = subject.make(channels, size)
        declared = backbone.preprocessing
        advice = "Declare it as Preprocessing(image_size, mean, std), of pixels scaled to 0..1."
        if not isinstance(declared, Preprocessing):
            raise ConformanceError(f"preprocessing is {described(declared)}. {advice}")
        if len(declared.mean) not in (1, 3) or len(declared.std) != len(declared.mean) or min(declared.std) <= 0:
            raise ConformanceError(
                f"mean {declared.mean} and std {declared.std} should have one number each for 1 or 3 input "
                f"channels, and std be positive. {advice}"
            )
        if max(map(abs, declared.mean)) > 1 or max(declared.std) > 1:
            raise ConformanceError(f"mean {declared.mean} and std {declared.std} are not of pixels in 0..1. {advice}")
        images = torch.from_numpy(_images(channels, size).images).permute(0, 3, 1, 2)
        expected = (len(images), len(declared.mean), declared.image_size, declared.image_size)
        found = declared(images)
        if found.shape != expected or found.dtype != torch.float32:
            raise ConformanceError(f"preprocessing gives {described(found)}; float32 {list(expected)} is expected.")


def _embeddings(subject: _Subject) -> None:
    for backbone, images in subject.each():
        embeddings = _embedded(backbone, images)  # size, type and finiteness are checked
        if bool((embeddings == embeddings[:1]).all()):
            raise ConformanceError(
                "all images have the same embedding. Check that the network uses its input and that its weights are "
                "loaded."
            )


def _batches(subject: _Subject) -> None:
    for backbone, images in subject.each():
        together = _embedded(backbone, images)
        for batch_size in (1, 5):
            expect(
                difference(_embedded(backbone, images, batch_size), together, "numbers"),
                f"embeddings in batches of {batch_size} are other than in batches of 12 ({{}}). The network is in "
                "evaluation mode, so a layer ignores it: use nn.BatchNorm2d, or pass training=self.training to "
                "functions.",
            )


def _determinism(subject: _Subject) -> None:
    for backbone, images in subject.each():
        with other_random_numbers(1):
            before = random_states()
            first = _embedded(backbone, images)
            is_untouched = random_states() == before
        with other_random_numbers(2):
            expect(
                difference(_embedded(backbone, images), first, "numbers"),
                "a second call gives other embeddings of the same images ({}). Dropout and augmentation belong into "
                "training mode: use nn.Dropout, or pass training=self.training.",
            )
        if not is_untouched:
            raise ConformanceError("its network draws global random numbers in evaluation mode. Draw none there.")


def _weights(subject: _Subject) -> None:
    backbone, images = next(subject.each())
    before = weights_digest(backbone.network)
    _embedded(backbone, images)
    if weights_digest(backbone.network) != before:
        raise ConformanceError(
            "embedding images changes its weights or buffers, such as running means, so results name other weights "
            "than were used. Change them in training mode alone."
        )
    digests = []
    for seed in (1, 2 if backbone.is_pretrained else 1):
        with other_random_numbers(seed):
            digests.append(weights_digest(subject.make(*_SHAPES[0]).network))
    if len(set(digests)) > 1:
        finding = "says that it is pretrained" if backbone.is_pretrained else "is made twice after torch.manual_seed(1)"
        way_out = "Load all weights from a file" if backbone.is_pretrained else "Draw weights by torch"
        raise ConformanceError(
            f"it {finding}, but has other weights each time, so no result can be repeated. {way_out}, or set "
            f"is_pretrained={not backbone.is_pretrained}."
        )


BACKBONE_PROPERTIES = Properties(
    {
        "preprocessing": _preprocessing,
        "embeddings": _embeddings,
        "batches": _batches,
        "determinism": _determinism,
        "weights": _weights,
    }
)
"""The names of what `check_backbone` checks, for `pytest.mark.parametrize`."""
