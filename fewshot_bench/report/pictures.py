"""Pictures for papers, through Matplotlib: SVG and PNG whose bytes depend on what is drawn alone."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fewshot_bench.atomic import write_atomically
from fewshot_bench.paths import Place

FONT_SIZE = 11


class NoPictureError(Exception):
    """Something cannot be drawn; the message says why."""


@contextmanager
def drawing(width: float, height: float) -> Iterator[Any]:
    """A Matplotlib figure that no setting of the user's changes.

    Args:
        width: in inches.
        height: in inches.

    Yields:
        The figure, to draw on and save within the context.

    Raises:
        NoPictureError: Matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NoPictureError("no picture: Matplotlib is missing. Install it with: pip install matplotlib") from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rc("svg", hashsalt="fewshot-bench")
        matplotlib.rc("font", family="DejaVu Sans", size=FONT_SIZE)
        matplotlib.rc("text", parse_math=False)  # a dollar in a method's name is a dollar
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def save_picture(figure: Any, stem: Place) -> list[Place]:
    """Write a figure as SVG and as PNG, each all or nothing, without dates or versions.

    Args:
        figure: of `drawing`.
        stem: the files without their suffix.

    Returns:
        The two files.
    """
    return [_save(figure, stem.with_name(stem.name + suffix)) for suffix in (".svg", ".png")]


def _save(figure: Any, path: Place) -> Place:
    content = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if path.suffix == ".svg" else {"Software": None}
    figure.savefig(content, format=path.suffix[1:], dpi=160, metadata=metadata)
    write_atomically(path, content.getvalue())
    return path
