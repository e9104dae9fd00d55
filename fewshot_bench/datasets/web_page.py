"""What people most often have in place of a dataset: the page that leads to it."""

from __future__ import annotations


def is_web_page(first: bytes) -> bool:
    """Whether the first bytes of a file are those of an HTML page."""
    return first.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith((b"<!doctype", b"<html"))
