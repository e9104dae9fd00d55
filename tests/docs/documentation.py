"""The Markdown pages of the repository: their links, anchors and code, for tests of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
"""What the site shows."""
ALL_PAGES = [
    *PAGES,
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *sorted(path for path in (ROOT / "results").rglob("README.md") if "outcomes" not in path.parts),
]
"""What GitHub shows, too."""

_FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_CELL = re.compile(r"^```\{code-cell\} ipython3\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    """The path of a page in the repository, to name a test."""
    return page.relative_to(ROOT).as_posix()


def links(page: Path) -> list[str]:
    """The targets of all links and images of a page that are in the repository."""
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    return [target for target in _LINK.findall(text) if "://" not in target and not target.startswith("mailto:")]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCED.sub("", page.read_text(encoding="utf-8"))):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", words.strip().lower()).replace(" ", "-")
        found.add(slug if slug not in found else f"{slug}-1")
    return found


def code(page: Path) -> str:
    """All code of a page: fenced, indented and within sentences."""
    text = page.read_text(encoding="utf-8")
    fenced, others = _FENCED.findall(text), _FENCED.sub("", text)
    indented = re.findall(r"^ {4}.*$", others, re.MULTILINE)
    return "\n".join([*fenced, *indented, *re.findall(r"`([^`]+)`", others)])


def cells(page: Path) -> list[str]:
    """The code cells of a page that is a notebook."""
    return _CELL.findall(page.read_text(encoding="utf-8"))
