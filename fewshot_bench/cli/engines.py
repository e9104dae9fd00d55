"""`--engine`: who computes a study, and what that asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fewshot_bench.engine.engine import Engine
    from fewshot_bench.progress import Progress

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
