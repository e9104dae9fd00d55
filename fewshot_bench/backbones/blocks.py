"""A network's parameters in blocks from input to output, so that its last blocks can be tuned alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from timm.models import group_parameters
from torch import nn

from fewshot_bench.errors import StudyError

_UNMATCHED = "\0"


def parameter_blocks(network: nn.Module) -> list[list[str]]:
    """The names of a network's parameters in blocks from input to output; each is in exactly one.

    A network of timm is divided as for layer-wise learning-rate decay: one block per transformer or residual block. A
    network without timm's `group_matcher` is divided by the children of its longest `Sequential` or `ModuleList` (if
    they are of one class, with the others of that class), or else by its own children. What comes before the first
    block (patch or position embeddings, first convolutions) is the stem; what comes after the last belongs to it.

    Args:
        network: any network; without timm the order is that of its definition.

    Returns:
        The stem if there is one, then every block.
    """
    stem, blocks = _divided(network)
    return [stem, *blocks] if stem else blocks


def last_blocks(network: nn.Module, count: int) -> set[str]:
    """The names of the parameters of a network's last blocks, without the stem, and of everything after them.

    Raises:
        StudyError: the network has fewer blocks, or the count is not positive.
    """
    _, blocks = _divided(network)
    if not 1 <= count <= len(blocks):
        many = f"{len(blocks)} block{'s' if len(blocks) != 1 else ''}"
        way_out = f"Use last:{len(blocks)} or fewer, or all." if count > 0 else "Use last:1 or more, or head."
        raise StudyError(f"network {_name(network)} has {many}; last:{count} asks for {count}. {way_out}")
    return {name for block in blocks[-count:] for name in block}


def _divided(network: nn.Module) -> tuple[list[str], list[list[str]]]:
    """The stem and the blocks."""
    matcher: Any = getattr(network, "group_matcher", None)
    if matcher is not None:
        return _divided_by_timm([name for name, _ in network.named_parameters()], matcher(coarse=False))
    return _divided_by_modules(network, _block_modules(network))


@dataclass(frozen=True)
class _Names:
    """What timm needs of a network to divide it."""

    names: list[str]

    def named_parameters(self) -> Iterator[tuple[str, None]]:
        return ((name, None) for name in self.names)


def _divided_by_timm(names: list[str], matcher: Any) -> tuple[list[str], list[list[str]]]:
    # timm puts whatever no pattern matches (norms and layers of the head) into a group of its own at the end.
    # A name that cannot match finds that group, in a matcher of patterns as in one that is a function.
    groups = group_parameters(cast(Any, _Names([*names, _UNMATCHED])), matcher)
    blocks = [groups[number] for number in sorted(groups)]
    after = [name for name in blocks.pop() if name != _UNMATCHED]
    # The first group of timm's own matchers is the stem; ours for networks without one begin with the blocks.
    has_stem = not isinstance(matcher, Mapping) or next(iter(matcher)).startswith("stem")
    stem = blocks.pop(0) if has_stem and len(blocks) > 1 else []
    if not blocks:
        return [], [after] if after else []
    return stem, [*blocks[:-1], blocks[-1] + after]


def _divided_by_modules(network: nn.Module, modules: list[str]) -> tuple[list[str], list[list[str]]]:
    """Parameters between two blocks, such as down-sampling, belong to the second."""
    stem: list[str] = []
    blocks: dict[str, list[str]] = {}
    pending: list[str] = []
    for name, _ in network.named_parameters():
        owner = next((module for module in modules if name.startswith(f"{module}.")), None)
        pending.append(name)
        if owner is None:
            continue
        if not blocks:
            stem, pending = pending[:-1], pending[-1:]
        blocks.setdefault(owner, []).extend(pending)
        pending = []
    if not blocks:
        return [], [pending] if pending else []
    *_, last = blocks.values()
    last.extend(pending)
    return stem, list(blocks.values())


def _block_modules(network: nn.Module) -> list[str]:
    """Names of the modules that are the blocks of a network that timm does not know."""
    containers = [
        list(_children(name, module))
        for name, module in network.named_modules()
        if isinstance(module, nn.Sequential | nn.ModuleList)
    ]
    longest = max(containers, key=len, default=[])
    if len(longest) < 2:
        return [name for name, _ in _children("", network)]
    classes = {type(module) for _, module in longest}
    if len(classes) > 1 or next(iter(classes)).__module__.startswith("torch.nn."):
        return [name for name, _ in longest]
    # Each stage is often a container of its own, so blocks of this class are found wherever they are.
    return _outermost([name for name, module in network.named_modules() if type(module) in classes])


def _children(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The children of a module that have parameters, by their full names."""
    for child_name, child in module.named_children():
        if next(child.parameters(), None) is not None:
            yield f"{name}.{child_name}".removeprefix("."), child


def _outermost(names: list[str]) -> list[str]:
    """The names that lie in no other; modules come before their children."""
    kept: list[str] = []
    for name in names:
        if not any(name.startswith(f"{outer}.") for outer in kept):
            kept.append(name)
    return kept


def _name(network: nn.Module) -> str:
    config = getattr(network, "pretrained_cfg", None) or {}
    return str(config.get("architecture") or type(network).__name__)
