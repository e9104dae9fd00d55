"""Every test has a home of its own; the real CIFAR-100 is used where it is."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from forked_commands import forks  # noqa: F401  # a fixture
from tiny_benchmarks import tiny  # noqa: F401  # a fixture

from fewshot_bench import registry
from fewshot_bench.adaptation import ADAPTATIONS
from fewshot_bench.backbones import BACKBONES
from fewshot_bench.datasets import DATASETS
from fewshot_bench.datasets.dataset import Dataset, ImageSplit, SplitName, split_fingerprint
from fewshot_bench.losses import LOSSES

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:  # each test process is one of several: neither it nor the commands it starts take the others' cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1 if WORKERS > 1 else 2)

# Under `nohup ... &` the tests ignore these signals, and so would the processes that they start and signal: what is
# ignored is inherited. A function does the same here, and a started process begins with the system's default.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)


def pytest_collection_finish() -> None:
    """Spare garbage collections what is imported by now: statsmodels collects in every correction of p values."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home for datasets and caches."""
    folder = tmp_path / "home"
    monkeypatch.setenv("FEWSHOT_BENCH_HOME", str(folder))
    return folder


@pytest.fixture(scope="module", autouse=True)
def registries() -> Iterator[None]:
    """Code that the tests of a file admit is unknown to those of the next."""
    several = (ADAPTATIONS, BACKBONES, DATASETS, LOSSES)
    entries, names = [(dict(one._entries), dict(one._admitted)) for one in several], dict(registry._ADMITTED)
    yield
    for one, (known, admitted) in zip(several, entries, strict=True):
        one._entries, one._admitted = known, admitted
    registry._ADMITTED.clear()
    registry._ADMITTED.update(names)


@pytest.fixture(scope="session")
def cifar_zip() -> Path:
    """The real cifar100.zip of the CIFAR-FS distribution."""
    beside = Path(__file__).parents[2] / "shared" / "data" / "cifar100.zip"
    path = Path(os.environ.get("FEWSHOT_BENCH_CIFAR_ZIP", beside))
    if not path.is_file():
        pytest.skip("the real cifar100.zip is not here; set FEWSHOT_BENCH_CIFAR_ZIP to run this test")
    return path


def toy_split(
    name: SplitName = "novel", *, classes: int = 8, images: int = 24, size: int = 16, channels: int = 3, seed: int = 0
) -> ImageSplit:
    """A split whose classes differ by mean colour, so that anything that works beats chance."""
    generator = np.random.default_rng([seed, classes])
    means = generator.integers(30, 220, size=(classes, 1, 1, 1, channels))
    noise = generator.normal(0, 25, size=(classes, images, size, size, channels))
    pixels = np.clip(means + noise, 0, 255).astype(np.uint8).reshape(-1, size, size, channels)
    names = tuple(f"{name}-{number}" for number in range(classes))
    sizes = (images,) * classes
    return ImageSplit("toy", name, pixels, names, sizes, split_fingerprint(pixels, names, sizes))


@pytest.fixture
def toy() -> Dataset:
    """A dataset of three small splits."""
    return Dataset(
        "toy",
        {
            "base": toy_split("base", classes=6, seed=1),
            "validation": toy_split("validation", classes=5, seed=2),
            "novel": toy_split("novel", seed=3),
        },
    )
