"""Text of strangers, made safe for one line of a terminal and for the cells of a spreadsheet."""

from __future__ import annotations

import re


def printable(text: str) -> str:
    """Text in which nothing can move the cursor, change a colour or begin another line.

    Args:
        text: e.g. the name of a method or of a dataset.

    Returns:
        The same number of characters; each control, line break, direction mark and lone surrogate becomes U+FFFD.
    """
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


# Spreadsheets run text that starts with one of these as a formula (OWASP, CSV injection). Leading apostrophes are
# included, so that reading removes exactly the one that writing added.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


def guarded(text: str) -> str:
    """Put an apostrophe before text that a spreadsheet would run as a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def unguarded(text: str) -> str:
    """Remove the apostrophe that `guarded` added."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text
