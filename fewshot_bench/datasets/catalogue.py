"""Datasets by name or by place: how each is opened, under which terms, and how to obtain it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from fewshot_bench.arguments import checked_arguments
from fewshot_bench.datasets.dataset import Dataset, ImageSplit, SplitName
from fewshot_bench.datasets.fetch import RemoteFile, zenodo_files
from fewshot_bench.datasets.own_images import OwnOptions, looks_like_a_place, open_own_images
from fewshot_bench.datasets.own_tables import HUGGING_FACE_PREFIX
from fewshot_bench.datasets.store import WholeSplit, is_stored, open_stored, store_dataset, stored_names
from fewshot_bench.datasets.torchvision_sets import TORCHVISION_PREFIX, check_torchvision_name
from fewshot_bench.errors import CodeNotTrustedError, DatasetError, PluginError, UnknownNameError
from fewshot_bench.plugins import described, place_of, plugin_errors
from fewshot_bench.progress import SILENT, Progress
from fewshot_bench.registry import Registry

DATASETS: Registry[Callable[[], Dataset]] = Registry("dataset", schemes=("hf", "torchvision"))


@checked_arguments
def open_dataset(name: str | Path, *, own: OwnOptions | None = None, progress: Progress = SILENT) -> Dataset:
    """Open a dataset; its images are memory-mapped.

    Args:
        name: a registered or imported dataset; or a folder, archive or table of your own images, "torchvision:NAME"
            with the root in `own`, "hf:NAME" or `module:callable`. Give only names that you trust: code is imported,
            "hf:" is downloaded.
        own: how own images become a dataset.
        progress: shown one unit per own image, the first time.

    Raises:
        UnknownNameError: no dataset has that name, and there is no such path.
        DatasetError: it has not been imported yet, or its files are damaged.
        CodeError: it names code that cannot be imported.

    >>> import fewshot_bench as fb
    >>> fb.open_dataset("glyphs")
    <Dataset: glyphs, 3,840 base, 960 validation, 1,200 novel images>
    >>> fb.open_dataset("photos", own=fb.OwnOptions(size=84))  # doctest: +SKIP
    <Dataset: photos, 1,432 novel images>
    """
    if isinstance(name, str):
        admit_dataset(name)
    return known_dataset(name, own=own, progress=progress)


def admit_dataset(name: str) -> None:
    """Let a dataset that a user names or trusts be opened in this process, whatever it runs or downloads.

    Raises:
        CodeError: see `Registry.admit`.
    """
    if name.startswith(HUGGING_FACE_PREFIX) or not (is_stored(name) or looks_like_a_place(name)):
        DATASETS.admit(name)


def known_dataset(name: str | Path, *, own: OwnOptions | None = None, progress: Progress = SILENT) -> Dataset:
    """Open a dataset whose name may come from a file; code and downloads need `admit_dataset` first.

    Args:
        name: see `open_dataset`.
        own: how own images become a dataset.
        progress: shown one unit per own image, the first time.

    Raises:
        UnknownNameError: no dataset has that name, and there is no such path.
        DatasetError: it has not been imported yet, or its files are damaged.
        CodeNotTrustedError: it would run code or be downloaded, and was not admitted.
    """
    if isinstance(name, Path):
        name = str(name.absolute())
    if name in DATASETS:
        return _made_by_factory(name)
    if is_stored(name):
        return open_stored(name)
    if name.startswith(HUGGING_FACE_PREFIX) and not DATASETS.is_admitted(name):
        raise CodeNotTrustedError("dataset", name)
    if name.strip() and looks_like_a_place(name):
        taken = set(DATASETS.names())
        images = open_own_images(name, own or OwnOptions(), taken_names=taken, progress=progress)
        return replace(images, place=name)
    if ":" in name:
        return _made_by_factory(name)
    raise _unknown(name)


def _made_by_factory(name: str) -> Dataset:
    """A factory's dataset; raises UnknownNameError without factory, PluginError if it raised or made none."""
    return checked_dataset(name, DATASETS[name].factory)


