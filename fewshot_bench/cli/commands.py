"""The commands of `fewshot-bench`, each in a file that is loaded when the command is used."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from fewshot_bench._io.ranks import own_rank
from fewshot_bench._io.versions import __version__
from fewshot_bench.errors import DEBUG_VARIABLE, StudyError

COMMANDS = {
    "run": "Run a study: embed, sample episodes, adapt, test, and write the tables.",
    "train": "Train a backbone on the base split, under a name that run can use.",
    "sweep": "Choose hyper-parameters on the validation split.",
    "study": "Print a study that comes with the package, to be edited.",
    "fit": "Fit a method to all classes of a dataset, and keep the classifier.",
    "predict": "Classify images with a classifier that fit kept.",
    "status": "Show how far the studies of a results folder are.",
    "compare": "Compare methods on their common episodes by paired tests.",
    "leaderboard": "Summarise all stored outcomes in one table and a CSV file.",
    "embeddings": "Measure the embeddings of networks: isotropy, similarities, geometry.",
    "power": "Say how many episodes are needed to find a difference.",
    "report": "Write one HTML page that shows all stored outcomes.",
    "audit": "Check whether stored results can be believed.",
    "reproduce": "Run a stored result again and compare every outcome.",
    "ls": "List datasets, backbones, adaptations, losses, checkpoints or studies.",
    "new": "Begin a package with your own adaptation, loss, backbone or dataset.",
    "data": "Import, download, list and check datasets.",
    "cache": "List and remove what is kept to save time.",
    "outcomes": "Import accuracies from elsewhere; export all outcomes.",
    "store": "Compact, check, merge and prune stored outcomes.",
    "episodes": "Verify, show and freeze episodes.",
}
"""Each with its line in `fewshot-bench --help`, which loads none of them."""

INTERRUPTED = 130
"""The exit code of a process that Ctrl-C ended."""

_WIDTH = 100
_FEW = 25  # options that need no sections


class Commands(TyperGroup):
    """Loads the file of a command when that command is asked for."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        names: dict[str, Any] = dict.fromkeys(COMMANDS)  # for the advice on a misspelt name
        self.commands = names

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name; None if there is none."""
        if cmd_name not in COMMANDS:
            return None
        try:
            module = import_module(f"fewshot_bench.cli.{cmd_name}")
        except KeyboardInterrupt:  # as quiet as during the imports before
            sys.exit(INTERRUPTED)
        found = getattr(module, cmd_name)
        if isinstance(found, typer.Typer):
            return get_command(found)
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        single.command(cmd_name, cls=SectionedCommand)(found)
        return get_command(single)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands into the help."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


class SectionedCommand(TyperCommand):
    """A command whose help groups its options in sections, if it has many."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options into the help."""
        parameters = self.get_params(ctx)
        if len(parameters) < _FEW:
            super().format_options(ctx, formatter)
            return
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in parameters:
            record = parameter.get_help_record(ctx)
            if record is not None:
                is_argument = parameter.param_type_name == "argument"
                section = getattr(parameter, "rich_help_panel", None) or ("Arguments" if is_argument else "Other")
                sections.setdefault(section, []).append(record)
        for section, records in sections.items():
            with formatter.section(section):
                formatter.write_dl(records)


app = typer.Typer(
    name="fewshot-bench",
    cls=Commands,
    context_settings={"max_content_width": _WIDTH},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fewshot-bench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help=f"Show the traceback of an error before its line, like {DEBUG_VARIABLE}=1.")
    ] = False,
) -> None:
    """Is one few-shot image-classification method really better than another, on the same tasks?"""
    rank, command = own_rank(), context.invoked_subcommand
    if rank is not None and command != "train":
        raise StudyError(
            f"{command} was started in {rank.count} processes; only train shares its work among them. Train with "
            "torchrun under a --name, then start fewshot-bench run --checkpoint NAME once; --engine ray spreads its "
            "episodes over GPUs."
        )
