"""Under which terms each benchmark may be used, and what to obtain where it cannot be downloaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fewshot_bench.datasets.download import RemoteFile, zenodo_files
from fewshot_bench.errors import DatasetError

_ZENODO_RECORD = "7978538"  # uploaded for learn2learn 0.2.0
_IMAGENET = (
    "ImageNet's terms of access: non-commercial research and education only; everybody who works with the images must "
    "accept them (https://image-net.org/download)."
)
_CIFAR = "No licence is stated for CIFAR-100 (https://www.cs.toronto.edu/~kriz/cifar.html); cite Krizhevsky, 2009."


@dataclass(frozen=True)
class Terms:
    """What a user must know before obtaining a benchmark.

    Attributes:
        terms: of use.
        what_to_obtain: one sentence on the files that can be imported.
        must_be_accepted: whether a download needs the user's word.
        remote_files: asks for the files that can be downloaded; None where there are none.
    """

    terms: str
    what_to_obtain: str
    must_be_accepted: bool = False
    remote_files: Callable[[], list[RemoteFile]] | None = None


def _cifar_100() -> list[RemoteFile]:
    """The archive whose address and md5 torchvision knows."""
    from torchvision.datasets import CIFAR100

    return [RemoteFile(CIFAR100.filename, CIFAR100.url, None, f"md5:{CIFAR100.tgz_md5}")]


def _from_zenodo(*names: str) -> Callable[[], list[RemoteFile]]:
    """Files of the public record, whose sizes and digests the record itself states."""

    def ask() -> list[RemoteFile]:
        present = zenodo_files(_ZENODO_RECORD)
        absent = [name for name in names if name not in present]
        if absent:
            raise DatasetError(f"the public record {_ZENODO_RECORD} of Zenodo no longer holds {', '.join(absent)}.")
        return [present[name] for name in names]

    return ask


TERMS: dict[str, Terms] = {
    "cifar-fs": Terms(
        _CIFAR,
        "Obtain CIFAR-100 (cifar-100-python.tar.gz), cifar100.zip of the CIFAR-FS distribution, or the "
        "CIFAR_FS_{train,val,test}.pickle files.",
        remote_files=_cifar_100,
    ),
    "fc100": Terms(
        _CIFAR,
        "Obtain CIFAR-100 (cifar-100-python.tar.gz), cifar100.zip of the CIFAR-FS distribution, FC100.zip, or the "
        "few-shot-{train,val,test}.npz files.",
        remote_files=_cifar_100,
    ),
    "mini-imagenet": Terms(
        _IMAGENET,
        "Obtain mini-imagenet-cache-{train,val,test}.pkl, the miniImageNet_category_split_*.pickle files, class "
        "folders per split, or ILSVRC2012_img_train.tar.",
        must_be_accepted=True,
        remote_files=_from_zenodo(*(f"mini-imagenet-cache-{name}.pkl" for name in ("train", "validation", "test"))),
    ),
    "tiered-imagenet": Terms(
        _IMAGENET,
        "Obtain {train,val,test}_images_png.pkl with {train,val,test}_labels.pkl, class folders per split, or "
        "ILSVRC2012_img_train.tar.",
        must_be_accepted=True,
        remote_files=_from_zenodo(
            *(
                f"tiered-imagenet-{name}_{part}.pkl"
                for name in ("train", "val", "test")
                for part in ("images_png", "labels")
            )
        ),
    ),
    "cifar-100": Terms(_CIFAR, "Obtain CIFAR-100 (cifar-100-python.tar.gz).", remote_files=_cifar_100),
    "cub-200-2011": Terms(
        "The terms of CUB-200-2011 stand at https://data.caltech.edu/records/65de6-vp158; its images belong to their "
        "authors.",
        "Obtain CUB_200_2011.tgz.",
    ),
    "caltech-256": Terms(
        "The terms of Caltech-256 stand at https://data.caltech.edu/records/nyy15-4j048; its images belong to their "
        "authors.",
        "Obtain 256_ObjectCategories.tar.",
    ),
    "flowers-102": Terms(
        "The terms of Oxford 102 Flowers stand at https://www.robots.ox.ac.uk/~vgg/data/flowers/102/; its images "
        "belong to their authors.",
        "Obtain 102flowers.tgz, imagelabels.mat and setid.mat into one folder.",
    ),
    "oxford-iiit-pet": Terms(
        "Oxford-IIIT Pet is under CC BY-SA 4.0 (https://www.robots.ox.ac.uk/~vgg/data/pets/); its images belong to "
        "their authors.",
        "Obtain images.tar.gz and annotations.tar.gz into one folder.",
    ),
    "inaturalist-2017": Terms(
        "iNaturalist 2017 is for non-commercial research and education; its images must not be passed on "
        "(https://github.com/visipedia/inat_comp/tree/master/2017).",
        "Obtain train_val_images.tar.gz (186 GB, better unpacked) and train_val2017.zip into one folder.",
    ),
    "places365": Terms(
        "The terms of Places365 stand at http://places2.csail.mit.edu/download.html; its images belong to their "
        "authors.",
        "Obtain train_256_places365standard.tar, val_256.tar and filelist_places365-standard.tar into one folder.",
    ),
    "imagenet-1k": Terms(
        _IMAGENET,
        "Obtain ILSVRC2012_img_train.tar, or train/<WordNet id>/, beside val/<WordNet id>/ with the validation images "
        "sorted into class folders.",
    ),
}
