"""Which scripts each split is made of, and how a class is named after its character.

A script belongs to one split only. Which of its characters became classes is in `classes.py`.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from fewshot_bench.datasets.dataset import SplitName
from glyphs.classes import CLASSES

SEED = 1


@dataclass(frozen=True)
class Script:
    """Where a script's letters lie in Unicode, and how many of them its split should take."""

    split: SplitName
    quota: int
    blocks: tuple[tuple[int, int], ...]

    def letters(self) -> list[str]:
        """Letters that are neither composed with a mark nor mere finals (small signs), in code point order."""
        characters = [chr(code) for first, last in self.blocks for code in range(first, last + 1)]
        letters = [c for c in characters if unicodedata.category(c) in ("Lu", "Ll", "Lo")]
        return [c for c in letters if not unicodedata.decomposition(c) and "FINAL" not in unicodedata.name(c)]


SCRIPTS: dict[str, Script] = {
    "arabic": Script("novel", 6, ((0x0621, 0x064A),)),
    "georgian": Script("novel", 6, ((0x10D0, 0x10F0),)),
    "lao": Script("novel", 8, ((0x0E81, 0x0EAE),)),
    "nko": Script("validation", 7, ((0x07CA, 0x07E7),)),
    "tifinagh": Script("validation", 9, ((0x2D30, 0x2D65),)),
    "armenian": Script("base", 7, ((0x0531, 0x0556), (0x0561, 0x0586))),
    "canadian_syllabics": Script("base", 31, ((0x1401, 0x15FF),)),
    "cyrillic": Script("base", 7, ((0x0410, 0x044F),)),
    "greek": Script("base", 5, ((0x0391, 0x03C9),)),
    "hebrew": Script("base", 6, ((0x05D0, 0x05EA),)),
    "old_italic": Script("base", 8, ((0x10300, 0x10323),)),
}


def class_name(character: str) -> str:
    """The class of a character: its Unicode name, in lower case and without blanks."""
    return unicodedata.name(character).lower().replace(" ", "_")


def character_of(name: str) -> str:
    """The character of a class."""
    return unicodedata.lookup(name.replace("_", " ").upper())


def class_names(split: SplitName) -> tuple[str, ...]:
    """The classes of a split in canonical order, [C]."""
    return tuple(sorted(name for script, names in CLASSES.items() if SCRIPTS[script].split == split for name in names))
