"""Options that several commands share, and how their text becomes values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from fewshot_bench._io.toml import value_of

if TYPE_CHECKING:
    from fewshot_bench._io.locations import Location as Location
    from fewshot_bench.statistics import Correction
else:
    Location = str  # Typer takes no union of types; the value is what the parser makes


def command_group(text: str) -> typer.Typer:
    """A command that consists of commands; `text` is its help."""
    return typer.Typer(help=text, no_args_is_help=True, add_completion=False, rich_markup_mode=None)


def place(text: str | Location) -> Location:
    """The folder of a path or a URL; raises LocationError if a URL cannot be opened."""
    from fewshot_bench._io.locations import location_of

    return location_of(text)


def results_folder(text: str | Location, expected: str = "a folder of results") -> Location:
    """A typed folder of results; raises LocationError if a URL cannot be opened, OutcomeError if it is a file."""
    found = place(text)
    if isinstance(found, Path) and found.is_file():
        from fewshot_bench.report.names import check_no_file  # imports pandas

        return check_no_file(found, expected)
    return found


def results_or_cell(text: str | Location) -> Location:
    """A folder of results or of one cell, or a cell's key; raises as `results_folder`."""
    return results_folder(text, "a folder of results or of one cell")


IntoOption = Annotated[
    Location | None,
    typer.Option(
        "--into",
        parser=place,
        metavar="FOLDER",
        help="Keep the new outcomes in this results folder or URL; the same command then resumes.",
    ),
]
ResultArgument = Annotated[
    Location | None,
    typer.Argument(
        metavar="RESULT",
        parser=results_or_cell,
        help="A results folder, a folder of one cell, or a cell's key. Default: the folder of --results.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", rich_help_panel="Output", help="Print JSON instead of tables.")]
LabelsOption = Annotated[
    Path | None,
    typer.Option(
        "--labels", metavar="FILE", help="TOML file with labels of methods, groups and your own methods to highlight."
    ),
]
CorrectOption = Annotated[
    str, typer.Option("--correct", help="Correct p for the number of tests on a protocol: holm, bh or none.")
]
ClaimOption = Annotated[
    str,
    typer.Option(
        "--claim",
        help="What letters, bold and underline claim: differences beyond this split (beyond), or on it (split).",
    ),
]
ImagesOption = Annotated[
    Path | None,
    typer.Option("--dataset", help="Location of the images, if they are not stored under the dataset's name."),
]
WeightsOption = Annotated[Path | None, typer.Option("--weights", help="The weights file that the result names.")]
TrustCodeOption = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        rich_help_panel="Computing",
        help="Import code that a file names as module:callable.",
    ),
]
DownloadOption = Annotated[
    bool, typer.Option("--download", help="Download pretrained weights that the result names from their model hub.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        rich_help_panel="Method",
        help="Hyper-parameter, e.g. C=10; beside a file, any key. Repeatable.",
    ),
]


def words(text: str) -> tuple[str, ...]:
    """A comma-separated list of names."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Comma-separated whole numbers; raises typer.BadParameter if a part is not one, or there is none."""
    try:
        values = tuple(int(word) for word in words(text))
    except ValueError as error:
        raise typer.BadParameter(f"{option} takes whole numbers such as 1,5, not '{text}'.") from error
    if not values:
        raise typer.BadParameter(f"{option} takes whole numbers such as 1,5; none was given.")
    return values


def correction(text: str) -> Correction:
    """How p values are corrected; raises typer.BadParameter if there is no such correction."""
    from fewshot_bench.statistics import Correction

    return cast("Correction", choice(text, "--correct", get_args(Correction)))


def choice(text: str, option: str, choices: Sequence[str]) -> str:
    """One of the words that an option takes; raises typer.BadParameter if the text is another word."""
    if text in choices:
        return text
    raise typer.BadParameter(f"{option} takes {', '.join(choices)}, not '{text}'.")


def hyper_parameter(text: str) -> tuple[str, Any]:
    """The name and value of `--set name=value`; raises typer.BadParameter if the name or the equals sign is missing."""
    name, value = assignment(text)
    return name, value_of(value)


def assignment(text: str, option: str = "--set", values: str = "VALUE") -> tuple[str, str]:
    """The two typed sides of `name=value`; raises typer.BadParameter if the name or the equals sign is missing."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"{option} takes NAME={values}, not '{text}'.")
    return name, value
