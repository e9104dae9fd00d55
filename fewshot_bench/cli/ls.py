"""`fewshot-bench ls`: the names of datasets, backbones, adaptations, losses, recipes, checkpoints and studies."""

from __future__ import annotations

import textwrap
from typing import Annotated, Any

import typer

from fewshot_bench.cli.options import JsonOption
from fewshot_bench.cli.output import print_json
from fewshot_bench.errors import UnknownNameError

_KINDS = {
    "datasets": "dataset",
    "backbones": "backbone",
    "adaptations": "adaptation",
    "losses": "loss",
    "recipes": "recipe",
    "checkpoints": "checkpoint",
    "studies": "study",
}
"""What can be listed, with its singular."""


def ls(
    kind: Annotated[
        str,
        typer.Argument(
            help="datasets, backbones, adaptations, losses, recipes, ...",
            autocompletion=lambda incomplete: [kind for kind in _KINDS if kind.startswith(incomplete)],
        ),
    ],
    name: Annotated[str | None, typer.Argument(help="Show only this one, in full.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List datasets, backbones, adaptations with their hyper-parameters, losses, recipes, checkpoints or studies."""
    if kind == "adaptations" and name is not None:
        from fewshot_bench.study.known_names import refuse_misspelt

        refuse_misspelt("adaptation", name)  # before torch is imported
    known = _registry(kind)
    entries = known if name is None else [_named(kind, known, name)]
    rows = [{"name": entry.name, "summary": entry.summary, **entry.facts, **_state(kind, entry)} for entry in entries]
    if as_json:
        print_json(rows)
        return
    if not rows:
        typer.echo("There are no checkpoints yet. See: fewshot-bench train --help")
        return
    if kind == "adaptations":
        _show_adaptations(rows, in_full=name is not None)
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        state = f" [{row['state']}]" if "state" in row else ""
        typer.echo(f"{row['name']:<{width}}  {row['summary']}{state}")
        if "cost" in row:
            typer.echo(f"{'':<{width}}  {row['cost']}")
        if "paper" in row:
            typer.echo(f"{'':<{width}}  {row['paper']}")
        if row.get("reported"):
            typer.echo(f"{'':<{width}}  reported: {_reported_text(row['reported'])}")
    if name is not None:
        return
    if kind == "backbones":
        typer.echo(f"{'timm:NAME':<{width}}  any model of timm, from the hub or with --weights FILE")
    if kind == "datasets":
        typer.echo(f"{'torchvision:NAME':<{width}}  any classification dataset of torchvision, with --root PATH")
    if kind == "studies":
        typer.echo("run one: fewshot-bench run NAME    a copy to edit: fewshot-bench study NAME > study.toml")


def _named(kind: str, known: Any, name: str) -> Any:
    """The entry of a name; raises UnknownNameError if there is none."""
    if kind == "adaptations":
        return known[name]
    entries = {entry.name: entry for entry in known}
    if name not in entries:
        raise UnknownNameError(_KINDS[kind], name, entries)
    return entries[name]


def _registry(kind: str) -> Any:
    """The entries of a kind; raises UnknownNameError for an unknown kind."""
    if kind == "datasets":
        from fewshot_bench.datasets import DATASETS

        return DATASETS
    if kind == "backbones":
        from fewshot_bench.backbones import BACKBONES

        return BACKBONES
    if kind == "adaptations":
        from fewshot_bench.adaptation import ADAPTATIONS

        return ADAPTATIONS
    if kind == "losses":
        from fewshot_bench.losses import LOSSES

        return LOSSES
    if kind == "recipes":
        from fewshot_bench.training.named_recipes import recipe_entries

        return recipe_entries()
    if kind == "checkpoints":
        from fewshot_bench.study.checkpoints import checkpoint_entries

        return checkpoint_entries()
    if kind == "studies":
        from fewshot_bench.study.study_file import preset_entries

        return preset_entries()
    raise UnknownNameError("list", kind, _KINDS)


def _state(kind: str, entry: Any) -> dict[str, Any]:
    """More facts: whether a dataset is imported, hyper-parameters of an adaptation, published numbers of a recipe."""
    if kind == "datasets":
        from fewshot_bench.datasets import is_available
        from fewshot_bench.datasets.catalogue import BENCHMARKS

        # A dataset that is not a benchmark is opened by the code of its package.
        is_ready = is_available(entry.name) or entry.name not in BENCHMARKS
        return {"state": "ready" if is_ready else f"not imported: fewshot-bench data get {entry.name}"}
    if kind == "recipes":
        from fewshot_bench.report.published import published_for_recipe

        return {
            "reported": [
                {
                    "dataset": row.dataset,
                    "way": row.way,
                    "shot": row.shot,
                    "accuracy": row.accuracy,
                    "ci95": row.half_width,
                    "source": row.printed_by,
                }
                for row in published_for_recipe(entry.name)
            ]
        }
    if kind != "adaptations":
        return {}
    from dataclasses import asdict

    from fewshot_bench.adaptation.base import described

    found = described(entry.factory, entry.preset)
    return {} if found is None else asdict(found)


def _reported_text(reported: list[dict[str, Any]]) -> str:
    """The numbers that are published for a recipe, by dataset, fewer shots first."""
    by_dataset: dict[str, list[str]] = {}
    for row in sorted(reported, key=lambda row: (row["dataset"], row["shot"])):
        width = "" if row["ci95"] is None else f" ± {row['ci95']:.2f}"
        by_dataset.setdefault(row["dataset"], []).append(f"{row['accuracy']:.2f}{width}")
    return ", ".join(f"{dataset} {' / '.join(texts)}" for dataset, texts in by_dataset.items())


def _show_adaptations(rows: list[dict[str, Any]], *, in_full: bool) -> None:
    """Print each adaptation with its kind, its paper and its hyper-parameters.

    Args:
        rows: as for JSON.
        in_full: whether the meaning of each hyper-parameter is wrapped at the width of the terminal, or cut off.
    """
    from shutil import get_terminal_size

    width = max(60, min(get_terminal_size().columns, 120))
    for row in rows:
        kind = [str(row["family"])] if "family" in row else []
        if "is_transductive" in row:
            kind.append("transductive" if row["is_transductive"] else "inductive")
        if row.get("assumes_balanced_queries"):
            kind.append("assumes balanced queries")
        typer.echo(row["name"] + (f"  ({', '.join(kind)})" if kind else ""))
        for text in filter(None, (row["summary"], row.get("paper", ""))):
            typer.echo(textwrap.fill(text, width, initial_indent="  ", subsequent_indent="    "))
        hyper_parameters = [
            (f"{parameter['name'].rstrip('_')}={parameter['default']}", parameter)
            for parameter in row.get("hyper_parameters", ())
            if in_full or parameter["name"] != "features" or parameter["default"] != "l2"
        ]
        longest = max((len(setting) for setting, _ in hyper_parameters), default=0)
        for setting, parameter in hyper_parameters:
            tried = f"[--choose: {', '.join(map(str, parameter['tried']))}]" if parameter["tried"] and in_full else ""
            text = " ".join(filter(None, (parameter["meaning"], tried)))
            first = f"  {'*' if parameter['tried'] else ' '} {setting:<{longest}}  "
            if in_full:
                typer.echo(textwrap.fill(text or "-", width, initial_indent=first, subsequent_indent=" " * len(first)))
            else:
                typer.echo(first + textwrap.shorten(text or "-", max(20, width - len(first)), placeholder=" ..."))
    if not in_full:
        typer.echo("\nEach also takes features: l2 by default, or raw, cl2, power, signed-power.")
        typer.echo("* --choose support-cv and --choose ensemble vary these")
        typer.echo("all, all-inductive, all-transductive: these heads on frozen embeddings, for --adapt")
        typer.echo("in full: fewshot-bench ls adaptations NAME")
