"""A thousand damaged sources: each is imported, or refused in one line, and nothing is left behind."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from archives import tarred, zipped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import DAMAGES, damaged
from PIL import Image
from samples import (
    cifar_fs_pickles,
    class_folder_tar,
    class_folder_zip,
    class_images,
    files_in,
    mini_cache_pickles,
    state_of,
    tadam_npz,
    write_folder,
    write_zip,
)
from tiny_benchmarks import RANKS, TinyBenchmarks

from fewshot_bench.datasets import OwnOptions, import_dataset, import_own_images
from fewshot_bench.datasets.check import check_dataset, check_place
from fewshot_bench.errors import FewshotBenchError

pytestmark = pytest.mark.slow

EXAMPLES = 72  # of each of the fourteen samples


def mini() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(5)
    return {name: generator.integers(0, 256, (len(ranks), 12, 12, 3), dtype=np.uint8) for name, ranks in RANKS.items()}


def jpegs(folder: Path) -> Path:
    (folder / "cat").mkdir(parents=True)
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "cat" / f"{number}.jpg")
    return folder


SAMPLES: dict[str, Callable[[Path, TinyBenchmarks], Path]] = {
    "zip of class folders": lambda at, _: class_folder_zip(at / "a.zip"),
    "zip that is not compressed": lambda at, _: write_zip(at / "a.zip", class_images(), compression=0),
    "tar of class folders": lambda at, _: class_folder_tar(at / "a.tar"),
    "tar.gz of class folders": lambda at, _: class_folder_tar(at / "a.tar.gz", compression="gz"),
    "tar.bz2 of class folders": lambda at, _: class_folder_tar(at / "a.tar.bz2", compression="bz2"),
    "tar.xz of class folders": lambda at, _: class_folder_tar(at / "a.tar.xz", compression="xz"),
    "PNG files": lambda at, _: write_folder(at / "a", class_images(("cat",))),
    "JPEG files": lambda at, _: jpegs(at / "a"),
    "CIFAR_FS pickles": lambda at, tiny: cifar_fs_pickles(at / "a", tiny.cifar),
    "CIFAR_FS pickles of Python 3": lambda at, tiny: cifar_fs_pickles(at / "a", tiny.cifar, protocol=4),
    "mini-imagenet-cache pickles": lambda at, _: mini_cache_pickles(at / "a", mini()),
    "npz files": lambda at, tiny: tadam_npz(at / "a", tiny.cifar),
    "zip of pickles": lambda at, tiny: zipped(cifar_fs_pickles(at / "a", tiny.cifar), at / "a.zip"),
    "tar.gz of npz files": lambda at, tiny: tarred(tadam_npz(at / "a", tiny.cifar), at / "a.tar.gz", "w:gz"),
}
WAYS_IN: dict[str, Callable[[Path], object]] = {
    "own images": lambda path: import_own_images("mine", str(path), OwnOptions(), replace_stored=True),
    "cifar-fs": lambda path: import_dataset("cifar-fs", path, replace=True),
    "mini-imagenet": lambda path: import_dataset("mini-imagenet", path, size=8, replace=True),
    "check": check_place,
}
STORED = {"own images": "mine", "cifar-fs": "cifar-fs", "mini-imagenet": "mini-imagenet"}

choices = st.lists(
    st.tuples(
        st.sampled_from(sorted(DAMAGES)), st.integers(0, 65535), st.integers(0, 65535), st.integers(0, 255)
    ),
    min_size=1,
    max_size=4,
)  # fmt: skip


@pytest.fixture(params=SAMPLES)
def sample(request: pytest.FixtureRequest, tmp_path: Path, tiny: TinyBenchmarks) -> Iterator[Path]:
    """A whole sample, between other people's files."""
    write_folder(tmp_path, [("precious.txt", b"1"), ("place/beside/precious.txt", b"2")])
    (tmp_path / "sample").mkdir()
    source = SAMPLES[request.param](tmp_path / "sample", tiny)
    for extra in (tmp_path / "sample").iterdir():
        if extra != source:
            shutil.rmtree(extra)
    return source


def test_every_sample_is_whole(sample):
    """Otherwise nothing below would reach an importer."""
    accepted = {way_in for way_in, read in WAYS_IN.items() if not refusal(read, sample)}
    assert "check" in accepted
    assert len(accepted) == 2


def refusal(read: Callable[[Path], object], place: Path) -> str:
    """Why a source is refused; empty if it is not."""
    try:
        read(place)
    except FewshotBenchError as error:
        return str(error)
    return ""


@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(which=st.integers(0, 2), damage=choices)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_source_is_imported_or_refused_in_one_line(sample, home, tmp_path, which, damage):
    place = Path(tempfile.mkdtemp(dir=tmp_path / "place")) / sample.name
    shutil.copytree(sample, place) if sample.is_dir() else shutil.copy(sample, place)
    files = sorted(path for path in place.rglob("*") if path.is_file()) or [place]
    file = files[which % len(files)]
    file.write_bytes(damaged(file.read_bytes(), damage))
    before = state_of(tmp_path)
    for way_in, read in WAYS_IN.items():
        refused = refusal(read, place)
        assert len(refused.splitlines()) <= 1
        if not refused and way_in in STORED:
            assert check_dataset(STORED[way_in], deep=True).facts["damaged_splits"] == []
            shutil.rmtree(home / "datasets" / STORED[way_in])
        left = {name for name in files_in(home) if not name.endswith(".lock")} if home.exists() else set()
        assert not left, way_in
    shutil.rmtree(home, ignore_errors=True)
    assert state_of(tmp_path) == before
    shutil.rmtree(place.parent)
