"""miniImageNet and tieredImageNet written as their authors and others wrote them."""

from __future__ import annotations

import csv
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
from archives import png
from tiny_benchmarks import BASE, NOVEL, VALIDATION

from fewshot_bench.datasets.official_splits import mini_imagenet_ranks

PARTS = {"train": BASE, "val": VALIDATION, "test": NOVEL}
WORDS = {
    "n00000001": "tench, Tinca tinca", "n00000002": "space shuttle", "n00000003": "cab, hack, taxi, taxicab",
    "n00000004": "crane", "n00000005": "jackfruit, jak, jack", "n00000006": "drake",
}  # fmt: skip


def write_mini_caches(folder: Path, tiny, *, validation="val", protocol=2) -> Path:
    """Ren's pickles: one array in the order of Ravi's CSVs, and lists of rows; keys in no order."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, names in PARTS.items():
        ordered = sorted(names)
        images = np.concatenate([tiny.mini(name) for name in ordered])
        rows = {name: list(range(4 * place, 4 * place + 4)) for place, name in enumerate(ordered)}
        content = {"class_dict": dict(reversed(rows.items())), "image_data": images}
        name = validation if part == "val" else part
        (folder / f"mini-imagenet-cache-{name}.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    return folder


def write_category_splits(folder: Path, tiny) -> Path:
    """Gidaris' pickles; those of other images of the base classes lie beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    first = 0
    for part, names in PARTS.items():
        labels = {name: first + number for number, name in enumerate(sorted(names))}
        first += len(names)
        content = {
            "data": np.concatenate([tiny.mini(name) for name in sorted(names, reverse=True)]),
            "labels": [labels[name] for name in sorted(names, reverse=True) for _ in range(4)],
            "catname2label": labels,
        }
        part = "train_phase_train" if part == "train" else part
        (folder / f"miniImageNet_category_split_{part}.pickle").write_bytes(pickle.dumps(content, protocol=2))
    labels = {name: number for number, name in enumerate(sorted(BASE))}
    other = {"data": np.zeros((6, 84, 84, 3), np.uint8), "labels": [0, 1] * 3, "catname2label": labels}
    (folder / "miniImageNet_category_split_train_phase_val.pickle").write_bytes(pickle.dumps(other, protocol=2))
    return folder


def ravi_name(name: str, rank: int) -> str:
    return f"{name}{rank:08d}.jpg"


def ilsvrc_name(name: str, number: int) -> str:
    return f"{name}_{number}.JPEG"


def write_ravi_folders(folder: Path, tiny, *, per_split=True, suffix="") -> Path:
    """Class folders with Ravi's names, as MTL passes them on; PNG bytes under a .jpg name, as happens."""
    for part, names in PARTS.items():
        for name in names:
            inside = folder / (f"{part}{suffix}" if per_split else "images") / name
            inside.mkdir(parents=True)
            for rank, image in zip(mini_imagenet_ranks()[name], tiny.mini(name), strict=True):
                (inside / ravi_name(name, rank)).write_bytes(png(image))
    return folder


def write_flat(folder: Path, tiny, *, naming=ravi_name) -> Path:
    (folder / "images").mkdir(parents=True)
    for part, names in PARTS.items():
        with (folder / f"{part}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["filename", "label"])
            for name in names:
                for rank, image in zip(mini_imagenet_ranks()[name], tiny.mini(name), strict=True):
                    file_name = naming(name, rank)
                    (folder / "images" / file_name).write_bytes(png(image))
                    table.writerow([file_name, name])
    return folder


def write_mini_ilsvrc_names(folder: Path, tiny) -> Path:
    """Only the images of miniImageNet, under the names they have in ILSVRC-2012."""
    for part, names in PARTS.items():
        for name in names:
            (folder / part / name).mkdir(parents=True)
            numbers = sorted(tiny.ilsvrc[name])
            for rank in mini_imagenet_ranks()[name]:
                number = numbers[rank - 1]
                (folder / part / name / ilsvrc_name(name, number)).write_bytes(png(tiny.ilsvrc[name][number]))
    return folder


def write_ilsvrc(folder: Path, tiny) -> Path:
    for name, images in tiny.ilsvrc.items():
        (folder / name).mkdir(parents=True)
        for number, image in images.items():
            (folder / name / ilsvrc_name(name, number)).write_bytes(png(image))
    return folder


def write_class_tars(folder: Path, tiny) -> Path:
    folder.mkdir(parents=True)
    for name, images in tiny.ilsvrc.items():
        with tarfile.open(folder / f"{name}.tar", "w") as archive:
            for number, image in images.items():
                content = png(image)
                member = tarfile.TarInfo(ilsvrc_name(name, number))
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return folder


def tiered_images(tiny, name: str) -> list[np.ndarray]:
    """All images of a class, in the order of their official names."""
    return [tiny.ilsvrc[name][number] for number in sorted(tiny.ilsvrc[name], key=lambda n: ilsvrc_name(name, n))]


def write_png_pickles(folder: Path, tiny, *, column=True, protocol=2, prefix="") -> Path:
    """Ren's pickles: PNGs as OpenCV gives them back, classes by their words, in the order of a directory listing."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, names in PARTS.items():
        listed = sorted(names, key=lambda name: WORDS[name][::-1])
        images, labels = [], []
        for label, name in enumerate(listed):
            for image in tiered_images(tiny, name):
                encoded = np.frombuffer(png(image), np.uint8)
                images.append(encoded[:, None] if column else encoded)
                labels.append(label)
        content = {
            "label_specific": np.array(labels, np.int32),
            "label_specific_str": [WORDS[name] for name in listed],
            "label_general": np.zeros(len(labels), np.int32),
            "label_general_str": ["thing"],
        }
        (folder / f"{prefix}{part}_images_png.pkl").write_bytes(pickle.dumps(images, protocol=protocol))
        (folder / f"{prefix}{part}_labels.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    return folder


def write_npz(folder: Path, tiny, *, order=sorted) -> Path:
    """MetaOptNet's files: channels blue, green, red; labels go on from split to split."""
    folder.mkdir(parents=True, exist_ok=True)
    first = 0
    for part, names in PARTS.items():
        images, labels = [], []
        for number, name in enumerate(order(names)):
            images += [image[..., ::-1] for image in tiered_images(tiny, name)]
            labels += [first + number] * len(tiny.ilsvrc[name])
        first += len(names)
        np.savez(folder / f"{part}_images.npz", images=np.stack(images))
        (folder / f"{part}_labels.pkl").write_bytes(pickle.dumps({"labels": labels}, protocol=2))
    return folder


def write_tiered_folders(folder: Path, tiny) -> Path:
    for part, names in PARTS.items():
        write_ilsvrc(folder / part, _only(tiny, names))
    return folder


def _only(tiny, names):
    return type(tiny)(tiny.cifar, {name: tiny.ilsvrc[name] for name in names})
