"""Coverage-guided damage to pickles, archives, NumPy files and images: `tox -e fuzz`, or as long as you like.

    python tests/fuzz/fuzz_importers.py -runs=20000

The first byte of an input says which reader gets the rest. Whatever is read, only our own errors may come out, in one
line; anything else, a hang or a gigabyte of memory stops the run and leaves the input in a file. Options and corpus
folders are libFuzzer's; without a folder, it starts from small valid files.
"""

from __future__ import annotations

import io
import os
import pickle
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fewshot_bench.datasets", "tarfile", "zipfile"]):
    from fewshot_bench.datasets.images import Preprocessing
    from fewshot_bench.datasets.sources import FileTree, open_tree
    from fewshot_bench.datasets.sources.arrays import read_arrays
    from fewshot_bench.datasets.sources.safe_pickle import read_pickle

import numpy as np
from archives import png
from PIL import Image
from samples import class_images, write_tar, write_zip

from fewshot_bench.errors import FewshotBenchError

PLACE = Path(tempfile.mkdtemp(prefix="fuzz-importers-"))
RECIPE = Preprocessing(8, turns_by_exif=True)


def read_tree(path: Path) -> None:
    """Read every member of an archive."""
    with open_tree(path) as tree:
        for file in _files(tree, ""):
            tree.read(file, limit=1 << 20)


def _files(tree: FileTree, folder: str) -> Iterator[str]:
    yield from (f"{folder}{file}" for file in tree.files(folder.rstrip("/")))
    for name in tree.folders(folder.rstrip("/")):
        yield from _files(tree, f"{folder}{name}/")


def read_array_file(path: Path) -> None:
    """Read an npz or npy, and touch its arrays."""
    with open_tree(path.parent) as tree:
        content = read_arrays(tree, path.name)
        for array in content.values() if isinstance(content, dict) else [content]:
            if isinstance(array, np.ndarray) and array.dtype.kind in "biuf":
                array.sum()


READERS: tuple[tuple[str, Callable[[Path], object]], ...] = (
    ("a.pkl", read_pickle),
    ("a.zip", read_tree),
    ("a.tar", read_tree),
    ("a.npz", read_array_file),
    ("a.png", lambda path: RECIPE.decode(path.read_bytes())),
)


def read(data: bytes) -> None:
    """One input."""
    if not data:
        return
    name, reader = READERS[data[0] % len(READERS)]
    path = PLACE / name
    path.write_bytes(data[1:])
    try:
        reader(path)
    except FewshotBenchError as error:
        if len(str(error).splitlines()) != 1:
            raise AssertionError(f"not one line: {error!r}") from error
    finally:
        path.unlink()


def seeds() -> Iterator[bytes]:
    """Small valid inputs for every reader."""
    images = class_images(("cat",), images=1, size=4)
    array = np.arange(3, dtype=np.uint8)
    npz, npy = io.BytesIO(), io.BytesIO()
    np.savez_compressed(npz, a=array)
    np.save(npy, array)
    archives = [write_zip(io.BytesIO(), images)]
    archives += [write_tar(io.BytesIO(), images, compression=kind) for kind in ("", "gz", "bz2", "xz")]
    for protocol in range(6):
        yield b"\0" + pickle.dumps({"data": array, "labels": [1, 2, "a", b"b", None, 0.5]}, protocol=protocol)
    yield b"\1" + archives[0].getvalue()
    yield from (b"\2" + archive.getvalue() for archive in archives[1:])
    yield from (b"\3" + file.getvalue() for file in (npz, npy))
    yield b"\4" + png(np.zeros((4, 4, 3), np.uint8))
    for kind in ("JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        file = io.BytesIO()
        Image.new("RGB", (4, 4), "red").save(file, format=kind)
        yield b"\4" + file.getvalue()


def main() -> None:
    """Run libFuzzer."""
    os.environ["FEWSHOT_BENCH_HOME"] = str(PLACE / "home")
    warnings.simplefilter("ignore")  # Pillow and NumPy warn of what they then read
    arguments = list(sys.argv)
    if all(argument.startswith("-") for argument in arguments[1:]):
        corpus = PLACE / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(seeds()):
            (corpus / f"seed-{number:02d}").write_bytes(seed)
        arguments.append(str(corpus))
    atheris.Setup([arguments[0], "-max_len=32768", "-rss_limit_mb=2048", "-timeout=20", *arguments[1:]], read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
