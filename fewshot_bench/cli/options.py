"""Options that several commands share, and how their text becomes values.

`--engine`: who computes a study, and what that asks for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from fewshot_bench._io.toml import value_of

if TYPE_CHECKING:
    from fewshot_bench.engine.engine import Engine
    from fewshot_bench.progress import Progress

if TYPE_CHECKING:
    from fewshot_bench._io.locations import Place
    from fewshot_bench.statistics import Correction
else:
    Place = str  # Typer takes no union of types; the value is what the parser makes


def place(text: str | Place) -> Place:
    """The folder of a path or a URL.

    Raises:
        PlaceError: a URL cannot be opened.
    """
    from fewshot_bench._io.locations import place_of

    return place_of(text)


def results_folder(text: str | Place) -> Place:
    """The folder of results of a path or a URL.

    Raises:
        PlaceError: a URL cannot be opened.
        OutcomeError: it is a file.
    """
    return _no_file(place(text), "a folder of results")


def results_or_cell(text: str | Place) -> Place:
    """A folder of results or of one cell, or a cell's key.

    Raises:
        PlaceError: a URL cannot be opened.
        OutcomeError: it is a file.
    """
    return _no_file(place(text), "a folder of results or of one cell")


def _no_file(found: Place, expected: str) -> Place:
    """The place, unless it is a file; what says so is imported for those alone."""
    if isinstance(found, Path) and found.is_file():
        from fewshot_bench.report.names import check_no_file

        return check_no_file(found, expected)
    return found


ResultsOption = Annotated[
    Place,
    typer.Option(
        "--results",
        parser=results_folder,
        metavar="FOLDER",
        help="Folder or URL (s3://...) of outcomes and the leaderboard.",
    ),
]
IntoOption = Annotated[
    Place | None,
    typer.Option(
        "--into",
        parser=place,
        metavar="FOLDER",
        help="Keep the new outcomes in this results folder, or URL; the same command then goes on.",
    ),
]
ResultArgument = Annotated[
    Place | None,
    typer.Argument(
        metavar="RESULT",
        parser=results_or_cell,
        help="A folder of results or of one cell, or a cell's key. Default: the folder of --results.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
BaselineOption = Annotated[
    str | None, typer.Option("--baseline", help="Method that the others are tested against (name or part of it).")
]
CorrectOption = Annotated[
    str, typer.Option("--correct", help="Correct p for the number of tests on a protocol: holm, bh or none.")
]
ClaimOption = Annotated[
    str,
    typer.Option(
        "--claim",
        help="What letters, bold and underline say: differences beyond this split (beyond), or on it alone (split).",
    ),
]

DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...")]
ImagesOption = Annotated[
    Path | None,
    typer.Option("--dataset", help="Where the images lie, if they are not stored under the dataset's name."),
]
WeightsOption = Annotated[Path | None, typer.Option("--weights", help="The file of weights that the result names.")]
TrustCodeOption = Annotated[
    bool,
    typer.Option(
        "--trust-code", help="Import what a file (a result, study, setting or checkpoint) names as module:callable."
    ),
]
DownloadOption = Annotated[
    bool, typer.Option("--download", help="Fetch pretrained weights that the result names from their model hub.")
]

LeastImagesOption = Annotated[
    int, typer.Option("--min-images", min=1, help="Leave out classes of your own images with fewer readable ones.")
]


class LayoutChoice(str, Enum):
    """What the folders of one's own images are."""

    auto = "auto"
    classes = "classes"
    splits = "splits"


ClassDepthOption = Annotated[
    int | None,
    typer.Option(
        "--class-depth", min=1, max=8, help="Folders that make a class of your own images: 2 for alphabet/character."
    ),
]
LayoutOption = Annotated[
    LayoutChoice,
    typer.Option(
        help="Your own folders called train, val or test are splits or classes; auto refuses to guess where both are "
        "possible."
    ),
]

SamplerOption = Annotated[
    str,
    typer.Option(
        help="standard: every task anew from the whole split; disjoint: no image in two tasks; dirichlet: uneven "
        "queries; varied: way and shot differ from task to task."
    ),
]
AlphaOption = Annotated[
    float | None,
    typer.Option(
        help="Dirichlet concentration of --sampler dirichlet; smaller values make queries more uneven. Default: 2."
    ),
]
LeastWayOption = Annotated[
    int | None, typer.Option(help="Fewest classes with --sampler varied; --way is the most. Default: 2.")
]
LeastShotOption = Annotated[
    int | None, typer.Option(help="Fewest shots with --sampler varied; the largest of --shots is the most. Default: 1.")
]