def checked_dataset(name: str, factory: Callable[[], Dataset]) -> Dataset:
    """The dataset that a factory makes; raises PluginError if it raised, or returned something else."""
    with plugin_errors(factory):
        made: object = factory()
    if not isinstance(made, Dataset):
        raise PluginError(
            f"{place_of(factory)}the factory of the dataset {name} returned {described(made)}. It takes no arguments "
            "and returns a fewshot_bench.datasets.Dataset, as store_dataset and open_stored give it."
        )
    return made


def check_name(name: str) -> None:
    """Check that a dataset has that name, or that there is such a path; nothing is opened or imported.

    Raises:
        UnknownNameError: neither is the case.
        CodeNotTrustedError: it would run code or be downloaded, and was not admitted.
    """
    if name.startswith(TORCHVISION_PREFIX):
        check_torchvision_name(name)
    is_place = bool(name.strip()) and looks_like_a_place(name) and not name.startswith(HUGGING_FACE_PREFIX)
    if is_named(name) or is_place or DATASETS.is_admitted(name):
        return
    if ":" in name:
        raise CodeNotTrustedError("dataset", name)
    raise _unknown(name)


def _unknown(name: str) -> UnknownNameError:
    known = {*DATASETS.names(), *stored_names()}
    return UnknownNameError("dataset", name, known, "A folder of your own is ./NAME.")


def is_named(name: str) -> bool:
    """Whether it is the name of a dataset rather than a place of images."""
    return name in DATASETS or is_stored(name)


def may_be_shown(dataset: Dataset) -> bool:
    """Whether its images may stand in a page that is passed on: those of glyphs, and a user's own.

    The terms of benchmarks do not allow it or do not say so; those of a data set hub, of
    torchvision's datasets and of code are not known.
    """
    name = dataset.name
    if name in DATASETS:
        return bool(DATASETS[name].facts.get("is_built_in"))
    schemes = (HUGGING_FACE_PREFIX, TORCHVISION_PREFIX)
    if name.startswith(schemes) or dataset.place.startswith(schemes):
        return False
    return is_stored(name) or bool(dataset.place)


def is_available(name: str) -> bool:
    """Whether `open_dataset` would succeed without an import."""
    return is_stored(name) or (name in DATASETS and bool(DATASETS[name].facts.get("is_built_in")))


@DATASETS.register(
    "glyphs",
    "characters of scripts drawn from free fonts, 28 x 28 grey; built in",
    paper="this project, docs/glyphs.md",
    is_built_in=True,
)
def open_glyphs() -> Dataset:
    """Open the built-in dataset; the first call unpacks it into the canonical store."""
    from fewshot_bench.datasets.glyphs import GLYPHS_SHA256, load_glyphs

    if is_stored("glyphs"):
        try:
            stored = open_stored("glyphs")
        except DatasetError:  # of an older format, or damaged: unpack it again
            stored = None
        if stored is not None and stored.preprocessing.get("sha256") == GLYPHS_SHA256:
            return stored
    facts = {"source": "shipped with fewshot-bench", "resize": "none", "sha256": GLYPHS_SHA256}
    splits = {split: WholeSplit(*content) for split, content in load_glyphs().items()}
    return store_dataset("glyphs", splits, facts, replace=True)


# Benchmarks

_ZENODO_RECORD = "7978538"  # uploaded for learn2learn 0.2.0
_IMAGENET = (
    "ImageNet's terms of access: non-commercial research and education only; everybody who works with the images must "
    "accept them (https://image-net.org/download)."
)
_CUB = (
    "The terms of CUB-200-2011 stand at https://data.caltech.edu/records/65de6-vp158, and its images belong to their "
    "authors."
)
_OMNIGLOT = "Omniglot is under the MIT licence (https://github.com/brendenlake/omniglot); cite Lake et al., 2015."
_OBTAIN_OMNIGLOT = "Obtain images_background.zip and images_evaluation.zip into one folder."
_CIFAR = "No licence is stated for CIFAR-100 (https://www.cs.toronto.edu/~kriz/cifar.html); cite Krizhevsky, 2009."


