"""`fewshot-bench data` and `run --dataset PATH` as their users type them."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from archives import png, zipped
from imagenet_files import write_category_splits, write_ilsvrc, write_mini_caches
from tiny_benchmarks import IMAGES_PER_CLASS

from fewshot_bench.cli.main import exit_code
from fewshot_bench.datasets import catalogue, open_dataset
from fewshot_bench.datasets.fetch import RemoteFile
from fewshot_bench.datasets.store import read_description


@pytest.fixture
def cifar_folder(tiny, tmp_path) -> Path:
    """The tiny CIFAR-100 as a folder of images."""
    for name, images in tiny.cifar.items():
        (tmp_path / "cifar100" / "data" / name).mkdir(parents=True)
        for number, image in enumerate(images):
            (tmp_path / "cifar100" / "data" / name / f"{number}.png").write_bytes(png(image))
    return tmp_path / "cifar100"


@pytest.fixture
def photos(tmp_path) -> Path:
    """Six classes of a few noisy squares, and one file that is no image."""
    generator = np.random.default_rng(1)
    for label in range(6):
        (tmp_path / "photos" / f"class {label}").mkdir(parents=True)
        for number in range(8 if label else 5):
            image = np.clip(generator.normal(40 * label, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
            (tmp_path / "photos" / f"class {label}" / f"{number}.png").write_bytes(png(image))
    (tmp_path / "photos" / "class 1" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    return tmp_path / "photos"


def run(*arguments: object) -> int:
    return exit_code([str(argument) for argument in arguments])


def test_import_prints_counts_recipe_fingerprint_and_what_to_type_next(cifar_folder, capsys):
    assert run("data", "import", "cifar-fs", "--from", cifar_folder) == 0
    printed = capsys.readouterr().out
    for line in (
        f"base          4 classes {4 * IMAGES_PER_CLASS:>8} images",
        "pixels      cifar100.zip, Pillow",
        f"fingerprint {open_dataset('cifar-fs').fingerprint}",
        "next        fewshot-bench run --dataset cifar-fs",
    ):
        assert line in printed


def test_check_of_a_path_says_what_it_is_and_what_to_type(cifar_folder, capsys):
    assert run("data", "check", cifar_folder.parent) == 0
    printed = capsys.readouterr().out
    assert "cifar100.zip of the CIFAR-FS distribution" in printed
    assert "complete" in printed
    assert f"fewshot-bench data import fc100 --from {cifar_folder.parent}" in printed
    for image in (cifar_folder / "data" / "fox").iterdir():
        image.unlink()
    (cifar_folder / "data" / "fox").rmdir()
    assert run("data", "check", cifar_folder.parent, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["layouts"][0]["missing"] == ["data/fox"]
    assert facts["next"] == [f"add what is missing, then: fewshot-bench data check {cifar_folder.parent}"]


def test_check_of_folders_that_share_classes_says_how_to_use_them(photos, tmp_path, capsys):
    (tmp_path / "shared").mkdir()
    for part in ("train", "test"):
        shutil.copytree(photos, tmp_path / "shared" / part)
    assert run("data", "check", tmp_path / "shared") == 0
    printed = capsys.readouterr().out
    assert f"fewshot-bench run --dataset {tmp_path / 'shared'} --split test" in printed
    assert "--split 0.6,0.2,0.2 divides the classes" in printed


def test_check_of_a_name_says_what_to_obtain_and_then_what_is_there(cifar_folder, capsys):
    assert run("data", "check", "cifar-fs") == 0
    before = capsys.readouterr().out
    assert "not here" in before
    assert "Obtain CIFAR-100" in before
    assert "fewshot-bench data get cifar-fs" in before
    run("data", "import", "cifar-fs", "--from", cifar_folder)
    capsys.readouterr()
    assert run("data", "check", "cifar-fs", "--deep") == 0
    after = capsys.readouterr().out
    assert "every one as it was stored" in after
    assert "no image lies in two splits" in after
    assert "fewshot-bench run --dataset cifar-fs" in after


def test_check_names_images_that_lie_in_two_splits(tiny, tmp_path, capsys):
    tiny.cifar["goat"][2] = tiny.cifar["bee"][1]
    for name, images in tiny.cifar.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for number, image in enumerate(images):
            (tmp_path / "data" / name / f"{number}.png").write_bytes(png(image))
    assert run("data", "import", "cifar-fs", "--from", tmp_path) == 0
    assert run("data", "check", "cifar-fs") == 0
    printed = capsys.readouterr().out
    assert "2 images have equals in another split: base/bee/" in printed
    assert "= novel/goat/" in printed


@pytest.mark.slow
def test_everything_is_checked_even_if_one_dataset_is_damaged(cifar_folder, home, capsys):
    run("data", "import", "cifar-fs", "--from", cifar_folder)
    run("data", "import", "fc100", "--from", cifar_folder)
    path = home / "datasets" / "cifar-fs" / "dataset.json"
    description = json.loads(path.read_text())
    del description["duplicates"]
    path.write_text(json.dumps(description))
    capsys.readouterr()
    assert run("data", "check") == 2
    captured = capsys.readouterr()
    assert "the stored copy of cifar-fs in" in captured.out
    assert "fc100\n  state" in captured.out
    assert "datasets are damaged: cifar-fs." in captured.err


def test_ls_shows_all_with_sizes(cifar_folder, photos, capsys):
    run("data", "import", "cifar-fs", "--from", cifar_folder)
    run("data", "import", "my-photos", "--from", photos)
    capsys.readouterr()
    assert run("data", "ls", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["cifar-fs"]["state"] == "ready"
    assert rows["cifar-fs"]["bytes"] > 8 * IMAGES_PER_CLASS * 3072
    assert rows["my-photos"]["images"] == 45
    assert rows["mini-imagenet"]["state"] == "not here"
    assert run("data", "ls") == 0
    assert "my-photos" in capsys.readouterr().out


@pytest.mark.slow
def test_own_images_run_from_where_they_lie(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    study = ("--backbone", "conv4_32", "--base-loss", "none", "--shots", "1", "--query", "5", "--episodes", "20")
    assert run("run", "--dataset", photos, *study) == 2
    captured = capsys.readouterr()
    assert "class 'class 0' of the novel split of photos has 5 images" in captured.err
    assert "--min-images 6" in captured.err
    assert run("run", "--dataset", photos, "--min-images", 6, *study) == 0
    captured = capsys.readouterr()
    assert "photos 5-way 1-shot" in captured.out
    assert "photos: class folders, resized to 16 x 16, crop, bicubic" in captured.out
    assert "left out: class 1/broken.jpg: damaged or truncated" in captured.err or "not an image" in captured.err
    assert "left out: class class 0, which has 5 images" in captured.err


@pytest.mark.slow
def test_own_classes_are_divided_by_fractions_and_a_seed(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    study = (
        "--backbone",
        "conv4_32",
        "--base-loss",
        "none",
        "--shots",
        "1",
        "--query",
        "3",
        "--episodes",
        "5",
        "--way",
        2,
    )
    drawn = {}
    for seed in (0, 1, 2, 3):
        assert run("run", "--dataset", photos, "--split", "0.5,0.2,0.3", "--seed", seed, *study) == 0
        (cell,) = [
            json.loads(p.read_text()) for p in Path("results").rglob("cell.json") if f'"seed": {seed}' in p.read_text()
        ]
        assert cell["dataset_recipe"]["divided"] == f"(0.5, 0.2, 0.3) of the classes, seed {seed}"
        drawn[seed] = cell["protocol"]["dataset_fingerprint"]
    assert len(set(drawn.values())) > 1
    capsys.readouterr()
    assert run("run", "--dataset", photos, "--split", "0.5,0.5,0.5", *study) == 2
    assert "which sum to 1, not 0.5,0.5,0.5" in capsys.readouterr().err


def test_a_lock_of_own_images_notices_other_images(photos, tmp_path, capsys):
    options = ("--dataset", "my-photos", "--way", 2, "--shots", 1, "--query", 2, "--episodes", 3, "--out", tmp_path)
    assert run("data", "import", "my-photos", "--from", photos) == 0
    assert run("episodes", "freeze", *options) == 0
    lock = tmp_path / "my-photos-2way-1shot.toml"
    assert run("episodes", "verify", lock) == 0
    assert "episodes match, images match" in capsys.readouterr().out
    (photos / "class 2" / "0.png").write_bytes(png(np.zeros((16, 16, 3), np.uint8)))
    assert run("data", "import", "my-photos", "--from", photos, "--replace") == 0
    assert run("episodes", "verify", lock) == 2
    assert "IMAGES DIFFER" in capsys.readouterr().out


def test_an_empty_path_is_not_the_current_folder(photos, monkeypatch, capsys):
    monkeypatch.chdir(photos)
    assert run("data", "import", "my-photos", "--from", "") == 2
    assert run("run", "--dataset", "") == 2
    assert len([line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]) == 2


def test_a_mistyped_benchmark_does_not_become_a_dataset_of_that_name(cifar_folder, capsys):
    assert run("data", "import", "cifarfs", "--from", cifar_folder) == 2
    assert "It is called cifar-fs" in capsys.readouterr().err


@pytest.mark.slow
def test_one_lock_file_fits_every_copy_of_a_benchmark(tiny, tmp_path, capsys):
    """Frozen on 84-pixel copies, verified on another route and size; a copy without names cannot be compared."""
    options = ("--dataset", "mini-imagenet", "--way", 2, "--shots", 1, "--query", 2, "--episodes", 7)
    assert run("data", "import", "mini-imagenet", "--from", write_mini_caches(tmp_path / "caches", tiny)) == 0
    assert run("episodes", "freeze", *options, "--out", tmp_path / "locks") == 0
    lock = tmp_path / "locks" / "mini-imagenet-2way-1shot.toml"
    run("data", "import", "mini-imagenet", "--from", write_ilsvrc(tmp_path / "tree", tiny), "--size", 40, "--replace")
    capsys.readouterr()
    assert run("episodes", "verify", lock) == 0
    assert "episodes match, images match" in capsys.readouterr().out
    source = write_category_splits(tmp_path / "gidaris", tiny)
    assert run("data", "import", "mini-imagenet", "--from", source, "--replace") == 0
    assert run("episodes", "verify", lock) == 0
    captured = capsys.readouterr()
    assert "note: the miniImageNet_category_split pickles of Gidaris keep no file names" in captured.err
    assert "episodes match, images not compared (names unknown)" in captured.out


def test_other_images_under_the_same_name_are_noticed(tiny, tmp_path, capsys):
    options = ("--dataset", "mini-imagenet", "--way", 2, "--shots", 1, "--query", 2, "--episodes", 7)
    run("data", "import", "mini-imagenet", "--from", write_mini_caches(tmp_path / "caches", tiny))
    run("episodes", "freeze", *options, "--out", tmp_path)
    lock = tmp_path / "mini-imagenet-2way-1shot.toml"
    lock.write_text(lock.read_text().replace('images = "names:', 'images = "names:0'))
    assert run("episodes", "verify", lock) == 2
    assert "IMAGES DIFFER" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["mini-imagenet", "tiered-imagenet"])
def test_terms_are_accepted_before_anything_is_downloaded(name, monkeypatch, capsys):
    monkeypatch.setattr("fewshot_bench.datasets.catalogue.zenodo_files", None)
    assert run("data", "get", name) == 2
    message = capsys.readouterr().err
    assert "ImageNet's terms of access: non-commercial research" in message
    assert "--accept-terms" in message
    assert f"fewshot-bench data import {name} --from PATH" in message


def test_get_downloads_checks_and_imports(tiny, tmp_path, home, monkeypatch, capsys):
    """The files of the public record, from a server of our own."""
    folder = write_mini_caches(tmp_path / "record", tiny, validation="validation")
    files = {
        path.name: RemoteFile(
            path.name,
            f"https://example.org/{path.name}",
            path.stat().st_size,
            f"md5:{hashlib.md5(path.read_bytes()).hexdigest()}",
        )
        for path in folder.iterdir()
    }
    fetched = []

    def fetch(file, target, *, progress):
        target.mkdir(parents=True, exist_ok=True)
        (target / file.name).write_bytes((folder / file.name).read_bytes())
        fetched.append(file.name)

    monkeypatch.setattr(catalogue, "zenodo_files", lambda record: files)
    monkeypatch.setattr("fewshot_bench.datasets.importing.fetch", fetch)
    assert run("data", "get", "mini-imagenet", "--accept-terms") == 0
    assert sorted(fetched) == sorted(files)
    assert open_dataset("mini-imagenet").identified_by == "names"
    assert not list((home / "cache").rglob("*.pkl"))
    del files["mini-imagenet-cache-test.pkl"]
    assert run("data", "get", "mini-imagenet", "--accept-terms") == 2
    assert "no longer holds mini-imagenet-cache-test.pkl" in capsys.readouterr().err


def test_a_hostile_pickle_is_one_line_and_is_not_executed(tiny, tmp_path, capsys):
    class Hostile:
        def __reduce__(self):
            return (Path.write_text, (tmp_path / "owned", "yes"))

    for part in ("train", "val", "test"):
        (tmp_path / f"CIFAR_FS_{part}.pickle").write_bytes(pickle.dumps({"data": Hostile(), "labels": []}))
    assert run("data", "import", "cifar-fs", "--from", tmp_path) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "nothing was executed" in line
    assert not (tmp_path / "owned").exists()


def test_a_zip_of_own_images_is_a_dataset(photos, tmp_path, capsys):
    archive = zipped(photos, tmp_path / "photos.zip")
    assert run("data", "import", "zipped-photos", "--from", archive, "--min-images", 6) == 0
    assert run("data", "import", "my-photos", "--from", photos, "--min-images", 6) == 0
    assert open_dataset("zipped-photos").fingerprint == open_dataset("my-photos").fingerprint
    assert read_description("zipped-photos")["recipe"]["small_classes"] == {"class 0": 5}


@pytest.fixture
def alphabets(tmp_path):
    """Characters of two alphabets, as Omniglot has them, beside a folder that is called like a split."""
    for place in ("Greek/alpha", "Greek/beta", "Latin/a", "Latin/b", "test/one", "test/two"):
        (tmp_path / "letters" / place).mkdir(parents=True)
        for number in range(4):
            image = np.random.default_rng([number, len(place)]).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            (tmp_path / "letters" / place / f"{number}.png").write_bytes(png(image))
    return tmp_path / "letters"


@pytest.mark.slow
def test_the_layout_of_folders_travels_with_a_study(alphabets, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    study = ("--backbone", "conv4_32", "--base-loss", "none", "--shots", 1, "--query", 2, "--episodes", 5, "--runs", 1)
    assert run("data", "check", alphabets) == 2
    assert "takes every folder as a class" in capsys.readouterr().err
    assert run("data", "check", alphabets, "--layout", "classes", "--class-depth", 2) == 0
    printed = capsys.readouterr().out
    assert "6 classes, 24 images" in printed
    assert f"fewshot-bench run --dataset {alphabets} --class-depth 2 --layout classes" in printed
    options = ("--class-depth", 2, "--layout", "classes")
    assert run("run", "--dataset", alphabets, *options, "--way", 6, *study, "--results", "typed") == 0
    assert "classes 2 folders deep, folders taken as classes" in capsys.readouterr().out
    run("audit", "typed", "--dataset", alphabets)
    assert "is that of the images here" in " ".join(capsys.readouterr().out.split())
    Path("study.toml").write_text(
        f'datasets = ["{alphabets}"]\nclass_depth = 2\nlayout = "classes"\nway = 6\nshots = [1]\nquery = 2\n'
        'episodes = 5\nruns = 1\nresults = "from-file"\n[[methods]]\nbackbone = "conv4_32"\nbase_losses = []\n'
    )
    assert run("run", "study.toml") == 0
    cells = [json.loads(next(Path(place).rglob("cell.json")).read_text()) for place in ("typed", "from-file")]
    assert cells[0]["protocol"] == cells[1]["protocol"]
    assert cells[0]["dataset_recipe"]["class_depth"] == cells[1]["dataset_recipe"]["class_depth"] == 2
    assert run("data", "import", "letters", "--from", alphabets, *options) == 0
    assert open_dataset("letters").fingerprint == cells[0]["protocol"]["dataset_fingerprint"]
    assert run("run", "--dataset", "letters", *options, *study) == 2
    assert "--class-depth and --layout are for own images by path" in capsys.readouterr().err
    assert run("data", "import", "cifar-fs", "--from", alphabets, "--layout", "classes") == 2


def test_what_was_left_out_is_told_with_the_error_that_it_causes(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    study = ("--backbone", "conv4_32", "--base-loss", "none", "--shots", 1, "--query", 2, "--way", 50)
    for more in ((), ("--dry-run",)):
        assert run("run", "--dataset", photos, *study, *more) == 2
        captured = capsys.readouterr()
        assert "Use --way" in captured.err + captured.out
        assert "What was left out: class 1/broken.jpg: not an image" in " ".join((captured.err + captured.out).split())
