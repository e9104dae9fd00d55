"""What the checks share: properties by name, how far two tensors differ, another device."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fewshot_bench.errors import ConformanceError, FewshotBenchError, UnknownNameError

T = TypeVar("T")
ROUNDING = 2e-3
"""Share of the largest value by which sums in another order may differ."""


@dataclass(frozen=True)
class Properties(Sequence[str]):
    """The properties of one kind of thing, the basic ones first; iterating gives their names.

    Attributes:
        checks: each raises ConformanceError if what it is given lacks the property.
    """

    checks: Mapping[str, Callable[[Any], None]]

    def __getitem__(self, index: Any) -> Any:
        return list(self.checks)[index]

    def __len__(self) -> int:
        return len(self.checks)

    def check(self, name: str, subject: object, only: Sequence[str]) -> None:
        """Check the named properties, or all.

        Args:
            name: of the subject, for messages.
            subject: what is checked.
            only: names of properties; none for all.

        Raises:
            ConformanceError: the subject lacks a property, or raised.
            UnknownNameError: there is no such property.
        """
        for known in only:
            if known not in self.checks:
                raise UnknownNameError("property", known, self.checks)
        for known in only or self.checks:
            try:
                self.checks[known](subject)
            except FewshotBenchError as error:
                raise ConformanceError(f"{name} lacks the property '{known}': {error}") from error


def difference(found: Tensor, expected: Tensor, what: str = "values") -> str:
    """How far tensors of one shape differ beyond rounding, in words; empty if they do not.

    Args:
        found: any shape.
        expected: the same shape.
        what: the name of the values.

    >>> difference(torch.tensor([1.0, 2.5]), torch.tensor([1.0, 2.0]))
    '1 of 2 values differ, by up to 0.5 where the largest is 2'
    """
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    distances = (found - expected).abs()
    is_far = ~(distances <= ROUNDING * (largest + expected.abs()))
    if not bool(is_far.any()):
        return ""
    return (
        f"{int(is_far.sum()):,} of {is_far.numel():,} {what} differ, by up to {float(distances.max()):.3g} where the "
        f"largest is {largest:.3g}"
    )


def expect(finding: str, sentence: str) -> None:
    """Raise ConformanceError with a sentence, whose "{}" is the finding, unless the finding is empty."""
    if finding:
        raise ConformanceError(sentence.format(finding))


@contextmanager
def other_random_numbers(seed: int) -> Iterator[None]:
    """Other states of the global generators of torch, NumPy and Python within; those before return afterwards."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  # the global state is meant
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002  # the global state is meant
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002  # the global state is meant


def random_states() -> tuple[Any, ...]:
    """The states of the global generators of torch, NumPy and Python, to compare."""
    _, keys, *rest = np.random.get_state()  # noqa: NPY002  # the global state is meant
    return torch.get_rng_state().tolist(), np.asarray(keys).tolist(), rest, random.getstate()


@contextmanager
def second_device() -> Iterator[torch.device]:
    """A GPU, or a stand-in without values, on which operations fail that mix it with the CPU.

    Code that reads values cannot run on the stand-in; `is_mixing_devices` tells the errors apart.
    """
    is_real = torch.cuda.is_available()
    with nullcontext() if is_real else FakeTensorMode(allow_non_fake_inputs=True):
        yield torch.device("cuda", 0)


def is_mixing_devices(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, says that tensors are on several devices."""
    while error is not None:
        text = str(error)
        if "two different devices" in text or "same device" in text or "Expected all tensors" in text:
            return True
        error = error.__cause__
    return False
