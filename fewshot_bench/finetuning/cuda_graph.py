"""A training step recorded once and replayed: on a GPU as a CUDA graph, without a hundred launches per step.

Everything that changes from step to step (inputs, step number, learning rate) lies in tensors that keep their place.
Random numbers are functions of the step number, so a replay draws new ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor | None, Tensor, Tensor], Tensor]
"""Inputs [E, 2B, ...], chosen images [E, B] or None, keys [E] and the number of the step to the losses, [E]."""

Capture = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]
"""From something to run to something that runs it again."""

_WARM_UP_STEPS = 3


class ReplayedStep:
    """A step whose arguments are copied into tensors that stay in their place."""

    def __init__(self, step: Step, inputs: Tensor, chosen: Tensor | None, keys: Tensor, capture: Capture) -> None:
        """Record a step by running it a few times; weights and optimiser must be reset afterwards.

        Args:
            step: what to record.
            inputs: of the shape that all steps have, as `chosen` and `keys` are.
            chosen: None if it is None in all steps.
            keys: of the episodes.
            capture: `cuda_graph`, or something that behaves like it.
        """
        self._inputs, self._chosen, self._keys = (
            inputs.clone(),
            None if chosen is None else chosen.clone(),
            keys.clone(),
        )
        self._number = torch.zeros((), dtype=torch.int64, device=keys.device)
        self._replay = capture(lambda: step(self._inputs, self._chosen, self._keys, self._number))

    def __call__(self, inputs: Tensor, chosen: Tensor | None, keys: Tensor, number: int) -> Tensor:
        """Run the step on other arguments; the losses, [E]."""
        self._inputs.copy_(inputs)
        self._keys.copy_(keys)
        self._number.fill_(number)
        if self._chosen is not None and chosen is not None:
            self._chosen.copy_(chosen)
        return self._replay().clone()

    def fits(self, inputs: Tensor) -> bool:
        """Whether arguments of that shape can be replayed."""
        return inputs.shape == self._inputs.shape


def cuda_graph(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Capture work on the current CUDA device, after a few runs; where that fails, run it without a graph."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP_STEPS):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            losses = run()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        warnings.warn(f"the training step is not captured as a CUDA graph and runs slower: {error}", stacklevel=2)
        return run

    def replay() -> Tensor:
        graph.replay()
        return losses

    return replay