def words(text: str) -> tuple[str, ...]:
    """A comma-separated list of names."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def numbers(text: str, option: str) -> tuple[int, ...]:
    """A comma-separated list of whole numbers.

    Raises:
        typer.BadParameter: a part is not a whole number, or there is none.
    """
    try:
        values = tuple(int(word) for word in words(text))
    except ValueError as error:
        raise typer.BadParameter(f"{option} takes whole numbers such as 1,5, not '{text}'.") from error
    if not values:
        raise typer.BadParameter(f"{option} takes whole numbers such as 1,5; none was given.")
    return values


def correction(text: str) -> Correction:
    """How p values are to be corrected.

    Raises:
        typer.BadParameter: there is no such correction.
    """
    from fewshot_bench.statistics import Correction

    return cast("Correction", choice(text, "--correct", get_args(Correction)))


def choice(text: str, option: str, choices: Sequence[str]) -> str:
    """One of the words that an option takes.

    Raises:
        typer.BadParameter: it is another.
    """
    if text in choices:
        return text
    raise typer.BadParameter(f"{option} takes {', '.join(choices)}, not '{text}'.")


def setting(text: str, option: str = "--set") -> tuple[str, Any]:
    """A hyper-parameter `name=value`.

    Raises:
        typer.BadParameter: there is no name or no value.
    """
    name, value = assignment(text, option)
    return name, value_of(value)


def assignment(text: str, option: str = "--set") -> tuple[str, str]:
    """The two sides of `name=value`, as they were typed.

    Raises:
        typer.BadParameter: there is no name or no value.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"{option} takes NAME=VALUE, not '{text}'.")
    return name, value


EngineOption = Annotated[
    str, typer.Option(help="local: this process. ray: many, on this machine or on a cluster; the results are the same.")
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Address of a Ray cluster's head, or auto on a machine that is part of one. Default: start a cluster.",
    ),
]
WorkersOption = Annotated[int | None, typer.Option(min=1, help="Ray workers. Default: as many as there is room for.")]
CpusOption = Annotated[int | None, typer.Option(min=1, help="Cores and threads of each Ray worker. Default: 1.")]
GpusOption = Annotated[
    float | None,
    typer.Option(min=0, help="GPUs of each Ray worker, e.g. 0.5. Default: 1 where the cluster has any."),
]
WaitOption = Annotated[
    float | None,
    typer.Option(min=0, help="Seconds to wait for a Ray node with room for a worker. Default: 60."),
]

RAY_OPTIONS = ("ray_address", "workers", "cpus_per_worker", "gpus_per_worker", "ray_wait")
ENGINE_OPTIONS = ("engine", *RAY_OPTIONS)
"""The parameters of a command that this file reads."""


@contextmanager
def chosen_engine(options: Mapping[str, Any], progress: Progress) -> Iterator[Engine | None]:
    """The engine that options ask for; None for this process. What it starts ends with the context.

    Args:
        options: by the name of the parameter: those of `ENGINE_OPTIONS` and `device`.
        progress: told that workers are waited for.

    Raises:
        typer.BadParameter: there is no such engine, or it takes no such option.
        StudyError: Ray is not installed, or its cluster cannot be reached, or has no room.
    """
    given = {name: options[name] for name in RAY_OPTIONS if options[name] is not None}
    if options["engine"] == "local":
        if given:
            raise typer.BadParameter(f"--{next(iter(given)).replace('_', '-')} is for --engine ray.")
        yield None
    elif options["engine"] == "ray":
        from fewshot_bench.engine.ray_engine import RayEngine

        names = {"ray_address": "address", "ray_wait": "patience"}
        wanted = RayEngine(device=options["device"], **{names.get(name, name): given[name] for name in given})
        with ExitStack() as opened:
            with progress.step("waiting for workers", 0):
                engine = opened.enter_context(wanted)
            yield engine
    else:
        raise typer.BadParameter(f"--engine takes local or ray, not '{options['engine']}'.")
