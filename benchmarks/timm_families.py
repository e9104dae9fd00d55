"""Embed one image with the smallest network of every architecture family of timm, without its weights.

    python benchmarks/timm_families.py
    python benchmarks/timm_families.py --only vision_transformer,swin_transformer

A family is a module of timm; a network class that a module also defines is one of its own (`vision_transformer` holds
one, `byobnet` one, `maxxvit` one). Of each, the network with the fewest parameters is made as `timm:NAME` makes it, but
for its weights, which stay random: at its own size, then at 96 px. Rows are printed as they come.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator
from typing import Any

import timm
import torch
from timm.models import list_modules

from fewshot_bench.backbones import BackboneRequest, create_backbone
from fewshot_bench.errors import FewshotBenchError

OTHER_SIZE = 96


def main() -> None:
    """Parse the arguments, embed, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="families, separated by commas")
    only = [name for name in parser.parse_args().only.split(",") if name]
    print(f"timm {timm.__version__}, torch {torch.__version__}, Python {platform.python_version()}; weights random.\n")
    print(f"| family | network | parameters | own size | D | num_features | at {OTHER_SIZE} px |")
    print("| --- | --- | ---: | ---: | ---: | ---: | --- |")
    own = ("conv4", "resnet12", "wrn28_10")  # which this package registers
    for family in only or [module for module in list_modules() if module not in own]:
        for name, count in smallest(family):
            print(f"| {family} | `{name}` | {count:,} | {' | '.join(row(name))} |", flush=True)


def smallest(family: str) -> Iterator[tuple[str, int]]:
    """The smallest network of every class in a module of timm, and its number of parameters."""
    found: dict[type, tuple[int, str]] = {}
    for name in timm.list_models(module=family):
        with torch.device("meta"):
            try:
                network = timm.create_model(name, num_classes=0)
            except (NotImplementedError, RuntimeError):  # it computes something of its parameters
                network = None
        if network is None:
            network = timm.create_model(name, num_classes=0)
        count = sum(parameter.numel() for parameter in network.parameters())
        kind = type(network)
        found[kind] = min(found.get(kind, (count, name)), (count, name))
    for count, name in sorted(found.values(), key=lambda entry: entry[1]):
        yield name, count


def row(name: str) -> list[str]:
    """Own size, D, `num_features`, and D at another size or why there is none."""
    try:
        own = create_backbone(f"timm:{name}", is_stand_in=True)
    except FewshotBenchError as error:
        return ["", f"refused: {error}", "", ""]
    features: Any = own.network.num_features
    size = own.preprocessing.image_size
    try:
        request = BackboneRequest(f"timm:{name}", image_size=OTHER_SIZE)
        other = str(create_backbone(request, is_stand_in=True).embedding_size)
    except FewshotBenchError as error:
        other = str(error)
    return [str(size), str(own.embedding_size), str(features), other]


if __name__ == "__main__":
    main()
