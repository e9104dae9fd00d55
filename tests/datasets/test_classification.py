"""Full-size classification datasets: tiny copies of their official layouts, with the official counts made as small."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image
from scipy.io import savemat

from fewshot_bench.cli.main import exit_code
from fewshot_bench.datasets import import_dataset, official_splits, open_dataset
from fewshot_bench.datasets.catalogue import BENCHMARKS
from fewshot_bench.datasets.importing import download_dataset, layouts_at
from fewshot_bench.datasets.layouts import OFFICIAL
from fewshot_bench.datasets.layouts.classification import LIST_MD5
from fewshot_bench.episodes.locks import published_locks_folder, read_lock
from fewshot_bench.errors import DatasetError

Numbers = dict[str, dict[str, int]]


@dataclass
class Layout:
    """A tiny dataset: how to write it, and what must come out.

    Attributes:
        write: fills an empty folder.
        expected: names of the images of each class of each split, in canonical order.
        packed: the folders that are also passed on as archives of their own, by the archives' names.
    """

    write: Callable[[Path], None]
    expected: dict[str, dict[str, list[str]]]
    packed: dict[str, str]


def jpeg(path: Path, seed: str, size: tuple[int, int] = (40, 30)) -> None:
    """A picture that its name determines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = np.random.default_rng(list(seed.encode())).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    Image.fromarray(cells).resize(size, Image.Resampling.NEAREST).save(path, format="JPEG", quality=95)


CUB = {"001.Black_footed_Albatross": (4, 3), "002.Laysan_Albatross": (3, 2)}


def write_cub(folder: Path) -> None:
    top = folder / "CUB_200_2011"
    lines: dict[str, list[str]] = {"classes": [], "images": [], "image_class_labels": [], "train_test_split": []}
    number = 0
    for label, (name, (train, test)) in enumerate(CUB.items(), 1):
        lines["classes"].append(f"{label} {name}")
        for image in range(train + test):
            number += 1
            file = f"{name[4:]}_{image + 1:04d}_{7000 - number}.jpg"
            jpeg(top / "images" / name / file, file)
            lines["images"].append(f"{number} {name}/{file}")
            lines["image_class_labels"].append(f"{number} {label}")
            lines["train_test_split"].append(f"{number} {int(image < train)}")
    for name, content in lines.items():
        (top / f"{name}.txt").write_text("\n".join(content) + "\n")
    (top / "README").write_text("The Caltech-UCSD Birds-200-2011 Dataset")
    (folder / "attributes.txt").write_text("1 has_bill_shape::curved\n")


def cub_expected() -> dict[str, dict[str, list[str]]]:
    expected: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    number = 0
    for name, (train, test) in CUB.items():
        for image in range(train + test):
            number += 1
            split = "train" if image < train else "test"
            expected[split].setdefault(name, []).append(f"{name[4:]}_{image + 1:04d}_{7000 - number}.jpg")
    return expected


CALTECH = {"001.ak47": 5, "002.american-flag": 4, "003.clutter": 6}


def write_caltech(folder: Path) -> None:
    for name, images in CALTECH.items():
        for number in range(1, images + 1):
            file = f"{name[:3]}_{number:04d}.jpg"
            jpeg(folder / "256_ObjectCategories" / name / file, file)
    (folder / "256_ObjectCategories" / "002.american-flag" / "RENAME2").write_text("#!/bin/sh\n")
    (folder / "256_ObjectCategories" / "003.clutter" / "greg").mkdir()


FLOWER_LABELS = [2, 2, 1, 1, 3, 3, 1, 2, 3, 1, 3, 2]
FLOWER_IDS = {"trnid": [8, 3, 5], "valid": [1, 4, 6], "tstid": [11, 2, 7, 12, 9, 10]}


