"""What to say of a part that cannot be believed."""

from __future__ import annotations

from fewshot_bench.errors import OutcomeError
from fewshot_bench.paths import Place

OTHER_ROWS = "its rows are not those that its name says"


def damaged(place: Place, finding: object, stretch: tuple[int, int, int] | None) -> OutcomeError:
    """The error that says what is wrong with a file, and the way out.

    Args:
        place: of the file.
        finding: what is wrong.
        stretch: run, first episode and the number behind the last; None where there are several runs.
    """
    episodes = "its" if stretch is None else f"only its {stretch[2] - stretch[1]:,}"
    return OutcomeError(
        f"stored outcomes in {place} are damaged ({finding}). Delete that file and run again: {episodes} episodes are "
        "repeated."
    )