@dataclass(frozen=True)
class Benchmark:
    """A dataset that is imported, and what a user must know to obtain it.

    Attributes:
        summary: one line for `ls`.
        paper: where it was published.
        terms: terms of use.
        what_to_obtain: one sentence about the files that can be imported.
        remote_files: finds the files that can be downloaded; None where there are none.
        must_be_accepted: whether a download requires that the user accepts the terms.
        splits: number of classes and of images of each split, where estimates need them before the images are here.
        image_size: side in pixels, unless imported at another size.
    """

    summary: str
    paper: str
    terms: str
    what_to_obtain: str
    remote_files: Callable[[], list[RemoteFile]] | None = None
    must_be_accepted: bool = False
    splits: Mapping[SplitName, tuple[int, int]] = field(default_factory=dict)
    image_size: int = 0


def _cifar_100() -> list[RemoteFile]:
    """The archive whose address and md5 torchvision knows."""
    from torchvision.datasets import CIFAR100

    return [RemoteFile(CIFAR100.filename, CIFAR100.url, None, f"md5:{CIFAR100.tgz_md5}")]


def _omniglot() -> list[RemoteFile]:
    """The two archives whose address and md5 torchvision knows."""
    from torchvision.datasets import Omniglot

    return [
        RemoteFile(f"{name}.zip", f"{Omniglot.download_url_prefix}/{name}.zip", None, f"md5:{md5}")
        for name, md5 in Omniglot.zips_md5.items()
    ]


def _cub_200_2011() -> list[RemoteFile]:
    """The archive at its authors' place; torchmeta and others publish its md5."""
    url = "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz"
    return [RemoteFile("CUB_200_2011.tgz", url, None, "md5:97eceeb196236b17998738112f37df78")]


def _from_zenodo(*names: str) -> Callable[[], list[RemoteFile]]:
    """Files of the public record, which states their sizes and digests."""

    def ask() -> list[RemoteFile]:
        present = zenodo_files(_ZENODO_RECORD)
        absent = [name for name in names if name not in present]
        if absent:
            raise DatasetError(f"the public record {_ZENODO_RECORD} of Zenodo no longer holds {', '.join(absent)}.")
        return [present[name] for name in names]

    return ask


