"""CIFAR-FS and FC100 from every layout in circulation, written here as their authors wrote them."""

from __future__ import annotations

import io
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from archives import png, tarred, unzipped, zipped
from PIL import Image

from fewshot_bench.datasets import import_dataset, open_dataset
from fewshot_bench.datasets.official_splits import official_classes
from fewshot_bench.errors import DatasetError, UnknownNameError

PARTS = ("train", "val", "test")


def write_image_zip(path: Path, cifar, top="cifar100") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{top}/splits/bertinetto/train.txt", "apple\n")
        archive.writestr(f"__MACOSX/{top}/data/apple/._apple.png", b"clutter")
        for name, images in cifar.items():
            for number, image in enumerate(images):
                archive.writestr(f"{top}/data/{name}/{name}_s_{number:06d}.png", png(image))
    return path


def write_torchvision(folder: Path, cifar) -> Path:
    """Two pickles of shuffled flat rows with fine labels, as Python 2 wrote them: text is latin-1."""
    names = sorted(cifar)
    images = np.concatenate([cifar[name] for name in names])
    labels = np.repeat(np.arange(len(names)), [len(cifar[name]) for name in names])
    order = np.random.default_rng(3).permutation(len(labels))
    inside = folder / "cifar-100-python"
    inside.mkdir(parents=True)
    for part, rows in zip(("train", "test"), np.split(order, [len(order) * 5 // 6]), strict=True):
        content = {
            "data": images[rows].transpose(0, 3, 1, 2).reshape(len(rows), -1),
            "fine_labels": labels[rows].tolist(),
            "coarse_labels": [0] * len(rows),
            "filenames": [f"caf\xe9_{row}.png" for row in rows],
        }
        (inside / part).write_bytes(pickle.dumps(content, protocol=2))
    (inside / "meta").write_bytes(pickle.dumps({"fine_label_names": names, "coarse_label_names": ["x"]}, protocol=2))
    return folder


def with_bytes_keys(folder: Path) -> Path:
    """What is left when somebody loads with encoding="bytes" and saves again."""
    for path in folder.rglob("*"):
        if path.is_file():
            content = pickle.loads(path.read_bytes())
            path.write_bytes(pickle.dumps({key.encode(): value for key, value in content.items()}))
    return folder


def write_pickles(folder: Path, cifar, dataset: str, *, labels: str = "fine", protocol: int = 2) -> Path:
    """CIFAR_FS_*.pickle or FC100_*.pickle; labels are CIFAR-100's own or counted anew in each file."""
    folder.mkdir(parents=True, exist_ok=True)
    fine = {name: number for number, name in enumerate(sorted(cifar))}
    prefix = {"cifar-fs": "CIFAR_FS", "fc100": "FC100"}[dataset]
    for part, names in zip(PARTS, official_classes(dataset).values(), strict=True):
        numbers = {name: fine[name] if labels == "fine" else number for number, name in enumerate(reversed(names))}
        content = {
            "data": np.concatenate([cifar[name][::-1] for name in names]),
            "labels": [numbers[name] for name in names for _ in cifar[name]],
        }
        (folder / f"{prefix}_{part}.pickle").write_bytes(pickle.dumps(content, protocol=protocol))
    return folder


def write_tadam(folder: Path, cifar) -> Path:
    folder.mkdir(parents=True)
    fine = {name: number for number, name in enumerate(sorted(cifar))}
    for part, names in zip(PARTS, official_classes("fc100").values(), strict=True):
        images = np.concatenate([cifar[name] for name in names])
        targets = np.repeat([fine[name] for name in names], [len(cifar[name]) for name in names])
        order = np.random.default_rng(1).permutation(len(targets))
        np.savez(folder / f"few-shot-{part}.npz", features=images[order], targets=targets[order])
    return folder


def _beside_damage(at: Path, cifar) -> Path:
    folder = _made(at / "downloads")
    (folder / "a-broken.zip").write_bytes(b"PK\x03\x04 and no more")
    write_image_zip(folder / "cifar100.zip", cifar)
    return folder


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


LAYOUTS = {
    "zip of images": lambda at, cifar: write_image_zip(at / "c.zip", cifar),
    "zip with another name and top": lambda at, cifar: write_image_zip(at / "data.bin.zip", cifar, top="x/y"),
    "unpacked images": lambda at, cifar: unzipped(write_image_zip(at / "c.zip", cifar), at / "c"),
    "images, given data's parent": lambda at, cifar: (
        unzipped(write_image_zip(at / "c.zip", cifar), at / "c") / "cifar100"
    ),
    "torchvision's folder": lambda at, cifar: write_torchvision(at / "tv", cifar),
    "torchvision's inner folder": lambda at, cifar: write_torchvision(at / "tv", cifar) / "cifar-100-python",
    "torchvision's folder with bytes keys": lambda at, cifar: with_bytes_keys(write_torchvision(at / "tv", cifar)),
    "a folder with a damaged archive": lambda at, cifar: _beside_damage(at, cifar),
    "torchvision's tar.gz": lambda at, cifar: tarred(
        write_torchvision(at / "tv", cifar), at / "cifar-100-python.tar.gz", "w:gz"
    ),
    "the folder of torchvision's tar.gz": lambda at, cifar: (
        tarred(write_torchvision(at / "tv", cifar), _made(at / "downloads") / "cifar-100-python.tar.gz", "w:gz").parent
    ),
    "CIFAR_FS pickles": lambda at, cifar: write_pickles(at / "p", cifar, "cifar-fs"),
    "CIFAR_FS pickles of Python 3": lambda at, cifar: write_pickles(at / "p", cifar, "cifar-fs", protocol=4),
    "CIFAR_FS pickles with labels of their own": lambda at, cifar: write_pickles(
        at / "p", cifar, "cifar-fs", labels="dense"
    ),
    "one of the CIFAR_FS pickles": lambda at, cifar: write_pickles(at / "p", cifar, "cifar-fs") / "CIFAR_FS_val.pickle",
    "FC100 pickles": lambda at, cifar: write_pickles(at / "p", cifar, "fc100"),
    "FC100.zip": lambda at, cifar: zipped(write_pickles(at / "p", cifar, "fc100"), at / "FC100.zip"),
    "TADAM's npz files": lambda at, cifar: write_tadam(at / "t", cifar),
}


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["cifar-fs", "fc100"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_images_in_the_same_order(tiny, tmp_path, dataset, layout):
    reference = import_dataset(dataset, write_image_zip(tmp_path / "reference.zip", tiny.cifar))
    source = LAYOUTS[layout](tmp_path, tiny.cifar)
    imported = import_dataset(dataset, source, replace=True)
    assert imported.fingerprint == reference.fingerprint
    assert imported.identity == reference.identity == f"pixels:{reference.fingerprint}"
    assert imported.preprocessing["pixels"] == "as published"
    assert "warnings" not in imported.preprocessing


def test_images_are_those_of_their_class(tiny, tmp_path):
    dataset = import_dataset("cifar-fs", write_torchvision(tmp_path / "tv", tiny.cifar))
    assert {split: images.class_names for split, images in dataset.splits.items()} == official_classes("cifar-fs")
    for images in dataset.splits.values():
        for label, name in enumerate(images.class_names):
            block = {image.tobytes() for image in images.images[images.labels == label]}
            assert block == {image.tobytes() for image in tiny.cifar[name]}


@pytest.mark.parametrize("layout", ["CIFAR_FS pickles with labels of their own", "FC100 pickles"])
def test_other_pixels_under_the_official_labels_are_noted_or_refused(tiny, tmp_path, layout):
    """A class is known by its images; where they are not the published ones, only CIFAR-100's labels can tell."""
    tiny.cifar["goat"] = tiny.cifar["goat"] // 2
    source = LAYOUTS[layout](tmp_path, tiny.cifar)
    if layout.startswith("CIFAR_FS"):
        with pytest.raises(DatasetError, match=r"1 of the 8 classes .* CIFAR-100"):
            import_dataset("cifar-fs", source)
        return
    dataset = import_dataset("cifar-fs", source)
    assert dataset.preprocessing["pixels"] == "not as published in 1 classes"
    assert "goat" in dataset.preprocessing["warnings"][0]


def test_a_missing_part_is_named(tiny, tmp_path):
    folder = write_pickles(tmp_path / "p", tiny.cifar, "cifar-fs")
    (folder / "CIFAR_FS_val.pickle").unlink()
    with pytest.raises(DatasetError, match=r"MetaOptNet, but CIFAR_FS_val\.pickle is missing"):
        import_dataset("cifar-fs", folder)


def test_a_missing_class_is_named(tiny, tmp_path):
    del tiny.cifar["fox"]
    with pytest.raises(DatasetError, match="but data/fox is missing"):
        import_dataset("cifar-fs", write_image_zip(tmp_path / "c.zip", tiny.cifar))


def test_a_class_with_too_few_images_is_named(tiny, tmp_path):
    tiny.cifar["fox"] = tiny.cifar["fox"][:-1]
    with pytest.raises(DatasetError, match=r"class 'fox' should have 6 images of 32 x 32 x 3 pixels, .* has 5"):
        import_dataset("cifar-fs", write_image_zip(tmp_path / "c.zip", tiny.cifar))


def test_an_image_of_another_size_is_refused(tiny, tmp_path):
    tiny.cifar["fox"] = np.zeros((6, 16, 16, 3), np.uint8)
    with pytest.raises(DatasetError, match=r"fox_s_000000\.png of class fox cannot be read: 16 x 16 pixels, not 32"):
        import_dataset("cifar-fs", write_image_zip(tmp_path / "c.zip", tiny.cifar))


def test_labels_that_do_not_fit_the_images_are_refused(tiny, tmp_path):
    folder = write_pickles(tmp_path / "p", tiny.cifar, "cifar-fs")
    content = pickle.loads((folder / "CIFAR_FS_val.pickle").read_bytes())
    for labels, complaint in (
        (content["labels"][:-1], "has 12 images but 11 labels"),
        (["a"] * 12, "should be a list of whole numbers"),
    ):
        (folder / "CIFAR_FS_val.pickle").write_bytes(pickle.dumps({**content, "labels": labels}))
        with pytest.raises(DatasetError, match=complaint):
            import_dataset("cifar-fs", folder)


def test_the_size_of_cifar_is_not_changed_unasked_or_asked(tiny, tmp_path):
    source = write_image_zip(tmp_path / "c.zip", tiny.cifar)
    assert import_dataset("cifar-fs", source, size=32).novel.images.shape[1:] == (32, 32, 3)
    with pytest.raises(DatasetError, match="stored as published, 32 x 32"):
        import_dataset("cifar-fs", source, size=84)


def test_a_truncated_archive_is_refused_and_leaves_nothing(tiny, tmp_path, home):
    whole = write_image_zip(tmp_path / "c.zip", tiny.cifar).read_bytes()
    cut = tmp_path / "cut.zip"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match="not a complete zip archive"):
        import_dataset("cifar-fs", cut)
    assert not (home / "datasets").exists()


def test_a_damaged_image_is_named(tiny, tmp_path):
    path = tmp_path / "c"
    unzipped(write_image_zip(tmp_path / "c.zip", tiny.cifar), path)
    (path / "cifar100" / "data" / "bee" / "bee_s_000003.png").write_bytes(b"\x89PNG\r\n\x1a\nnot a picture")
    with pytest.raises(DatasetError, match=r"bee_s_000003\.png of class bee cannot be read: (damaged|not an image)"):
        import_dataset("cifar-fs", path)


def test_a_member_that_claims_to_be_huge_is_not_unpacked(tiny, tmp_path):
    path = write_image_zip(tmp_path / "c.zip", tiny.cifar)
    noise = np.random.default_rng(0).bytes(1 << 17)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("cifar100/data/apple/huge.png", noise)
    with pytest.raises(DatasetError, match=r"131\.1 kB; at most 65\.5 kB were expected"):
        import_dataset("cifar-fs", path)


def test_an_archive_of_something_else_is_answered_with_what_to_obtain(tiny, tmp_path):
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("photos/readme.txt", "hello")
    with pytest.raises(DatasetError, match=r"no known layout of cifar-fs. Obtain CIFAR-100"):
        import_dataset("cifar-fs", tmp_path / "c.zip")


def test_a_layout_of_another_benchmark_is_named(tiny, tmp_path):
    with pytest.raises(DatasetError, match=r"which gives cifar-fs or fc100.*, not mini-imagenet"):
        import_dataset("mini-imagenet", write_image_zip(tmp_path / "c.zip", tiny.cifar))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"nothing\.zip does not exist"):
        import_dataset("cifar-fs", tmp_path / "nothing.zip")


@pytest.mark.parametrize(("dataset", "counts"), [("cifar-fs", (64, 16, 20)), ("fc100", (60, 20, 20))])
def test_official_splits_have_disjoint_classes_of_the_published_counts(dataset, counts):
    splits = official_classes(dataset)
    assert tuple(len(splits[name]) for name in ("base", "validation", "novel")) == counts
    assert len(set().union(*splits.values())) == 100


def test_opening_before_importing_says_how_to_import():
    with pytest.raises(DatasetError, match="fewshot-bench data get cifar-fs"):
        open_dataset("cifar-fs")


def test_an_unknown_dataset_is_answered_with_the_nearest_name():
    with pytest.raises(UnknownNameError, match="It is called cifar-fs"):
        open_dataset("cifarfs")
    with pytest.raises(DatasetError, match="glyphs is built in"):
        import_dataset("glyphs", Path("x.zip"))


@pytest.fixture(scope="module")
def real(cifar_zip):
    """The images of the real CIFAR-100 by class."""
    classes: dict[str, list[np.ndarray]] = {}
    with zipfile.ZipFile(cifar_zip) as archive:
        for member in archive.namelist():
            if member.endswith(".png"):
                with Image.open(io.BytesIO(archive.read(member))) as image:
                    classes.setdefault(member.split("/")[2], []).append(np.asarray(image.convert("RGB")))
    return {name: np.stack(images) for name, images in classes.items()}


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["cifar-fs", "fc100"])
def test_the_real_images_agree_across_the_zip_torchvision_and_pickles(real, cifar_zip, tmp_path, dataset):
    reference = import_dataset(dataset, cifar_zip)
    assert reference.preprocessing["pixels"] == "as published"
    for layout in ("torchvision's folder", "FC100 pickles"):
        folder = tmp_path / layout.split()[0]
        folder.mkdir()
        again = import_dataset(dataset, LAYOUTS[layout](folder, real), replace=True)
        assert (again.fingerprint, again.preprocessing["pixels"]) == (reference.fingerprint, "as published"), layout
        shutil.rmtree(folder)
