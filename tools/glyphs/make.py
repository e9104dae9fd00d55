"""Make the built-in dataset: `PYTHONPATH=tools python -m glyphs.make`.

Needs Matplotlib's fonts (`pip install 'fewshot-bench[glyphs]'`). Another version of FreeType may draw single pixels
differently, so what counts is the shipped file, whose digest is frozen in `fewshot_bench.datasets.glyphs`.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fewshot_bench.datasets.dataset import SPLIT_NAMES, SplitName
from fewshot_bench.datasets.glyphs import GLYPHS_SHA256, read_mosaic
from fewshot_bench.errors import DatasetError, FewshotBenchError
from glyphs.look_alikes import choose, look_alikes
from glyphs.mosaic import write_mosaic
from glyphs.render import fonts_with
from glyphs.scripts import SCRIPTS, SEED, character_of, class_name, class_names
from glyphs.sheet import save_sheet
from glyphs.vary import image_of

IMAGES_PER_CLASS = 60
_TOLERANCE = 0.02


def make_glyphs(names: dict[SplitName, tuple[str, ...]], images_per_class: int) -> bytes:
    """Render the classes of all splits.

    Args:
        names: class names of each split.
        images_per_class: how many images each class has.

    Returns:
        The bytes of the file to ship.
    """
    levels = {
        split: np.stack(
            [
                np.stack([image_of(character_of(name), SEED, number) for number in range(images_per_class)])
                for name in classes
            ]
        )
        for split, classes in names.items()
    }
    return write_mosaic(levels, names)


def choose_classes() -> dict[str, tuple[str, ...]]:
    """Choose the classes of each script anew, as the table in `classes.py` was chosen."""
    candidates = {}
    for name, script in SCRIPTS.items():
        letters = [letter for letter in script.letters() if fonts_with(letter)]
        order = np.random.Generator(np.random.Philox(key=SEED)).permutation(len(letters))
        candidates[name] = [letters[position] for position in order]
    chosen = choose(candidates, SCRIPTS)
    return {script: tuple(sorted(map(class_name, characters))) for script, characters in chosen.items()}


def check_look_alikes(names: dict[SplitName, tuple[str, ...]]) -> None:
    """Refuse classes that could be taken for one another.

    Raises:
        DatasetError: two classes are nearer than the limits allow.
    """
    characters = {split: [character_of(name) for name in classes] for split, classes in names.items()}
    pairs = look_alikes(characters, _TOLERANCE)
    if pairs:
        first, second, value = max(pairs, key=lambda pair: pair[2])
        raise DatasetError(
            f"{class_name(first)} and {class_name(second)} look alike (similarity {value:.2f});"
            " classes of glyphs must differ. Choose others with --choose."
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        if options.choose:
            for script, chosen in choose_classes().items():
                print(f"{script}: {len(chosen)} of {SCRIPTS[script].quota}", *chosen, sep="\n    ")
        else:
            _make(options.out, options.sheet)
    except FewshotBenchError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _make(out: Path, sheet: Path | None) -> None:
    names = {split: class_names(split) for split in SPLIT_NAMES}
    check_look_alikes(names)
    content = make_glyphs(names, IMAGES_PER_CLASS)
    out.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    verdict = "the same as" if digest == GLYPHS_SHA256 else "not the same as"
    print(f"{out}: {len(content):,} bytes, sha256 {digest}, {verdict} the shipped file")
    if sheet is not None:
        save_sheet(read_mosaic(content), sheet)
        print(f"{sheet}: {sheet.stat().st_size:,} bytes")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m glyphs.make", description="Make the built-in dataset glyphs.")
    parser.add_argument("--out", type=Path, default=Path("glyphs.png"), help="the file to write (glyphs.png)")
    parser.add_argument("--sheet", type=Path, help="also write a contact sheet, a PNG, here")
    parser.add_argument("--choose", action="store_true", help="only choose the classes anew and print them")
    return parser


if __name__ == "__main__":
    sys.exit(main())
