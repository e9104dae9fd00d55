"""Text from elsewhere, made fit for one line of a terminal.

Text that a spreadsheet shows instead of running: formulas lose their power in a CSV, and get their name back.
"""

from __future__ import annotations

import re


def printable(text: str) -> str:
    """Text of a stranger's file, in which nothing can move the cursor, change a colour or begin another line.

    Args:
        text: e.g. the name of a method or of a dataset.

    Returns:
        As many characters; each control, line break, direction mark and lone surrogate is U+FFFD.
    """
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


# A spreadsheet takes what starts with one of these for a formula (OWASP, CSV injection). Apostrophes before it are
# counted in, so that reading back takes off exactly the one that writing has put on.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


def guarded(text: str) -> str:
    """Put an apostrophe before text that a spreadsheet would take for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def unguarded(text: str) -> str:
    """What `guarded` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text
