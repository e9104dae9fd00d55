"""Text from elsewhere, made fit for one line of a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """Text of a stranger's file, in which nothing can move the cursor, change a colour or begin another line.

    Args:
        text: e.g. the name of a method or of a dataset.

    Returns:
        As many characters; each control, line break, direction mark and lone surrogate is U+FFFD.
    """
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
