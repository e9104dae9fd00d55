"""The optimiser of a training with its learning-rate schedule and loss scaling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from fewshot_bench.devices import to_device
from fewshot_bench.training.optimisation import (
    build_optimizer,
    build_schedule,
    gradient_scaler,
    optimizer_tensors,
    restore_optimizer,
)
from fewshot_bench.training.recipe import Recipe


class ScheduledOptimizer:
    """The optimiser of a training with its learning-rate schedule and loss scaling.

    A step that fp16 skips because of an overflow does not count for the schedule. To learn of it the host would wait
    for the GPU, so steps are counted on the GPU, where a table gives the learning rate of each; the host's schedule
    follows when it is read. Counting skipped steps too, as others do, would be simpler, but a GPU would follow another
    schedule than a CPU.

    Args:
        recipe: optimiser, schedule, precision.
        modules: what is trained.
        steps: of the whole training.
        device: of the modules.
    """

    def __init__(self, recipe: Recipe, modules: Sequence[nn.Module], steps: int, device: torch.device) -> None:
        self.optimizer = build_optimizer(recipe, modules)
        self.scaler = gradient_scaler(recipe.precision, device)
        self._on_device: _RatesOnDevice | None = None
        scheduled = self.optimizer
        if self.scaler.is_enabled() and _is_asynchronous(device):
            scheduled = _empty_optimizer(self.optimizer)
            self._on_device = _RatesOnDevice(_all_rates(recipe, self.optimizer, steps), device)
        self.schedule = build_schedule(recipe, scheduled, steps)
        self._set_rates()

    def zero_grad(self) -> None:
        """Drop the gradients of the last step."""
        self.optimizer.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those of the parameters, scaled if the precision needs it."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def step(self) -> None:
        """Update the weights by their gradients."""
        if not self.scaler.is_enabled():
            self.optimizer.step()
            self.schedule.step()
        elif self._on_device is None:
            scale = self.scaler.get_scale()
            self._scaled_step()
            if self.scaler.get_scale() >= scale:
                self.schedule.step()
        else:
            before = self._on_device.scale(self.scaler)
            self._scaled_step()
            self._on_device.count(self._on_device.scale(self.scaler) >= before)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step; waits for a GPU in fp16."""
        return self._rates()[0]

    def tensors(self) -> dict[str, Tensor]:
        """The moments of the optimiser by name."""
        return optimizer_tensors(self.optimizer)

    def position(self) -> dict[str, Any]:
        """The state of schedule and scaler, as plain data."""
        return {
            "rates": [{"lr": rate} for rate in self._rates()],
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, tensors: Mapping[str, Tensor], position: Mapping[str, Any]) -> None:
        """Continue from the `tensors` and `position` of the same recipe.

        Raises:
            KeyError, RuntimeError, ValueError: they are of another training.
        """
        restore_optimizer(self.optimizer, tensors, position["rates"])
        self.schedule.load_state_dict(position["schedule"])
        self.scaler.load_state_dict(position["scaler"])
        for group, rate in zip(self.schedule.optimizer.param_groups, position["rates"], strict=True):
            group.update(rate)
        self._set_rates()

    def _scaled_step(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _rates(self) -> list[float]:
        """The learning rate of each group of parameters."""
        if self._on_device is not None:
            for _ in range(self._on_device.counted() - self.schedule.last_epoch):
                self.schedule.optimizer.step()
                self.schedule.step()
        return [float(group["lr"]) for group in self.schedule.optimizer.param_groups]

    def _set_rates(self) -> None:
        if self._on_device is not None:
            self._on_device.set_counted(self.schedule.last_epoch)
            for group in self.optimizer.param_groups:
                group["lr"] = self._on_device.rate


class _RatesOnDevice:
    """The learning rate of the next step on a GPU, by the number of steps that counted."""

    def __init__(self, rates: Sequence[float], device: torch.device) -> None:
        self._rates = to_device(torch.tensor(rates), device)
        self._counted = torch.zeros(1, dtype=torch.int64, device=device)
        self._one = torch.ones((), device=device)
        self.rate = self._rates[0].clone()

    def scale(self, scaler: torch.amp.GradScaler) -> Tensor:
        """The scale of the losses; `get_scale` would wait for it."""
        scale: Tensor = scaler.scale(self._one)
        return scale

    def count(self, was_taken: Tensor) -> None:
        """Count a step that was not skipped."""
        self._counted += was_taken
        self.rate.copy_(self._rates.index_select(0, self._counted).squeeze())

    def counted(self) -> int:
        """The number of steps that counted."""
        return int(self._counted)

    def set_counted(self, count: int) -> None:
        """Continue from a number of steps."""
        self._counted.fill_(count)
        self.rate.copy_(self._rates[count])


def _is_asynchronous(device: torch.device) -> bool:
    return device.type == "cuda"


def _empty_optimizer(optimizer: Optimizer) -> Optimizer:
    """An optimiser of unused weights with as many groups, for a schedule to act on."""
    groups = [{"params": [torch.zeros(1)], "lr": group["lr"]} for group in optimizer.param_groups]
    return SGD(groups, lr=groups[0]["lr"])


def _all_rates(recipe: Recipe, optimizer: Optimizer, steps: int) -> list[float]:
    """The learning rate after each number of steps, from 0."""
    unused = _empty_optimizer(optimizer)
    schedule = build_schedule(recipe, unused, steps)
    rates = [float(unused.param_groups[0]["lr"])]
    for _ in range(steps):
        unused.step()
        schedule.step()
        rates.append(float(unused.param_groups[0]["lr"]))
    return rates