def matlab(content: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    savemat(file, content)
    return file.getvalue()


FLOWER_LISTS = {
    "imagelabels.mat": matlab({"labels": np.array([FLOWER_LABELS], np.uint8)}),
    "setid.mat": matlab({name: np.array([ids], np.uint16) for name, ids in FLOWER_IDS.items()}),
}


def write_flowers(folder: Path) -> None:
    for number in range(1, len(FLOWER_LABELS) + 1):
        jpeg(folder / "jpg" / f"image_{number:05d}.jpg", f"flower {number}")
    for name, content in FLOWER_LISTS.items():
        (folder / name).write_bytes(content)


PETS = {"Abyssinian": (3, 2), "american_bulldog": (2, 2), "Birman": (2, 1)}
PET_NUMBERS = {"Abyssinian": 1, "american_bulldog": 2, "Birman": 3}


def write_pets(folder: Path) -> None:
    (folder / "annotations").mkdir()
    lines: dict[str, list[str]] = {"trainval": [], "test": []}
    for name, counts in PETS.items():
        for number in range(1, sum(counts) + 1):
            image = f"{name}_{number * 10}"
            jpeg(folder / "images" / f"{image}.jpg", image)
            split = "trainval" if number <= counts[0] else "test"
            lines[split].append(f"{image} {PET_NUMBERS[name]} {1 + name.islower()} {1}")
    for name, content in lines.items():
        (folder / "annotations" / f"{name}.txt").write_text("\n".join(content) + "\n")
    (folder / "images" / "Abyssinian_100.mat").write_bytes(b"MATLAB")
    (folder / "annotations" / "list.txt").write_text("#Image CLASS-ID SPECIES BREED ID\n")


SPECIES = {"Aves/Accipiter badius": (3, 2), "Aves/Zosterops": (2, 1), "Insecta/Zosterops": (2, 2)}


def species_images() -> Iterator[tuple[str, str, str]]:
    for name, counts in SPECIES.items():
        for number in range(sum(counts)):
            stem = f"{(number * 7919 + len(name) * 104729 + ord(name[0])) % 65521:032x}"
            yield ("train" if number < counts[0] else "val"), name, f"{stem}.jpg"


def write_inaturalist(folder: Path) -> None:
    lists: dict[str, list[str]] = {"train": [], "val": []}
    for split, name, file in species_images():
        jpeg(folder / "train_val_images" / name / file, name + file)
        lists[split].append(f"train_val_images/{name}/{file}")
    (folder / "train_val2017").mkdir()
    for split, files in lists.items():
        content = {
            "info": {"year": 2017},
            "images": [{"id": i, "file_name": file, "license": 3} for i, file in enumerate(files)],
            "categories": [{"id": i, "name": name.split("/")[1]} for i, name in enumerate(SPECIES)],
            "annotations": [{"id": i, "image_id": i, "category_id": 0} for i in range(len(files))],
        }
        (folder / "train_val2017" / f"{split}2017.json").write_text(json.dumps(content))


SCENES = {"/a/airfield": (3, 2), "/a/apartment_building/outdoor": (2, 2), "/z/zoo": (2, 1)}


def write_places(folder: Path) -> None:
    lists = folder / "filelist_places365-standard"
    lists.mkdir()
    train, validation, number = [], [], 0
    for label, (path, counts) in enumerate(SCENES.items()):
        for image in range(1, counts[0] + 1):
            jpeg(folder / "data_256" / path[1:] / f"{image:08d}.jpg", f"{path} {image}")
            train.append(f"{path}/{image:08d}.jpg {label}")
        for _ in range(counts[1]):
            number += 1
            jpeg(folder / "val_256" / f"Places365_val_{number:08d}.jpg", f"val {number}")
            validation.append(f"Places365_val_{number:08d}.jpg {label}")
    (lists / "categories_places365.txt").write_text("".join(f"{path} {i}\n" for i, path in enumerate(SCENES)))
    (lists / "places365_train_standard.txt").write_text("\n".join(train) + "\n")
    (lists / "places365_val.txt").write_text("\n".join(reversed(validation)) + "\n")


SYNSETS = {"n00000001": 4, "n00000002": 3, "n00000003": 5}
VALIDATION_OF_EACH = 2


def write_imagenet(folder: Path) -> None:
    for label, (name, images) in enumerate(SYNSETS.items()):
        for number in range(images):
            file = f"{name}_{number * 37 + 5}.JPEG"
            jpeg(folder / "train" / name / file, file)
        for number in range(VALIDATION_OF_EACH):
            file = f"ILSVRC2012_val_{number * 3 + label + 1:08d}.JPEG"
            jpeg(folder / "val" / name / file, file)


def numbered(classes: dict[str, tuple[int, ...]], split: int, name: str) -> list[int]:
    start = sum(classes[name][:split])
    return list(range(start, start + classes[name][split]))


LAYOUTS = {
    "cub-200-2011": Layout(write_cub, cub_expected(), {}),
    "caltech-256": Layout(
        write_caltech,
        {
            "train": {name: [f"{name[:3]}_{n:04d}.jpg" for n in (1, 2, 3)] for name in CALTECH},
            "test": {name: [f"{name[:3]}_{n:04d}.jpg" for n in range(4, m + 1)] for name, m in CALTECH.items()},
        },
        {},
    ),
    "flowers-102": Layout(
        write_flowers,
        {
            split: {
                f"{label:03d}": [f"image_{n:05d}.jpg" for n in sorted(ids) if FLOWER_LABELS[n - 1] == label]
                for label in (1, 2, 3)
            }
            for split, ids in zip(("train", "validation", "test"), FLOWER_IDS.values(), strict=True)
        },
        {"jpg": "102flowers.tgz"},
    ),
    "oxford-iiit-pet": Layout(
        write_pets,
        {
            split: {
                name: sorted(f"{name}_{(n + 1) * 10}.jpg" for n in numbered(PETS, half, name)) for name in sorted(PETS)
            }
            for half, split in enumerate(("train", "test"))
        },
        {"images": "images.tar.gz", "annotations": "annotations.tar.gz"},
    ),
    "inaturalist-2017": Layout(
        write_inaturalist,
        {
            split: {name: sorted(f for s, n, f in species_images() if (s, n) == (part, name)) for name in SPECIES}
            for part, split in (("train", "train"), ("val", "test"))
        },
        {"train_val_images": "train_val_images.tar.gz", "train_val2017": "train_val2017.zip"},
    ),
    "places365": Layout(
        write_places,
        {
            "train": {
                name: [f"{n:08d}.jpg" for n in range(1, SCENES[path][0] + 1)]
                for name, path in zip(("airfield", "apartment_building-outdoor", "zoo"), SCENES, strict=True)
            },
            "test": {
                name: [f"Places365_val_{n:08d}.jpg" for n in numbers]
                for name, numbers in (("airfield", (1, 2)), ("apartment_building-outdoor", (3, 4)), ("zoo", (5,)))
            },
        },
        {
            "data_256": "train_256_places365standard.tar",
            "val_256": "val_256.tar",
            "filelist_places365-standard": "filelist_places365-standard.tar",
        },
    ),
    "imagenet-1k": Layout(
        write_imagenet,
        {
            "train": {name: sorted(f"{name}_{n * 37 + 5}.JPEG" for n in range(m)) for name, m in SYNSETS.items()},
            "test": {
                name: [f"ILSVRC2012_val_{n * 3 + label + 1:08d}.JPEG" for n in range(VALIDATION_OF_EACH)]
                for label, name in enumerate(SYNSETS)
            },
        },
        {},
    ),
}

TINY_CLASS_SIZES: dict[str, dict[str, int | dict[str, int]]] = {
    "caltech-256": {"train": 3},
    "flowers-102": {"train": 1, "validation": 1},
    "imagenet-1k": {"train": SYNSETS, "test": VALIDATION_OF_EACH},
}


@pytest.fixture(autouse=True)
def tiny_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The official table with the counts of the tiny copies in place of the real ones; every check stays."""
    for name, layout in LAYOUTS.items():
        images = {split: sum(map(len, classes.values())) for split, classes in layout.expected.items()}
        tiny = replace(
            OFFICIAL[name],
            classes=len(layout.expected["train"]),
            images=images,
            class_sizes=TINY_CLASS_SIZES.get(name, {}),
        )
        monkeypatch.setitem(OFFICIAL, name, tiny)
    for name, content in FLOWER_LISTS.items():
        monkeypatch.setitem(LIST_MD5, name, hashlib.md5(content).hexdigest())
    monkeypatch.setitem(
        OFFICIAL,
        "cifar-100",
        replace(OFFICIAL["cifar-100"], classes=100, images={"train": 300, "test": 200}, class_sizes=CIFAR_SIZES),
    )


CIFAR_SIZES: dict[str, int | dict[str, int]] = {"train": 3, "test": 2}
REAL = dict(OFFICIAL)
REAL_MD5 = dict(LIST_MD5)


def as_folder(dataset: str, place: Path) -> Path:
    place.mkdir(parents=True)
    LAYOUTS[dataset].write(place)
    return place


def tarred(folder: Path, path: Path, *, around: str = "") -> Path:
    with tarfile.open(path, "w:gz" if path.suffix in (".tgz", ".gz") else "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.add(file, f"{around}{file.relative_to(folder).as_posix()}", recursive=False)
    return path


def zipped(folder: Path, path: Path, *, around: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            if file.is_file():
                archive.write(file, f"{around}{file.relative_to(folder).as_posix()}")
    return path


def names_of(dataset) -> dict[str, dict[str, list[str]]]:
    return {
        name: {
            label: [split.image_name(i) for i in range(split.offsets[c], split.offsets[c + 1])]
            for c, label in enumerate(split.class_names)
        }
        for name, split in dataset.splits.items()
    }


def picture(path: Path, size: int) -> np.ndarray:
    """What the import should make of a file: the middle square, by bicubic interpolation."""
    with Image.open(path) as image:
        width, height = image.size
        side, left = min(width, height), (width - min(width, height)) / 2
        box = (left, (height - side) / 2, left + side, (height - side) / 2 + side)
        return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC, box=box))


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_gives_the_official_splits_in_canonical_order(name, tmp_path):
    source = as_folder(name, tmp_path / "source")
    dataset = import_dataset(name, source, size=32)
    assert list(dataset.splits) == list(OFFICIAL[name].images)
    assert names_of(dataset) == LAYOUTS[name].expected
    assert [list(split.class_names) for split in dataset.splits.values()] == [
        sorted(classes) for classes in LAYOUTS[name].expected.values()
    ]
    assert dataset.identified_by == "names"
    assert not dataset.is_few_shot
    assert {split.images.shape[1:] for split in dataset.splits.values()} == {(32, 32, 3)}
    assert dataset.preprocessing["fit"] == "crop"
    assert dataset.preprocessing["interpolation"] == "bicubic"
    assert "warnings" not in dataset.preprocessing
    test = dataset.split("test")
    file = next(path for path in source.rglob("*") if path.name == test.image_name(0))
    assert (test.images[0] == picture(file, 32)).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_an_archive_gives_the_same_as_its_folder(name, pack, tmp_path):
    source = as_folder(name, tmp_path / "source")
    reference = import_dataset(name, source, size=16)
    suffix = "source.zip" if pack is zipped else "source.tar.gz"
    from_archive = import_dataset(name, pack(source, tmp_path / suffix, around="a/b/"), size=16, replace=True)
    assert from_archive.fingerprint == reference.fingerprint
    assert from_archive.identity == reference.identity


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if layout.packed])
def test_official_archives_beside_each_other_need_no_unpacking(name, tmp_path):
    source = as_folder(name, tmp_path / "source")
    reference = import_dataset(name, source, size=16)
    for folder, archive in LAYOUTS[name].packed.items():
        around = "" if folder.startswith(("filelist", "train_val2017")) else f"{folder}/"
        pack = zipped if archive.endswith(".zip") else tarred
        pack(source / folder, source / archive, around=around)
        shutil.rmtree(source / folder)
    assert import_dataset(name, source, size=16, replace=True).fingerprint == reference.fingerprint
    assert sorted(path.name for path in source.iterdir() if path.is_dir()) == []


def test_the_default_size_is_224(tmp_path):
    dataset = import_dataset("oxford-iiit-pet", as_folder("oxford-iiit-pet", tmp_path / "source"))
    assert dataset.split("train").images.shape == (7, 224, 224, 3)


def test_another_recipe_is_another_dataset_of_the_same_images(tmp_path):
    source = as_folder("flowers-102", tmp_path / "source")
    first = import_dataset("flowers-102", source, size=24)
    second = import_dataset("flowers-102", source, size=24, fit="squash", interpolation="box", replace=True)
    assert second.preprocessing["fit"] == "squash"
    assert first.identity == second.identity
    assert first.fingerprint != second.fingerprint


LOST = {
    "cub-200-2011": (
        "002.Laysan_Albatross_*",
        r"class 002\.Laysan_Albatross has \d images; the source lacks 1 of them",
    ),
    "caltech-256": (
        "002_0002.jpg",
        r"class 002\.american-flag are numbered without a gap; .* one before 002_0003\.jpg",
    ),
    "flowers-102": ("image_00005.jpg", r"class 003 has 1 images; the source lacks 1 of them \(image_00005\.jpg"),
    "oxford-iiit-pet": ("Birman_10.jpg", r"class Birman has 2 images; the source lacks 1 of them \(Birman_10\.jpg"),
    "inaturalist-2017": ("*.jpg", r"class Aves/Accipiter badius has 3 images; the source lacks 1 of them"),
    "places365": ("Places365_val_00000005.jpg", r"class zoo has 1 images; the source lacks 1 of them"),
    "imagenet-1k": (
        "n00000002_5.JPEG",
        r"class n00000002 of the train split of imagenet-1k has 3 images; the source has 2",
    ),
}


@pytest.mark.parametrize("name", LOST)
def test_a_missing_image_names_its_class(name, tmp_path):
    pattern, message = LOST[name]
    source = as_folder(name, tmp_path / "source")
    if name == "inaturalist-2017":
        place = source / "train_val_images/Aves/Accipiter badius"
        (place / LAYOUTS[name].expected["train"]["Aves/Accipiter badius"][0]).unlink()
    else:
        pattern = "Laysan_Albatross_0001_*" if name == "cub-200-2011" else pattern
        next(source.rglob(pattern)).unlink()
    with pytest.raises(DatasetError, match=message):
        import_dataset(name, source, size=16)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_total_other_than_the_official_one_is_refused(name, tmp_path, monkeypatch):
    source = as_folder(name, tmp_path / "source")
    images = dict(OFFICIAL[name].images)
    monkeypatch.setitem(OFFICIAL, name, replace(OFFICIAL[name], images={**images, "test": images["test"] + 1}))
    message = rf"the test split of {name} has {images['test'] + 1} images \(.*\); the source has {images['test']}, from"
    with pytest.raises(DatasetError, match=message):
        import_dataset(name, source, size=16)


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name not in ("caltech-256", "imagenet-1k")])
def test_another_number_of_classes_is_refused(name, tmp_path, monkeypatch):
    source = as_folder(name, tmp_path / "source")
    classes = OFFICIAL[name].classes
    monkeypatch.setitem(OFFICIAL, name, replace(OFFICIAL[name], classes=classes + 1))
    with pytest.raises(
        DatasetError, match=f"the train split of {name} has {classes + 1} classes; the source has {classes}"
    ):
        import_dataset(name, source, size=16)


def test_a_class_that_only_one_split_has_is_named(tmp_path):
    source = as_folder("oxford-iiit-pet", tmp_path / "source")
    file = source / "annotations" / "test.txt"
    file.write_text("".join(line for line in file.open() if not line.startswith("Birman")))
    with pytest.raises(DatasetError, match=r"test split .* has 3 classes; the source has 2 \(none of Birman\)"):
        import_dataset("oxford-iiit-pet", source, size=16)


MISSING = {
    "cub-200-2011": ("CUB_200_2011/train_test_split.txt", r"train_test_split\.txt is missing"),
    "caltech-256": ("256_ObjectCategories/003.clutter", r"003\.\* is missing"),
    "flowers-102": ("setid.mat", r"setid\.mat is missing"),
    "oxford-iiit-pet": ("images", r"images or images\.tar\.gz is missing"),
    "inaturalist-2017": ("train_val2017/val2017.json", r"val2017\.json \(in train_val2017\.zip\) is missing"),
    "places365": ("val_256", r"val_256 is missing"),
    "imagenet-1k": ("val", r"val/<WordNet id> \(the validation images sorted into class folders\) is missing"),
}


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_part_is_named(name, tmp_path):
    part, message = MISSING[name]
    source = as_folder(name, tmp_path / "source")
    shutil.rmtree(source / part) if (source / part).is_dir() else (source / part).unlink()
    with pytest.raises(DatasetError, match=message):
        import_dataset(name, source)


def test_a_list_that_is_not_the_official_one_is_refused_by_line(tmp_path):
    source = as_folder("oxford-iiit-pet", tmp_path / "source")
    (source / "annotations" / "trainval.txt").write_text("Abyssinian_10 1 1 1\nAbyssinian_20 1\n")
    with pytest.raises(DatasetError, match=r"line 2 of .*trainval\.txt has 2 words, not 4"):
        import_dataset("oxford-iiit-pet", source)


def test_lists_of_birds_that_disagree_are_refused(tmp_path):
    source = as_folder("cub-200-2011", tmp_path / "source")
    file = source / "CUB_200_2011" / "image_class_labels.txt"
    file.write_text(file.read_text().replace("3 1\n", "3 2\n", 1))
    with pytest.raises(DatasetError, match="do not agree on image 3 "):
        import_dataset("cub-200-2011", source)


@pytest.mark.parametrize("name", FLOWER_LISTS)
def test_a_matlab_file_other_than_the_published_one_is_not_opened(name, tmp_path):
    source = as_folder("flowers-102", tmp_path / "source")
    changed = bytearray(FLOWER_LISTS[name])
    changed[-1] ^= 1
    (source / name).write_bytes(changed)
    with pytest.raises(DatasetError, match=rf"{name} is not the published file, by its md5"):
        import_dataset("flowers-102", source)


def test_the_published_matlab_files_are_those_that_torchvision_knows():
    theirs = torchvision.datasets.Flowers102._file_dict
    assert dict([theirs["label"], theirs["setid"]]) == REAL_MD5


def test_a_list_that_is_no_json_is_refused(tmp_path):
    source = as_folder("inaturalist-2017", tmp_path / "source")
    (source / "train_val2017" / "train2017.json").write_text('{"images": [')
    with pytest.raises(DatasetError, match=r"train2017\.json is not a list of images"):
        import_dataset("inaturalist-2017", source)
    (source / "train_val2017" / "train2017.json").write_text('{"annotations": []}')
    with pytest.raises(DatasetError, match=r"train2017\.json is not a list of images"):
        import_dataset("inaturalist-2017", source)


def test_species_of_one_name_in_two_super_categories_stay_apart(tmp_path):
    dataset = import_dataset("inaturalist-2017", as_folder("inaturalist-2017", tmp_path / "source"), size=16)
    assert dataset.split("train").class_names == ("Aves/Accipiter badius", "Aves/Zosterops", "Insecta/Zosterops")


def test_the_convention_for_caltech_stands_in_the_recipe(tmp_path):
    dataset = import_dataset("caltech-256", as_folder("caltech-256", tmp_path / "source"), size=16)
    assert dataset.preprocessing["divided"].startswith("none is official: the first 60 images of each class by number")


# Where torchvision reads the same folders, it must see what we see.


def labelled(dataset, splits: tuple[str, ...] = ("train", "validation", "test")) -> set[tuple[str, int]]:
    return {
        (dataset.splits[split].image_name(i), int(dataset.splits[split].labels[i]))
        for split in splits
        if split in dataset.splits
        for i in range(len(dataset.splits[split]))
    }


def test_pets_are_those_of_torchvision(tmp_path):
    as_folder("oxford-iiit-pet", tmp_path / "oxford-iiit-pet")
    dataset = import_dataset("oxford-iiit-pet", tmp_path, size=16)
    order = sorted(PETS)
    for split, theirs in (("train", "trainval"), ("test", "test")):
        pets = torchvision.datasets.OxfordIIITPet(tmp_path, theirs)
        names = {label: pets._images[i].stem.rpartition("_")[0] for i, label in enumerate(pets._labels)}
        expected = {(p.name, order.index(names[y])) for p, y in zip(pets._images, pets._labels, strict=True)}
        assert labelled(dataset, (split,)) == expected


def test_flowers_are_those_of_torchvision(tmp_path, monkeypatch):
    as_folder("flowers-102", tmp_path / "flowers-102")
    dataset = import_dataset("flowers-102", tmp_path, size=16)
    monkeypatch.setattr(torchvision.datasets.Flowers102, "_check_integrity", lambda self: True)
    for split, theirs in (("train", "train"), ("validation", "val"), ("test", "test")):
        flowers = torchvision.datasets.Flowers102(tmp_path, theirs)
        expected = {(path.name, label) for path, label in zip(flowers._image_files, flowers._labels, strict=True)}
        assert labelled(dataset, (split,)) == expected


def test_caltech_is_that_of_torchvision(tmp_path):
    as_folder("caltech-256", tmp_path / "caltech256")
    dataset = import_dataset("caltech-256", tmp_path, size=16)
    caltech = torchvision.datasets.Caltech256(str(tmp_path))
    assert list(dataset.split("train").class_names) == caltech.categories
    expected = {(f"{y + 1:03d}_{i:04d}.jpg", y) for i, y in zip(caltech.index, caltech.y, strict=True)}
    assert labelled(dataset) == expected


def test_places_are_those_of_torchvision(tmp_path, monkeypatch):
    source = as_folder("places365", tmp_path / "source")
    for file in (source / "filelist_places365-standard").iterdir():
        file.rename(source / file.name)
    (source / "data_256").rename(source / "data_256_standard")
    dataset = import_dataset("places365", source, size=16)
    monkeypatch.setattr(torchvision.datasets.Places365, "_check_integrity", lambda *_: True)
    for split, theirs in (("train", "train-standard"), ("test", "val")):
        places = torchvision.datasets.Places365(source, theirs, small=True)
        assert labelled(dataset, (split,)) == {(Path(path).name, label) for path, label in places.imgs}


def test_species_are_those_of_torchvision(tmp_path):
    source = as_folder("inaturalist-2017", tmp_path / "source")
    (source / "train_val_images").rename(source / "2017")
    dataset = import_dataset("inaturalist-2017", source, size=16)
    species = torchvision.datasets.INaturalist(source, "2017")
    assert list(dataset.split("train").class_names) == species.all_categories
    assert labelled(dataset) == {(name, label) for label, name in species.index}


def test_imagenet_is_that_of_an_image_folder(tmp_path):
    source = as_folder("imagenet-1k", tmp_path / "source")
    dataset = import_dataset("imagenet-1k", source, size=16)
    for split, theirs in (("train", "train"), ("test", "val")):
        images = torchvision.datasets.ImageFolder(str(source / theirs))
        assert labelled(dataset, (split,)) == {(Path(path).name, label) for path, label in images.samples}


# ImageNet in its other forms.


def write_train_tar(source: Path) -> None:
    """ILSVRC2012_img_train.tar in place of train/: one tar per class."""
    with tarfile.open(source / "ILSVRC2012_img_train.tar", "w") as archive:
        for name in SYNSETS:
            archive.add(tarred(source / "train" / name, source / f"{name}.tar"), f"{name}.tar")
            (source / f"{name}.tar").unlink()
    shutil.rmtree(source / "train")


def test_imagenet_from_its_official_archive_beside_sorted_validation_folders(tmp_path):
    source = as_folder("imagenet-1k", tmp_path / "source")
    reference = import_dataset("imagenet-1k", source, size=16)
    write_train_tar(source)
    assert import_dataset("imagenet-1k", source, size=16, replace=True).fingerprint == reference.fingerprint


def test_unsorted_validation_images_are_named(tmp_path):
    source = as_folder("imagenet-1k", tmp_path / "source")
    for path in list((source / "val").glob("*/*")):
        path.rename(source / "val" / path.name)
    for folder in list((source / "val").iterdir()):
        shutil.rmtree(folder) if folder.is_dir() else None
    with pytest.raises(DatasetError, match="the validation images sorted into class folders"):
        import_dataset("imagenet-1k", source)
    write_train_tar(source)
    with pytest.raises(DatasetError, match="the validation images sorted into class folders"):
        import_dataset("imagenet-1k", source)


def test_images_of_imagenet_converted_to_png_keep_their_official_names(tmp_path):
    source = as_folder("imagenet-1k", tmp_path / "source")
    identity = import_dataset("imagenet-1k", source, size=16).identity
    for path in list(source.rglob("*.JPEG")):
        Image.open(path).save(path.with_suffix(".png"))
        path.unlink()
    converted = import_dataset("imagenet-1k", source, size=16, replace=True)
    assert converted.identity == identity
    assert converted.split("train").image_name(0) == "n00000001_116.JPEG"


def test_one_tree_of_ilsvrc_gives_both_few_shot_benchmarks_and_imagenet(tiny, tmp_path, monkeypatch):
    sizes = {name: len(images) for name, images in tiny.ilsvrc.items()}
    monkeypatch.setitem(
        OFFICIAL,
        "imagenet-1k",
        replace(
            OFFICIAL["imagenet-1k"],
            classes=len(sizes),
            images={"train": sum(sizes.values()), "test": len(sizes)},
            class_sizes={"train": sizes, "test": 1},
        ),
    )
    source = tmp_path / "ILSVRC"
    for name, images in tiny.ilsvrc.items():
        for number, pixels in images.items():
            path = source / "train" / name / f"{name}_{number}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, format="PNG")
        jpeg(source / "val" / name / f"ILSVRC2012_val_{int(name[1:]):08d}.JPEG", name)
    with ExitStack() as stack:
        complete = [one for one in layouts_at(source, stack) if not one.missing and one.place == source]
    assert {name for one in complete for name in one.datasets} == {"mini-imagenet", "tiered-imagenet", "imagenet-1k"}
    assert (import_dataset("mini-imagenet", source).novel.images[:4] == tiny.mini("n00000002")).all()
    assert len(import_dataset("tiered-imagenet", source).base) == sizes["n00000001"] + sizes["n00000004"]
    assert len(import_dataset("imagenet-1k", source, size=16).split("train")) == sum(sizes.values())


def test_few_shot_splits_of_imagenet_are_not_taken_for_imagenet(tiny, tmp_path):
    for split, names in (("train", ("n00000001", "n00000004")), ("val", ("n00000003",))):
        for name in names:
            jpeg(tmp_path / "m" / split / name / f"{name}_1.JPEG", name)
    with ExitStack() as stack:
        found = {name for one in layouts_at(tmp_path / "m", stack) for name in one.datasets}
    assert "imagenet-1k" not in found


# Class folders, whatever tool made them.


def as_class_folders(name: str, place: Path, folders: dict[str, str], *, file: Callable[[str], str] = str) -> Path:
    for split, folder in folders.items():
        for label, images in LAYOUTS[name].expected[split].items():
            for image in images:
                jpeg(place / folder / label.replace("/", "-") / file(image), image)
    return place


FOLDERS = {
    "cub-200-2011": {"train": "train", "test": "test"},
    "flowers-102": {"train": "train", "validation": "valid", "test": "test"},
    "oxford-iiit-pet": {"train": "train", "test": "test"},
    "places365": {"train": "train", "test": "val"},
    "inaturalist-2017": {"train": "train", "test": "val"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_class_folders_with_official_names_are_the_same_dataset(name, tmp_path):
    reference = import_dataset(name, as_folder(name, tmp_path / "source"), size=16)
    folders = import_dataset(name, as_class_folders(name, tmp_path / "folders", FOLDERS[name]), size=16, replace=True)
    assert folders.identified_by == "names"
    if name != "inaturalist-2017":  # its classes have two-part names, which folders cannot have
        assert folders.identity == reference.identity


def test_class_folders_with_other_names_are_known_by_rank(tmp_path):
    numbers = iter(range(1000))
    source = as_class_folders(
        "cub-200-2011", tmp_path / "folders", FOLDERS["cub-200-2011"], file=lambda _: f"bird {next(numbers)}.jpg"
    )
    dataset = import_dataset("cub-200-2011", source, size=16)
    assert dataset.identified_by == "ranks"
    assert "known by their rank" in dataset.preprocessing["warnings"][0]
    assert dataset.split("train").image_names is None
    first = source / "train" / "002.Laysan_Albatross"
    ordered = sorted(first.iterdir(), key=lambda path: int(path.stem.split()[1]))
    start = dataset.split("train").offsets[1]
    assert [(dataset.split("train").images[start + i] == picture(p, 16)).all() for i, p in enumerate(ordered)] == [
        True
    ] * 3


def test_class_folders_of_something_else_are_not_recognised(tmp_path):
    source = as_class_folders("cub-200-2011", tmp_path / "folders", FOLDERS["cub-200-2011"])
    for label in CUB:
        for number in range(5):
            jpeg(source / "train" / label / f"more_{number}.jpg", str(number))
    with pytest.raises(DatasetError, match="holds no known layout of cub-200-2011"):
        import_dataset("cub-200-2011", source)


# CIFAR-100.


def cifar_pixels() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(3)
    return {
        split: generator.integers(0, 256, (100 * size, 32, 32, 3), dtype=np.uint8)
        for split, size in CIFAR_SIZES.items()
    }


def write_cifar(place: Path, *, lost: int = 0) -> Path:
    """cifar-100-python as its authors wrote it: one channel after the other, labels in any order."""
    place.mkdir(parents=True)
    for split, images in cifar_pixels().items():
        labels = np.random.default_rng(5).permutation(np.repeat(np.arange(100), CIFAR_SIZES[split]))
        kept = len(images) - lost
        content = {
            b"filenames": [b"x.png"] * kept,
            b"batch_label": b"1 of 1",
            b"fine_labels": labels[:kept].tolist(),
            b"coarse_labels": [0] * kept,
            b"data": images[:kept].transpose(0, 3, 1, 2).reshape(kept, 3072),
        }
        with (place / split).open("wb") as file:
            pickle.dump({key.decode(): value for key, value in content.items()}, file, protocol=2)
    return place


def test_the_pickles_give_cifar_100_and_both_few_shot_benchmarks(tmp_path):
    with ExitStack() as stack:
        found = layouts_at(write_cifar(tmp_path / "cifar-100-python"), stack)
    assert [one.datasets for one in found] == [("cifar-fs", "fc100", "cifar-100")]


def test_cifar_100_has_its_own_division_and_no_other_size(tmp_path):
    source = write_cifar(tmp_path / "cifar-100-python")
    dataset = import_dataset("cifar-100", source)
    assert {name: split.images.shape for name, split in dataset.splits.items()} == {
        "train": (300, 32, 32, 3),
        "test": (200, 32, 32, 3),
    }
    assert dataset.identified_by == "pixels"
    assert not dataset.is_few_shot
    pixels = cifar_pixels()
    labels = np.random.default_rng(5).permutation(np.repeat(np.arange(100), CIFAR_SIZES["test"]))
    test = dataset.split("test")
    for label in (0, 42, 99):
        expected = {image.tobytes() for image in pixels["test"][labels == label]}
        assert {image.tobytes() for image in test.images[test.labels == label]} == expected
    assert test.class_names[42] == "leopard"
    with pytest.raises(DatasetError, match=r"stored as published, 32 x 32\. Leave --size out"):
        import_dataset("cifar-100", source, size=224)


@pytest.mark.slow
def test_cifar_100_from_tar_and_from_class_folders_is_the_same(tmp_path):
    source = write_cifar(tmp_path / "cifar-100-python")
    reference = import_dataset("cifar-100", source)
    packed = tarred(source, tmp_path / "cifar-100-python.tar.gz", around="cifar-100-python/")
    assert import_dataset("cifar-100", packed).fingerprint == reference.fingerprint
    for name, split in reference.splits.items():
        for i, image in enumerate(split.images):
            path = tmp_path / "folders" / name / split.class_of(i) / f"{997 * i % 1009}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    assert import_dataset("cifar-100", tmp_path / "folders").fingerprint == reference.fingerprint


def test_too_few_images_of_a_class_of_cifar_100_are_named(tmp_path):
    with pytest.raises(DatasetError, match=r"class '\w+' should have 3 images of 32 x 32 x 3 pixels, .* has 2"):
        import_dataset("cifar-100", write_cifar(tmp_path / "cifar-100-python", lost=1))


# The images of CUB-200-2011 divided by class.


@pytest.fixture
def cub_by_class(monkeypatch, tmp_path) -> Path:
    """A tiny copy with a class for each split, and the published table made as small."""
    monkeypatch.setitem(CUB, "004.Groove_billed_Ani", (2, 3))
    published = official_splits._published
    tiny = {"sizes": {name: sum(counts) for name, counts in CUB.items()}}
    monkeypatch.setattr(official_splits, "_published", lambda name: tiny if name == "cub" else published(name))
    write_cub(tmp_path / "source")
    return tmp_path / "source"


def test_cub_has_whole_classes_in_the_splits_of_chen_et_al(cub_by_class, tmp_path):
    dataset = import_dataset("cub", cub_by_class)
    assert {name: split.class_names for name, split in dataset.splits.items()} == {
        "base": ("001.Black_footed_Albatross",),
        "validation": ("002.Laysan_Albatross",),
        "novel": ("004.Groove_billed_Ani",),
    }
    assert {name: len(split) for name, split in dataset.splits.items()} == {"base": 7, "validation": 5, "novel": 5}
    assert dataset.novel.images.shape == (5, 84, 84, 3)
    file = next(path for path in cub_by_class.rglob("*") if path.name == dataset.novel.image_name(0))
    assert (dataset.novel.images[0] == picture(file, 84)).all()
    assert dataset.identified_by == "names"
    assert dataset.is_few_shot
    with ExitStack() as stack:
        assert [found.datasets for found in layouts_at(cub_by_class, stack)] == [("cub-200-2011", "cub")]
    packed = tarred(cub_by_class, tmp_path / "CUB_200_2011.tgz")
    assert import_dataset("cub", packed, replace=True).fingerprint == dataset.fingerprint


def test_an_incomplete_class_of_cub_is_named(cub_by_class, monkeypatch):
    monkeypatch.setitem(official_splits._published("cub")["sizes"], "004.Groove_billed_Ani", 6)
    with pytest.raises(DatasetError, match=r"class 004.Groove_billed_Ani of the novel split of cub has 6 images; .* 5"):
        import_dataset("cub", cub_by_class)


def test_the_classes_of_cub_are_divided_by_their_number():
    splits = official_splits.official_class_sizes("cub")
    numbers = {split: {int(name[:3]) for name in classes} for split, classes in splits.items()}
    assert numbers == {
        "base": set(range(1, 201, 2)), "validation": set(range(2, 201, 4)), "novel": set(range(4, 201, 4)),
    }  # fmt: skip
    assert sum(sum(classes.values()) for classes in splits.values()) == 11_788
    for shot in (1, 5):
        frozen = read_lock(published_locks_folder() / f"cub-5way-{shot}shot.toml")
        assert frozen.class_sizes == tuple(splits["novel"].values())
        assert frozen.images.startswith("names:")


@pytest.mark.parametrize("name", ["cub", "cub-200-2011"])
def test_cub_is_downloaded_from_its_authors_by_its_checksum(name):
    assert BENCHMARKS[name].remote_files is not None
    (file,) = BENCHMARKS[name].remote_files()
    assert file.url == "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz"
    assert file.digest == "md5:97eceeb196236b17998738112f37df78"
    assert not BENCHMARKS[name].must_be_accepted


# What the table says, and what a user reads.


def test_the_real_table_agrees_with_itself():
    assert sum(REAL["imagenet-1k"].class_sizes["train"].values()) == REAL["imagenet-1k"].images["train"]
    assert len(REAL["imagenet-1k"].class_sizes["train"]) == REAL["imagenet-1k"].classes
    assert sum(REAL["caltech-256"].images.values()) == 30_607
    assert sum(REAL["cub-200-2011"].images.values()) == 11_788
    assert sum(REAL["flowers-102"].images.values()) == 8_189
    assert sum(REAL["oxford-iiit-pet"].images.values()) == 7_349
    for official in REAL.values():
        for split, size in official.class_sizes.items():
            if isinstance(size, int):
                assert size * official.classes == official.images[split]


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "cub-200-2011"])
def test_what_cannot_be_downloaded_says_what_to_obtain(name, capsys):
    with pytest.raises(
        DatasetError, match=rf"{name} cannot be downloaded\. .* fewshot-bench data import {name} --from"
    ):
        download_dataset(name)
    with pytest.raises(DatasetError, match=rf"Run: fewshot-bench data import {name} --from PATH"):
        open_dataset(name)
    assert exit_code(["data", "check", name]) == 0
    printed = capsys.readouterr().out
    assert f"data import {name} --from PATH" in printed
    assert "data get" not in printed


def test_a_classification_dataset_through_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = zipped(as_folder("oxford-iiit-pet", tmp_path / "source"), tmp_path / "pets.zip")
    assert exit_code(["data", "check", str(source)]) == 0
    assert f"fewshot-bench data import oxford-iiit-pet --from {source}" in capsys.readouterr().out
    assert exit_code(["data", "import", "oxford-iiit-pet", "--from", str(source), "--size", "28"]) == 0
    printed = capsys.readouterr().out
    assert "train         3 classes        7 images" in printed
    assert "fewshot-bench run --dataset oxford-iiit-pet --split test" in printed
    assert exit_code(["data", "check", "oxford-iiit-pet", "--deep"]) == 0
    printed = capsys.readouterr().out
    assert "known by their official names" in printed
    assert "every one as it was stored" in printed
    assert "fewshot-bench run --dataset oxford-iiit-pet --split test" in printed
    assert exit_code(["data", "ls"]) == 0
    assert any(
        line.split()[:2] == ["oxford-iiit-pet", "ready"] and "12 images" in line
        for line in capsys.readouterr().out.splitlines()
    )


@pytest.mark.slow
def test_episodes_are_drawn_from_the_test_split_and_from_no_other_by_default(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    import_dataset("flowers-102", as_folder("flowers-102", tmp_path / "source"), size=28)
    run = ["run", "--dataset", "flowers-102", "--backbone", "conv4_32", "--way", "2", "--shots", "1", "--query", "1"]
    assert exit_code([*run, "--base-loss", "none"]) == 2
    error = capsys.readouterr().err
    assert "flowers-102 is for classification: its splits (train, validation, test) share their classes" in error
    assert "Use --split test to draw few-shot episodes from it, or --protocol full for all of it." in error
    assert exit_code([*run, "--split", "test"]) == 2
    assert "--base-loss none" in capsys.readouterr().err
    drawn = [*run, "--split", "test", "--base-loss", "none", "--episodes", "20", "--runs", "1", "--device", "cpu"]
    assert exit_code(drawn) == 0
    assert (
        "flowers-102 (test split) 2-way 1-shot" in Path("results/leaderboard.csv").read_text() + capsys.readouterr().out
    )
