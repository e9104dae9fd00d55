"""Time imports side by side with bare loops of Pillow over the same files, and the opening of what was imported.

    python benchmarks/importing.py --cifar cifar100.zip    # the real archive, and made-up ones of the ImageNet kind
    python benchmarks/importing.py                         # the made-up ones only
    python benchmarks/importing.py --images 20000          # more images in each of those

An import reads, decodes and resizes every image, digests and writes it, and looks for duplicates; the bare loop reads,
decodes and resizes, on one core, and keeps nothing. Repeats alternate between the two, so that a busy machine slows
both; the ratio is that of the medians. The last table imports pickles of PNGs of two sizes, each in a process of its
own: what memory it needs must not grow with the images.
"""

from __future__ import annotations

import argparse
import io
import os
import pickle
import platform
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL
from PIL import Image

from fewshot_bench._io.locations import HOME_VARIABLE
from fewshot_bench.datasets import OwnOptions, import_dataset, import_own_images, open_dataset
from fewshot_bench.units import rate_text

CLASSES = 20
JPEG_SIZE = (500, 375)  # the usual size of an image of ILSVRC-2012
STORED_SIZE = 84
Made = TypeVar("Made")
Members = Callable[[Path], Iterator[bytes]]


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, help="cifar100.zip of the CIFAR-FS distribution")
    parser.add_argument("--images", type=int, default=4000, help="images of each made-up source")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(own_memory(arguments.memory_of))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ[HOME_VARIABLE] = str(Path(folder) / "home")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        print(f"Pillow {PIL.__version__}, numpy {np.__version__}, Python {platform.python_version()}; {cores} cores\n")
        print("| source | images | import, images/s | bare Pillow loop, images/s | import takes | open, ms |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        if arguments.cifar:
            compare(
                "cifar100.zip, PNG 32 x 32",
                lambda: import_dataset("cifar-fs", arguments.cifar, replace=True).name,
                lambda: bare_loop(zip_members(arguments.cifar), None),
                arguments.repeats,
            )
        for source, members in made_up_sources(Path(folder), arguments.images):
            compare(
                source.name,
                partial(import_jpegs, source),
                partial(loop_over, members, source),
                arguments.repeats,
            )
        print("\n| pickle of PNGs | file, MB | memory of its reader, MiB |\n| ---: | ---: | ---: |")
        for count in (arguments.images, 4 * arguments.images):
            path = write_png_pickle(Path(folder) / f"{count}.pkl", count)
            command = [sys.executable, __file__, "--memory-of", str(path)]
            peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
            print(f"| {count:,} | {path.stat().st_size / 1e6:,.0f} | {float(peak):,.0f} |")
            path.unlink()


def compare(label: str, ours: Callable[[], str], theirs: Callable[[], int], repeats: int) -> None:
    """Alternate between an import and a bare loop and print a row."""
    times: dict[str, list[float]] = {"ours": [], "theirs": [], "open": []}
    for _ in range(repeats):
        images, seconds = timed(theirs)
        times["theirs"].append(seconds)
        name, seconds = timed(ours)
        times["ours"].append(seconds)
        times["open"].append(timed(partial(open_dataset, name))[1])
    ours_s, theirs_s, open_s = (statistics.median(times[key]) for key in ("ours", "theirs", "open"))
    print(
        f"| {label} | {images:,} | {rate_text(images / ours_s)} | {rate_text(images / theirs_s)} | "
        f"{ours_s / theirs_s:.2f} times as long | {1000 * open_s:.1f} |",
        flush=True,
    )


def timed(call: Callable[[], Made]) -> tuple[Made, float]:
    """What a call gives, and the seconds it takes."""
    began = time.perf_counter()
    made = call()
    return made, time.perf_counter() - began


def import_jpegs(source: Path) -> str:
    """Import made-up images as somebody's own."""
    options = OwnOptions(size=STORED_SIZE, fit="squash", interpolation="lanczos")
    return import_own_images("made-up", str(source), options, replace_stored=True).name


def loop_over(members: Members, source: Path) -> int:
    """The bare loop over a made-up source."""
    return bare_loop(members(source), STORED_SIZE)


def bare_loop(files: Iterator[bytes], size: int | None) -> int:
    """Decode and resize; returns the number of images."""
    count = 0
    for content in files:
        with Image.open(io.BytesIO(content)) as image:
            pixels = image.convert("RGB")
            np.asarray(pixels if size is None else pixels.resize((size, size), Image.Resampling.LANCZOS))
        count += 1
    return count


def zip_members(path: Path) -> Iterator[bytes]:
    """Every image of a zip."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith((".png", ".jpg")):
                yield archive.read(name)


def tar_members(path: Path) -> Iterator[bytes]:
    """Every image of a tar."""
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None:
                yield file.read()


def folder_files(path: Path) -> Iterator[bytes]:
    """Every image of a folder of class folders."""
    for file in sorted(path.glob("*/*")):
        yield file.read_bytes()


def made_up_sources(folder: Path, images: int) -> Iterator[tuple[Path, Members]]:
    """JPEGs of the size of ILSVRC's in a folder, a zip and a tar."""
    source = folder / f"folder of JPEG {JPEG_SIZE[0]} x {JPEG_SIZE[1]}"
    for label in range(CLASSES):
        (source / f"class {label}").mkdir(parents=True)
        for number in range(images // CLASSES):
            (source / f"class {label}" / f"{number}.jpg").write_bytes(picture(label, number, JPEG_SIZE, "JPEG"))
    yield source, folder_files
    packed = folder / "zip of the same.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for file in sorted(source.glob("*/*")):
            archive.write(file, file.relative_to(source))
    yield packed, zip_members
    tarred = folder / "tar of the same.tar"
    with tarfile.open(tarred, "w") as tar:
        tar.add(source, "images")
    yield tarred, tar_members


def picture(label: int, number: int, size: tuple[int, int], form: str) -> bytes:
    """An image file with the detail of a photograph, about 100 KB as a JPEG of that size."""
    generator = np.random.default_rng([label, number])
    coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    noisy = np.asarray(coarse).astype(np.int16) + generator.normal(0, 12, (size[1], size[0], 3)).astype(np.int16)
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, form, quality=90)
    return file.getvalue()


def write_png_pickle(path: Path, count: int) -> Path:
    """The form of Ren et al.'s tieredImageNet: a list of PNGs as arrays of bytes."""
    some = [np.frombuffer(picture(0, number, (STORED_SIZE, STORED_SIZE), "PNG"), np.uint8) for number in range(100)]
    with path.open("wb") as file:
        pickle.dump([some[number % 100].copy() for number in range(count)], file, protocol=4)
    return path


def own_memory(path: Path) -> float:
    """MiB of its own, without mapped files, that a process holds when it has read every image of such a pickle."""
    from fewshot_bench.datasets.images import Preprocessing
    from fewshot_bench.datasets.sources.safe_pickle import read_pickle

    recipe = Preprocessing()
    items = read_pickle(path)
    for item in items:
        recipe.decode(item.tobytes())
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("RssAnon:")]
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
