"""Names that a shell completes, found without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def completer(field: str) -> Callable[[str], list[str]] | None:
    """What completes the value of an option, by the field of a study or training; None for values without names.

    In a comma-separated list the last name is completed.
    """
    names = _NAMES.get(field)
    if names is None:
        return None

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in names() if name.startswith(last)]

    return complete


def _datasets() -> Sequence[str]:
    from fewshot_bench.datasets import DATASETS
    from fewshot_bench.datasets.store import stored_names

    return sorted({*DATASETS.names(), *stored_names()})


def _adaptations() -> Sequence[str]:
    from fewshot_bench.study.known_names import known_names

    return known_names("adaptation")


def _backbones() -> Sequence[str]:
    from fewshot_bench.study.known_names import known_names

    return known_names("backbone")


def _losses() -> Sequence[str]:
    from fewshot_bench.study.known_names import known_names

    return known_names("loss")


def _checkpoints() -> Sequence[str]:
    from fewshot_bench.study.known_names import finished_names

    return finished_names()


def _recipes() -> Sequence[str]:
    from fewshot_bench.training.named_recipes import recipe_names

    return recipe_names()


_NAMES: dict[str, Callable[[], Sequence[str]]] = {
    "dataset": _datasets,
    "adaptations": _adaptations,
    "backbone": _backbones,
    **dict.fromkeys(("loss", "losses", "base_losses"), _losses),
    "checkpoints": _checkpoints,
    **dict.fromkeys(("recipe", "named_recipe"), _recipes),
}
