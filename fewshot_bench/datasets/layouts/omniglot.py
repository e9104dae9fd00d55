"""Omniglot (Lake et al., 2015): images_background and images_evaluation, as folders or as the zips of its authors.

Each holds <alphabet>/character<number>/<number of the character>_<drawing>.png, 105 x 105 pixels, black on white.

- omniglot: Vinyals et al. (2016) train on 1,200 characters of both sets and test on the other 423, and make four
  classes of each character by rotation. Snell et al. (2017) publish which, with 172 of the 1,200 for validation.
- omniglot-lake: the two sets of Lake et al., without rotations and without validation.

An image is turned after it was brought to size, so the four classes of a character hold the same pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.datasets.dataset import SplitName
from fewshot_bench.datasets.images import DecodedSplit, ListedSplit, Preprocessing
from fewshot_bench.datasets.layouts import Found, Imported, ImportRequest
from fewshot_bench.datasets.layouts.classification import Part, Parts, PartSpec
from fewshot_bench.datasets.official_splits import ROTATIONS, official_class_sizes, omniglot_characters
from fewshot_bench.datasets.sources import FileTree
from fewshot_bench.datasets.sources.tree import within
from fewshot_bench.errors import DatasetError

_LAYOUT = "Omniglot"
_SIZE = 28
_PARTS = {name: PartSpec((f"images_{name}",), (f"images_{name}.zip",)) for name in ("background", "evaluation")}
_LARGEST_PNG = 1 << 16  # an image of 105 x 105 bits has 1.4 KB of pixels
_KEPT = 4096  # decoded images: more than the rotations of one character that are read at a time

Place = tuple[FileTree, str, int]
"""The tree that holds a drawing, its path there, and its quarter turns."""


def find_omniglot(tree: FileTree) -> Found | None:
    """The two sets, as torchvision unpacks or downloads them."""
    found = {name: part for name, spec in _PARTS.items() if (part := spec.find(tree)) is not None}
    if not found:
        return None
    missing = tuple(f"images_{name} (or images_{name}.zip)" for name in _PARTS if name not in found)
    return Found(_LAYOUT, tree.path, ("omniglot", "omniglot-lake"), partial(_read, tree, found), missing)


def _read(tree: FileTree, found: Mapping[str, Part], request: ImportRequest) -> Imported:
    parts = Parts(tree, found, request.stack)
    side = request.size or _SIZE
    preprocessing = Preprocessing(side, request.fit or "squash", request.interpolation or "lanczos")

    @lru_cache(maxsize=_KEPT)
    def upright(images: FileTree, file: str) -> NDArray[np.uint8]:
        return preprocessing.decode(images.read(file, limit=_LARGEST_PNG))[..., :1]

    def load(place: Place) -> NDArray[np.uint8]:
        images, file, quarter_turns = place
        return np.rot90(upright(images, file), quarter_turns)

    splits: dict[SplitName, DecodedSplit] = {}
    for split, sizes in official_class_sizes(request.dataset).items():
        listed = ListedSplit({name: _drawings(parts, name) for name in sizes}, load)
        step = request.stack.enter_context(request.progress.step(f"reading the {split} split", len(listed)))
        splits[split] = DecodedSplit(listed, preprocessing, (side, side, 1), step)
    facts = {"source": _LAYOUT} | preprocessing.as_dict()
    if request.dataset == "omniglot":
        facts["rotations"] = list(ROTATIONS)
    return Imported(splits, facts, "names")


def _drawings(parts: Parts, label: str) -> list[tuple[str, Place]]:
    """Name and place of the drawings of a class, a character or a rotation of one; raises DatasetError if one lacks."""
    character, _, rotation = label.partition("/rot")
    part, names = omniglot_characters()[character]
    tree, top = parts[part]
    folder = within(top, character)
    try:
        present = set(tree.files(folder))
    except DatasetError:  # it, or the folder of its alphabet, is missing
        present = set()
    absent = [name for name in names if name not in present]
    if absent:
        raise DatasetError(
            f"character {character} has {len(names)} drawings; the source lacks {len(absent)} of them ({absent[0]} in "
            f"{tree.path / folder}). Obtain the whole dataset."
        )
    quarter_turns = ROTATIONS.index(int(rotation or 0))
    return [(name, (tree, within(folder, name), quarter_turns)) for name in names]
