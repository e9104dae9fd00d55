"""Text that a spreadsheet shows instead of running: formulas lose their power in a CSV, and get their name back."""

from __future__ import annotations

import re

# A spreadsheet takes what starts with one of these for a formula (OWASP, CSV injection). Apostrophes before it are
# counted in, so that reading back takes off exactly the one that writing has put on.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


def guarded(text: str) -> str:
    """Put an apostrophe before text that a spreadsheet would take for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def unguarded(text: str) -> str:
    """What `guarded` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text
