"""Whether a backbone has seen the classes that it is tested on, from what its outcomes record.

The novel classes of miniImageNet and tieredImageNet are classes of ILSVRC-2012 (ImageNet-1k), and their images are its
training images: weights from ImageNet have been trained on the answers. The images of the CIFAR sets are from 80
Million Tiny Images. ImageNet has classes of the same kinds, such as a leopard, but not these images, and that is what
transfer means; so they are not flagged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["shared", "unknown", "none"]

_FROM_IMAGENET = ("mini-imagenet", "tiered-imagenet")
_FROM_CIFAR = ("cifar-fs", "fc100")
_DRAWN = "glyphs"
"""Made by this project; no corpus holds it."""

_BENCHMARKS = (*_FROM_IMAGENET, *_FROM_CIFAR, _DRAWN)
_BASE_SPLIT = "base split of "
SHARED_NOVEL_CLASSES = {
    ("cifar-fs", "fc100"): 11,
    ("fc100", "cifar-fs"): 11,
    ("mini-imagenet", "tiered-imagenet"): 13,
    ("tiered-imagenet", "mini-imagenet"): 5,
}
"""How many classes the base split of the first has in common with the novel split of the second."""


@dataclass(frozen=True)
class Overlap:
    """What is known of the classes that were seen before.

    Attributes:
        kind: "shared": novel classes were trained on; "unknown": nobody can say; "none": none was.
        flag: for people; empty where there is none.
    """

    kind: Kind
    flag: str = ""


def overlap_flag(pretraining: str | None, dataset: str) -> str:
    """What every row of a report says of its backbone; empty where no novel class was seen before.

    Args:
        pretraining: `Cell.provenance.get("pretraining")`: corpora in the order of training, separated by commas; empty
            for an initialisation, None where nobody recorded it.
        dataset: name of the dataset that the episodes are of.
    """
    return overlap(pretraining, dataset).flag


def overlap(pretraining: str | None, dataset: str) -> Overlap:
    """The same with what kind of answer it is; of several corpora the worst.

    Args:
        pretraining: see `overlap_flag`.
        dataset: likewise.
    """
    if dataset == _DRAWN:
        return Overlap("none")
    if pretraining is None:
        return Overlap("unknown", "pretraining not recorded")
    found = [_of_corpus(corpus.strip(), dataset) for corpus in pretraining.split(",") if corpus.strip()]
    for kind in ("shared", "unknown"):
        flags = list(dict.fromkeys(one.flag for one in found if one.kind == kind))
        if flags:
            return Overlap(kind, "; ".join(flags))
    return Overlap("none")


def _of_corpus(corpus: str, dataset: str) -> Overlap:
    if corpus == "unknown":
        return Overlap("unknown", "pretraining unknown")
    if corpus.startswith(_BASE_SPLIT):
        return _of_base_split(corpus.removeprefix(_BASE_SPLIT), dataset)
    if corpus.startswith("ImageNet-") and dataset in _FROM_IMAGENET:
        return Overlap("shared", f"novel classes are in {corpus}")
    if corpus.startswith("ImageNet-") and dataset in _FROM_CIFAR:
        return Overlap("none")
    return Overlap("unknown", f"overlap with {corpus} unknown")


def _of_base_split(trained_on: str, dataset: str) -> Overlap:
    if trained_on == dataset:  # the splits of a dataset share no class
        return Overlap("none")
    shared = SHARED_NOVEL_CLASSES.get((trained_on, dataset), 0)
    if shared:
        return Overlap("shared", f"{shared} novel classes are in the base split of {trained_on}")
    if trained_on in _BENCHMARKS and dataset in _BENCHMARKS:
        return Overlap("none")
    return Overlap("unknown", f"overlap with the base split of {trained_on} unknown")