BENCHMARKS = {
    "cifar-fs": Benchmark(
        "64/16/20 classes of CIFAR-100 x 600 images, 32 x 32 RGB",
        "Bertinetto et al., 2019, Meta-learning with differentiable closed-form solvers",
        _CIFAR,
        "Obtain CIFAR-100 (cifar-100-python.tar.gz), cifar100.zip of the CIFAR-FS distribution, or the "
        "CIFAR_FS_{train,val,test}.pickle files.",
        _cifar_100,
        splits={"base": (64, 38_400), "validation": (16, 9_600), "novel": (20, 12_000)},
        image_size=32,
    ),
    "fc100": Benchmark(
        "60/20/20 classes of CIFAR-100 divided by superclass x 600 images, 32 x 32 RGB",
        "Oreshkin et al., 2018, TADAM: Task dependent adaptive metric for improved few-shot learning",
        _CIFAR,
        "Obtain CIFAR-100 (cifar-100-python.tar.gz), cifar100.zip of the CIFAR-FS distribution, FC100.zip, or the "
        "few-shot-{train,val,test}.npz files.",
        _cifar_100,
        splits={"base": (60, 36_000), "validation": (20, 12_000), "novel": (20, 12_000)},
        image_size=32,
    ),
    "mini-imagenet": Benchmark(
        "64/16/20 classes of ImageNet x 600 images, 84 x 84 RGB unless imported at another size",
        "Vinyals et al., 2016, Matching networks for one shot learning; split of Ravi and Larochelle, 2017",
        _IMAGENET,
        "Obtain mini-imagenet-cache-{train,val,test}.pkl, the miniImageNet_category_split_*.pickle files, class "
        "folders per split, or ILSVRC2012_img_train.tar.",
        _from_zenodo(*(f"mini-imagenet-cache-{name}.pkl" for name in ("train", "validation", "test"))),
        must_be_accepted=True,
        splits={"base": (64, 38_400), "validation": (16, 9_600), "novel": (20, 12_000)},
        image_size=84,
    ),
    "tiered-imagenet": Benchmark(
        "351/97/160 classes of ImageNet divided by category, 779,165 images, 84 x 84 RGB unless imported otherwise",
        "Ren et al., 2018, Meta-learning for semi-supervised few-shot classification",
        _IMAGENET,
        "Obtain {train,val,test}_images_png.pkl with {train,val,test}_labels.pkl, class folders per split, or "
        "ILSVRC2012_img_train.tar.",
        _from_zenodo(
            *(
                f"tiered-imagenet-{name}_{part}.pkl"
                for name in ("train", "val", "test")
                for part in ("images_png", "labels")
            )
        ),
        must_be_accepted=True,
        splits={"base": (351, 448_695), "validation": (97, 124_261), "novel": (160, 206_209)},
        image_size=84,
    ),
    "cub": Benchmark(
        "100/50/50 birds of CUB-200-2011, 11,788 images, 84 x 84 RGB unless imported at another size",
        "Wah et al., 2011, The Caltech-UCSD Birds-200-2011 dataset; split of Chen et al., 2019, A closer look at "
        "few-shot classification",
        _CUB,
        "Obtain CUB_200_2011.tgz.",
        _cub_200_2011,
        splits={"base": (100, 5_885), "validation": (50, 2_950), "novel": (50, 2_953)},
        image_size=84,
    ),
    "omniglot": Benchmark(
        "4,112/688/1,692 classes (1,623 characters in 4 rotations) x 20 images, 28 x 28 grey unless imported otherwise",
        "Lake et al., 2015, Human-level concept learning through probabilistic program induction; split of Vinyals et "
        "al., 2016, Matching networks for one shot learning, as Snell et al., 2017, publish it",
        _OMNIGLOT,
        _OBTAIN_OMNIGLOT,
        _omniglot,
        splits={"base": (4_112, 82_240), "validation": (688, 13_760), "novel": (1_692, 33_840)},
        image_size=28,
    ),
    "omniglot-lake": Benchmark(
        "964/659 characters (the background and evaluation sets) x 20 images, 28 x 28 grey unless imported otherwise",
        "Lake et al., 2015, Human-level concept learning through probabilistic program induction",
        _OMNIGLOT,
        _OBTAIN_OMNIGLOT,
        _omniglot,
        splits={"base": (964, 19_280), "novel": (659, 13_180)},
        image_size=28,
    ),
    "cifar-100": Benchmark(
        "for classification: 100 classes, 50,000/10,000 images, 32 x 32 RGB",
        "Krizhevsky, 2009, Learning multiple layers of features from tiny images",
        _CIFAR,
        "Obtain CIFAR-100 (cifar-100-python.tar.gz).",
        _cifar_100,
        splits={"train": (100, 50_000), "test": (100, 10_000)},
        image_size=32,
    ),
    "cub-200-2011": Benchmark(
        "for classification: 200 birds, 5,994/5,794 images",
        "Wah et al., 2011, The Caltech-UCSD Birds-200-2011 dataset",
        _CUB,
        "Obtain CUB_200_2011.tgz.",
        _cub_200_2011,
        splits={"train": (200, 5_994), "test": (200, 5_794)},
        image_size=224,
    ),
    "caltech-256": Benchmark(
        "for classification: 256 objects and clutter, 30,607 images, the first 60 of each class for training",
        "Griffin et al., 2007, Caltech-256 object category dataset",
        "The terms of Caltech-256 stand at https://data.caltech.edu/records/nyy15-4j048; its images belong to their "
        "authors.",
        "Obtain 256_ObjectCategories.tar.",
        splits={"train": (257, 15_420), "test": (257, 15_187)},
        image_size=224,
    ),
    "flowers-102": Benchmark(
        "for classification: 102 flowers, 1,020/1,020/6,149 images",
        "Nilsback and Zisserman, 2008, Automated flower classification over a large number of classes",
        "The terms of Oxford 102 Flowers stand at https://www.robots.ox.ac.uk/~vgg/data/flowers/102/; its images "
        "belong to their authors.",
        "Obtain 102flowers.tgz, imagelabels.mat and setid.mat into one folder.",
        splits={"train": (102, 1_020), "validation": (102, 1_020), "test": (102, 6_149)},
        image_size=224,
    ),
    "oxford-iiit-pet": Benchmark(
        "for classification: 37 breeds of cats and dogs, 3,680/3,669 images",
        "Parkhi et al., 2012, Cats and dogs",
        "Oxford-IIIT Pet is under CC BY-SA 4.0 (https://www.robots.ox.ac.uk/~vgg/data/pets/); its images belong to "
        "their authors.",
        "Obtain images.tar.gz and annotations.tar.gz into one folder.",
        splits={"train": (37, 3_680), "test": (37, 3_669)},
        image_size=224,
    ),
    "inaturalist-2017": Benchmark(
        "for classification: 5,089 species, 579,184/95,986 images",
        "Van Horn et al., 2018, The iNaturalist species classification and detection dataset",
        "iNaturalist 2017 is for non-commercial research and education; its images must not be passed on "
        "(https://github.com/visipedia/inat_comp/tree/master/2017).",
        "Obtain train_val_images.tar.gz (186 GB, better unpacked) and train_val2017.zip into one folder.",
        splits={"train": (5_089, 579_184), "test": (5_089, 95_986)},
        image_size=224,
    ),
    "places365": Benchmark(
        "for classification: 365 scenes, 1,803,460/36,500 images",
        "Zhou et al., 2017, Places: A 10 million image database for scene recognition",
        "The terms of Places365 stand at http://places2.csail.mit.edu/download.html; its images belong to their "
        "authors.",
        "Obtain train_256_places365standard.tar, val_256.tar and filelist_places365-standard.tar into one folder.",
        splits={"train": (365, 1_803_460), "test": (365, 36_500)},
        image_size=224,
    ),
    "imagenet-1k": Benchmark(
        "for classification: 1,000 classes, 1,281,167/50,000 images",
        "Russakovsky et al., 2015, ImageNet large scale visual recognition challenge",
        _IMAGENET,
        "Obtain ILSVRC2012_img_train.tar, or train/<WordNet id>/, beside val/<WordNet id>/ with the validation images "
        "sorted into class folders.",
        splits={"train": (1_000, 1_281_167), "test": (1_000, 50_000)},
        image_size=224,
    ),
}


