"""Tiny copies of what torchvision downloads: for each dataset two or three classes, laid out as its class expects."""

from __future__ import annotations

import bz2
import csv
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

SIDE = 12
CLASSES = ("apple", "pear", "plum")
EACH = 3


def pixels(seed: str, shape: tuple[int, ...] = (SIDE, SIDE, 3)) -> np.ndarray:
    """Noise that its name determines."""
    return np.random.default_rng(list(seed.encode())).integers(0, 256, shape, dtype=np.uint8)


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels("/".join(path.parts[-4:]))).save(path)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def folders(top: Path, suffix: str = ".png") -> None:
    for name in CLASSES:
        for number in range(EACH):
            picture(top / name / f"{name}_{number}{suffix}")


def country211(root: Path) -> None:
    for part in ("test", "valid", "train"):
        folders(root / "country211" / part)


def dtd(root: Path) -> None:
    folders(root / "dtd/dtd/images", ".jpg")
    for place, part in enumerate(("train", "val", "test")):
        text(root / f"dtd/dtd/labels/{part}1.txt", "".join(f"{name}/{name}_{place}.jpg\n" for name in CLASSES))


def aircraft(root: Path) -> None:
    top = root / "fgvc-aircraft-2013b/data"
    text(top / "variants.txt", "707-320\nA 310\n")
    for part, first in (("test", 0), ("train", 10), ("val", 20), ("trainval", 30)):
        rows = [(f"{first + number:07d}", ("707-320", "A 310")[number % 2]) for number in range(4)]
        text(top / f"images_variant_{part}.txt", "".join(f"{image} {name}\n" for image, name in rows))
        for image, _ in rows:
            picture(top / "images" / f"{image}.jpg")


def cars(root: Path) -> None:
    top = root / "stanford_cars"
    (top / "devkit").mkdir(parents=True)
    kinds = [("fname", "O"), ("class", "i4")]
    savemat(top / "devkit/cars_meta.mat", {"class_names": np.array(["AM Hummer", "Audi A5"], dtype=object)})
    for part, file in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        rows = np.array([(f"{number:05d}.jpg", 1 + number % 2) for number in range(1, 5)], dtype=kinds)
        savemat(top / file, {"annotations": rows})
        for name, _ in rows:
            picture(top / f"cars_{part}" / name)


def food(root: Path) -> None:
    folders(root / "food-101/images", ".jpg")
    for part, numbers in (("test", (0, 1)), ("train", (2,))):
        lists = {name: [f"{name}/{name}_{number}" for number in numbers] for name in CLASSES}
        text(root / f"food-101/meta/{part}.json", json.dumps(lists))


def gtsrb(root: Path) -> None:
    top = root / "gtsrb"
    rows = [(f"{number:05d}.ppm", number % 3) for number in range(6)]
    for file, label in rows:
        picture(top / "GTSRB/Final_Test/Images" / file)
        picture(top / "GTSRB/Training" / f"{label:05d}" / file)
    text(top / "GT-final_test.csv", "Filename;ClassId\n" + "".join(f"{file};{label}\n" for file, label in rows))


def flowers(root: Path) -> None:
    top = root / "flowers-102"
    for number in range(1, 7):
        picture(top / "jpg" / f"image_{number:05d}.jpg")
    savemat(top / "imagelabels.mat", {"labels": np.array([[1, 2, 1, 2, 1, 2]], np.uint8)})
    savemat(top / "setid.mat", {"trnid": [[1, 2]], "valid": [[3, 4]], "tstid": [[6, 5]]})


def pets(root: Path) -> None:
    top = root / "oxford-iiit-pet"
    rows = [
        (f"{name}_{number}", label) for label, name in enumerate(("Birman", "basset_hound"), 1) for number in (1, 12)
    ]
    for image, _ in rows:
        picture(top / "images" / f"{image}.jpg")
    for part in ("test", "trainval"):
        text(top / f"annotations/{part}.txt", "".join(f"{image} {label} 1 1\n" for image, label in rows))


