"""Oxford 102 Flowers (Nilsback and Zisserman, 2008): jpg/image_<number>.jpg, imagelabels.mat, setid.mat.

The images may still be in 102flowers.tgz. torchvision's Flowers102 opens nothing but a folder called flowers-102;
reading it here serves other folders and archives as well. A test holds both to the same images and labels. The .mat
files are read, as torchvision does, by `scipy.io.loadmat`, and only if they are the published ones: damage in such a
file can end the whole process within SciPy. A class is called by its official number: the files hold no names.
"""

from __future__ import annotations

import hashlib
import io
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.datasets.dataset import SplitName
from fewshot_bench.datasets.importers.classification.listing import (
    Part,
    find_part,
    imported,
    listed_images,
    present_files,
)
from fewshot_bench.datasets.importers.found import Found, Imported, ImportRequest
from fewshot_bench.datasets.sources import FileTree
from fewshot_bench.errors import DatasetError

_LAYOUT = "Oxford 102 Flowers"
_IDS: dict[SplitName, str] = {"train": "trnid", "validation": "valid", "test": "tstid"}
_LARGEST_LIST = 1 << 16  # the larger has 15 KB

LIST_MD5 = {"imagelabels.mat": "e0620be6f572b9609742df49c70aed4d", "setid.mat": "a5357ecc9cb78c4bef273ce3793fc85c"}
"""Of the published files, as torchvision knows them."""


def find_flowers_102(tree: FileTree) -> Found | None:
    """The folder with the .mat files."""
    part = find_part(tree, ("jpg",), ("102flowers.tgz", "102flowers.tar"))
    missing = tuple(name for name in LIST_MD5 if not tree.has_file(name)) + (() if part else ("jpg or 102flowers.tgz",))
    if len(missing) > 1:
        return None
    return Found(_LAYOUT, tree.path, ("flowers-102",), partial(_read, tree, part or Part(tree, ("jpg",))), missing)


def _read(tree: FileTree, part: Part, request: ImportRequest) -> Imported:
    labels = _numbers(tree, "imagelabels.mat", "labels")
    images, folder = part.opened(request.stack)
    present = present_files(images, folder)
    splits = {}
    for split, key in _IDS.items():
        classes: dict[str, list[str]] = {}
        for image in _numbers(tree, "setid.mat", key).tolist():
            classes.setdefault(f"{labels[image - 1]:03d}", []).append(f"image_{image:05d}.jpg")
        splits[split] = {
            name: listed_images(images, folder, name, files, present) for name, files in sorted(classes.items())
        }
    return imported(request, _LAYOUT, splits)


def _numbers(tree: FileTree, file: str, name: str) -> NDArray[np.int64]:
    """One row of whole numbers of a published MATLAB file.

    Raises:
        DatasetError: it is another file.
    """
    from scipy.io import loadmat

    content = tree.read(file, limit=_LARGEST_LIST)
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != LIST_MD5[file]:
        raise DatasetError(f"{tree.path / file} is not the published file, by its md5. Obtain it again.")
    held: dict[str, Any] = loadmat(io.BytesIO(content), variable_names=[name])  # type: ignore[arg-type]  # stubs: paths
    return np.asarray(held[name]).ravel().astype(np.int64)