_STAND_IN = "stand-in"


def stand_in_dataset(name: str) -> Dataset:
    """A dataset with as many classes and images as a benchmark whose `splits` are known, all black: for estimates."""
    benchmark = BENCHMARKS[name]
    pixel = np.zeros((1, 1, 1, 1), np.uint8)
    splits: dict[SplitName, ImageSplit] = {}
    for split, (classes, images) in benchmark.splits.items():
        sizes = tuple(images // classes + (label < images % classes) for label in range(classes))
        black = np.broadcast_to(pixel, (images, benchmark.image_size, benchmark.image_size, 3))  # takes no memory
        names = tuple(f"class {label}" for label in range(classes))
        splits[split] = ImageSplit(name, split, black, names, sizes, f"{_STAND_IN} for {name} {split}")
    return Dataset(name, splits, {"source": _STAND_IN})


def is_stand_in(dataset: Dataset) -> bool:
    """Whether `stand_in_dataset` made it."""
    return dataset.preprocessing.get("source") == _STAND_IN


def import_command(name: str) -> str:
    """What to type to import files that the user has."""
    return f"fewshot-bench data import {name} --from PATH"


def download_command(name: str) -> str:
    """What to type to download a benchmark; "" where there is no download."""
    if name not in BENCHMARKS or BENCHMARKS[name].remote_files is None:
        return ""
    return f"fewshot-bench data get {name}" + (" --accept-terms" if BENCHMARKS[name].must_be_accepted else "")


def _open_imported(name: str) -> Dataset:
    if is_stored(name):
        return open_stored(name)
    if command := download_command(name):
        way_out = f"{command}    (or, with files that you have: {import_command(name)})"
    else:
        way_out = f"{import_command(name)}    (what to obtain: fewshot-bench data check {name})"
    raise DatasetError(f"{name} has not been imported. Run: {way_out}")


for _name, _benchmark in BENCHMARKS.items():
    _facts = {"has_terms": True} if _benchmark.must_be_accepted else {}
    DATASETS.register(_name, _benchmark.summary, paper=_benchmark.paper, **_facts)(partial(_open_imported, _name))