def rendered(root: Path) -> None:
    for part in ("train", "valid", "test"):
        for name in ("negative", "positive"):
            for number in range(EACH):
                picture(root / "rendered-sst2" / part / name / f"{number}.png")


def imagenette(root: Path) -> None:
    for part in ("train", "val"):
        for name in ("n01440764", "n02979186"):
            for number in range(EACH):
                picture(root / "imagenette2" / part / name / f"{name}_{number}.JPEG")


def inaturalist(root: Path) -> None:
    for label, name in enumerate(CLASSES):
        for number in range(EACH):
            folder = f"{label:05d}_Plantae_Tracheophyta_Magnoliopsida_Rosales_Rosaceae_Malus_{name}"
            picture(root / "2021_valid" / folder / f"{number}.jpg")


def sun(root: Path) -> None:
    text(root / "SUN397/ClassName.txt", "/a/abbey\n/a/apartment_building/outdoor\n")
    for number in range(EACH):
        picture(root / f"SUN397/a/abbey/sun_a{number}.jpg")
        picture(root / f"SUN397/a/apartment_building/outdoor/sun_o{number}.jpg")


def places(root: Path) -> None:
    text(root / "categories_places365.txt", "/a/airfield 0\n/z/zoo 1\n")
    text(root / "places365_val.txt", "".join(f"Places365_val_{n:08d}.jpg {n % 2}\n" for n in range(4)))
    for number in range(4):
        picture(root / "val_large" / f"Places365_val_{number:08d}.jpg")


def caltech_101(root: Path) -> None:
    for name in (*CLASSES, "BACKGROUND_Google"):
        for number in range(1, EACH + 1):
            picture(root / "caltech101/101_ObjectCategories" / name / f"image_{number:04d}.jpg")


def caltech_256(root: Path) -> None:
    for label, name in enumerate(CLASSES, 1):
        for number in range(1, EACH + 1):
            picture(root / f"caltech256/256_ObjectCategories/{label:03d}.{name}/{label:03d}_{number:04d}.jpg")


def clevr(root: Path) -> None:
    top = root / "clevr/CLEVR_v1.0"
    for part in ("train", "val"):
        scenes = []
        for number in range(4):
            picture(top / "images" / part / f"CLEVR_{part}_{number}.png")
            scenes.append({"image_filename": f"CLEVR_{part}_{number}.png", "objects": [{}] * (3 + number % 2)})
        text(top / f"scenes/CLEVR_{part}_scenes.json", json.dumps({"scenes": scenes}))


def faces(root: Path) -> None:
    for name in ("Ann_Lee", "Bo_Ek"):
        for number in (1, 2):
            picture(root / "lfw-py/lfw_funneled" / name / f"{name}_{number:04d}.jpg")
    text(root / "lfw-py/lfw-names.txt", "Ann_Lee\t2\nBo_Ek\t2\n")
    text(root / "lfw-py/peopleDevTest.txt", "2\nAnn_Lee\t2\nBo_Ek\t2\n")


def idx(path: Path, array: np.ndarray, kind: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes())


def digits(folder: str, stem: str = "{part}", part: str = "t10k") -> Callable[[Path], None]:
    def write(root: Path) -> None:
        for kind in (part, "train"):
            name = stem.format(part=kind)
            idx(root / folder / "raw" / f"{name}-images-idx3-ubyte", pixels(f"{folder}{kind}", (6, 28, 28)))
            idx(root / folder / "raw" / f"{name}-labels-idx1-ubyte", np.arange(6, dtype=np.uint8) % 3)

    return write


def qmnist(root: Path) -> None:
    labels = np.zeros((6, 8), ">i4")
    labels[:, 0] = np.arange(6) % 3
    idx(root / "QMNIST/raw/qmnist-test-images-idx3-ubyte", pixels("qmnist", (6, 28, 28)))
    idx(root / "QMNIST/raw/qmnist-test-labels-idx2-int", labels, 12)


def svhn(root: Path) -> None:
    labels = np.array([[10], [1], [10], [1]], np.uint8)
    savemat(root / "test_32x32.mat", {"X": pixels("svhn", (32, 32, 3, 4)), "y": labels})


