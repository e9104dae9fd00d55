"""`fewshot-bench ls`: what can be named."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from fewshot_bench.cli.options import JsonOption
from fewshot_bench.errors import UnknownNameError

_KINDS = ("datasets", "backbones", "adaptations", "losses", "checkpoints", "studies")


def ls(
    kind: Annotated[str, typer.Argument(help="datasets, backbones, adaptations, losses, checkpoints or studies.")],
    as_json: JsonOption = False,
) -> None:
    """List datasets, backbones, adaptations, losses, checkpoints or studies."""
    rows = [
        {"name": entry.name, "summary": entry.summary, **entry.facts, **_state(kind, entry.name)}
        for entry in _registry(kind)
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    if not rows:
        typer.echo("there are no checkpoints yet. See: fewshot-bench train --help")
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        state = f" [{row['state']}]" if "state" in row else ""
        typer.echo(f"{row['name']:<{width}}  {row['summary']}{state}")
        if "paper" in row:
            typer.echo(f"{'':<{width}}  {row['paper']}")
    if kind == "backbones":
        typer.echo(f"{'timm:NAME':<{width}}  any model of timm, from the hub or with --weights FILE")
    if kind == "studies":
        typer.echo("run one: fewshot-bench run NAME    a copy to edit: fewshot-bench study NAME > study.toml")


def _registry(kind: str) -> Any:
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
    if kind == "checkpoints":
        from fewshot_bench.study.checkpoints import checkpoint_entries

        return checkpoint_entries()
    if kind == "studies":
        from fewshot_bench.study.presets import preset_entries

        return preset_entries()
    raise UnknownNameError("list", kind, _KINDS)


def _state(kind: str, name: str) -> dict[str, str]:
    if kind != "datasets":
        return {}
    from fewshot_bench.datasets import is_available

    return {"state": "ready" if is_available(name) else f"not imported: fewshot-bench data get {name}"}