def stl(root: Path) -> None:
    (root / "stl10_binary").mkdir()
    (root / "stl10_binary/test_X.bin").write_bytes(pixels("stl", (4, 3, 96, 96)).tobytes())
    (root / "stl10_binary/test_y.bin").write_bytes(bytes([1, 2, 1, 2]))
    text(root / "stl10_binary/class_names.txt", "airplane\nbird\n")


def usps(root: Path) -> None:
    rows = [f"{1 + row % 2} " + " ".join(f"{i + 1}:{v / 255:.4f}" for i, v in enumerate(pixels(f"usps{row}", (256,))))
            for row in range(4)]  # fmt: skip
    (root / "usps.t.bz2").write_bytes(bz2.compress("\n".join(rows).encode()))


def semeion(root: Path) -> None:
    rows = [np.concatenate([pixels(f"semeion{row}", (256,)) % 2, np.arange(10) == row % 2]) for row in range(4)]
    np.savetxt(root / "semeion.data", np.array(rows))


def fer(root: Path) -> None:
    (root / "fer2013").mkdir()
    with (root / "fer2013/fer2013.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["emotion", "pixels", "Usage"])
        for row in range(6):
            image = " ".join(map(str, pixels(f"fer{row}", (48 * 48,))))
            writer.writerow([row % 2, image, ("Training", "PublicTest", "PrivateTest")[row // 2]])


def cifar(folder: str, files: tuple[str, str], meta: str, labels: str, names: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        (root / folder).mkdir()
        for file in files:
            content: dict[str, Any] = {"data": pixels(folder + file, (6, 3072)), labels: [0, 1, 2, 0, 1, 2]}
            (root / folder / file).write_bytes(pickle.dumps(content))
        (root / folder / meta).write_bytes(pickle.dumps({names: list(CLASSES)}))

    return write


def h5(root: Path) -> None:
    """Two NumPy files in place of HDF5, which the test's stand-in for h5py reads."""
    (root / "pcam").mkdir()
    for key, array in (("x", pixels("pcam", (4, SIDE, SIDE, 3))), ("y", np.arange(4).reshape(4, 1, 1, 1) % 2)):
        with (root / f"pcam/camelyonpatch_level_2_split_test_{key}.h5").open("wb") as file:
            np.savez(file, **{key: array})


WRITERS: dict[str, Callable[[Path], None]] = {
    "CIFAR10": cifar("cifar-10-batches-py", ("test_batch", "data_batch_1"), "batches.meta", "labels", "label_names"),
    "CIFAR100": cifar("cifar-100-python", ("test", "train"), "meta", "fine_labels", "fine_label_names"),
    "CLEVRClassification": clevr,
    "Caltech101": caltech_101,
    "Caltech256": caltech_256,
    "Country211": country211,
    "DTD": dtd,
    "EMNIST": digits("EMNIST", "emnist-balanced-{part}", "test"),
    "EuroSAT": lambda root: folders(root / "eurosat/2750", ".jpg"),
    "FER2013": fer,
    "FGVCAircraft": aircraft,
    "FashionMNIST": digits("FashionMNIST"),
    "Flowers102": flowers,
    "Food101": food,
    "GTSRB": gtsrb,
    "INaturalist": inaturalist,
    "Imagenette": imagenette,
    "KMNIST": digits("KMNIST"),
    "LFWPeople": faces,
    "MNIST": digits("MNIST"),
    "OxfordIIITPet": pets,
    "PCAM": h5,
    "Places365": places,
    "QMNIST": qmnist,
    "RenderedSST2": rendered,
    "SEMEION": semeion,
    "STL10": stl,
    "SUN397": sun,
    "SVHN": svhn,
    "StanfordCars": cars,
    "USPS": usps,
}
CHECKED = ("fer2013", "flowers102", "lfw", "places365", "semeion", "stl10", "svhn", "cifar")
"""Modules of torchvision that compare checksums before they read."""
