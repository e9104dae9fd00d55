"""The optimiser of a recipe, its learning-rate schedule and precision, and whether a batch fits into memory."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR

from fewshot_bench.backbones.blocks import parameter_blocks
from fewshot_bench.devices import free_bytes
from fewshot_bench.errors import StudyError
from fewshot_bench.training.recipe import PrecisionName, Recipe
from fewshot_bench.units import bytes_text


def build_optimizer(recipe: Recipe, modules: Sequence[nn.Module]) -> Optimizer:
    """The optimiser of a recipe over all parameters of some modules, those that it decays in the first group.

    Args:
        recipe: optimiser, learning rate, decay.
        modules: what is trained, the backbone first.
    """
    parameters = [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
    least = 0 if recipe.decays == "all" else 2
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= least], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < least], "weight_decay": 0.0},
    ]
    if recipe.layer_decay < 1:
        groups = [group for each in groups for group in _by_block(each, recipe, modules[0])]
    if recipe.optimizer == "sgd":
        return SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.nesterov)
    kind = AdamW if recipe.optimizer == "adamw" else Adam
    # One kernel for all weights, and none waits for the scale of fp16. On a CPU it would round differently.
    fused = True if all(parameter.is_cuda for parameter in parameters) else None
    return kind(groups, lr=recipe.learning_rate, fused=fused)


def _by_block(group: dict[str, Any], recipe: Recipe, backbone: nn.Module) -> list[dict[str, Any]]:
    """A group of parameters divided by blocks, each with a lower learning rate than the one behind it.

    The rate of the head is that of the recipe, and each block in front multiplies it by the decay once more, as in
    BEiT's fine-tuning (Bao et al., 2022); timm's `param_groups_layer_decay` counts the same way where its last group
    is a head.
    """
    blocks = parameter_blocks(backbone)
    depth = {name: number for number, names in enumerate(blocks) for name in names}
    of_parameter = {id(parameter): depth[name] for name, parameter in backbone.named_parameters()}
    divided: dict[int, list[Tensor]] = {}
    for parameter in group["params"]:
        divided.setdefault(of_parameter.get(id(parameter), len(blocks)), []).append(parameter)
    return [
        {**group, "params": found, "lr": recipe.learning_rate * recipe.layer_decay ** (len(blocks) - number)}
        for number, found in sorted(divided.items(), reverse=True)
    ]


def build_schedule(recipe: Recipe, optimizer: Optimizer, steps: int) -> LRScheduler:
    """The learning rate at every step of a training of that many steps."""
    if recipe.schedule == "one-cycle":
        # The momentum stays: short trainings from scratch gain nothing by cycling Adam's first beta.
        highest = [float(group["lr"]) for group in optimizer.param_groups]
        return OneCycleLR(optimizer, highest, total_steps=steps + 1, cycle_momentum=False)
    if recipe.warmup_epochs:
        return LambdaLR(optimizer, warmed_up(recipe, steps))
    if recipe.drops:
        return LambdaLR(optimizer, dropped(recipe, steps))
    if recipe.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=steps)
    return ConstantLR(optimizer, factor=1.0)


def warmed_up(recipe: Recipe, steps: int) -> Callable[[int], float]:
    """From a step to its share of the learning rate: a linear rise, then a constant or cosine schedule."""
    rising = max(1, min(steps - 1, round(recipe.warmup_epochs * steps / recipe.epochs)))

    def share(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        if recipe.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))

    return share


def dropped(recipe: Recipe, steps: int) -> Callable[[int], float]:
    """From a step to its share of the learning rate, which falls at the epochs of `drops`.

    In between it is constant, or a cosine that ends at 0 and restarts (Loshchilov and Hutter, 2017).
    """
    starts = [0, *(round(epoch * steps / recipe.epochs) for epoch, _ in recipe.drops), steps]
    shares = [1.0, *(share for _, share in recipe.drops)]

    def share(step: int) -> float:
        number = max(number for number, start in enumerate(starts[:-1]) if step >= start)
        if recipe.schedule == "steps":
            return shares[number]
        length = max(1, starts[number + 1] - starts[number])
        return shares[number] * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - starts[number]) / length)))

    return share


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """The moments and step counts of an optimiser, as `optimizer.PARAMETER.NAME`."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{number}.{name}": value for number, kept in state.items() for name, value in kept.items()}


def restore_optimizer(
    optimizer: Optimizer, tensors: Mapping[str, Tensor], rates: Sequence[Mapping[str, float]]
) -> None:
    """Restore `optimizer_tensors` and learning rates of the same recipe; raises ValueError for another's."""
    content = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".")
            parameter = parameters[int(number)]
            # In the parameter's memory order, so that the optimiser rounds as without a stop.
            kept = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
            state.setdefault(int(number), {})[name] = kept
    groups = zip(content["param_groups"], rates, strict=True)
    optimizer.load_state_dict({"state": state, "param_groups": [{**group, **rate} for group, rate in groups]})


_TYPES: dict[PrecisionName, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def autocast(precision: PrecisionName, device: torch.device) -> Iterator[None]:
    """Compute products and convolutions in a precision; "float32" changes nothing.

    Enter it anew for each forward pass: autocast keeps its copies of the weights until it exits, and copies made
    without gradients would cut off those of a later pass.
    """
    if precision == "float32":
        yield
        return
    with torch.autocast(device.type, _TYPES[precision]):
        yield


def gradient_scaler(precision: PrecisionName, device: torch.device) -> torch.amp.GradScaler:
    """Keeps gradients in the range of fp16 (Micikevicius et al., 2018); does nothing in other precisions."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


SHARE_OF_MEMORY = 0.9
"""Share of the free memory that the activations of a micro-batch may take."""
COPIES_OF_A_WEIGHT = 4
"""Copies of a weight in training: itself, its gradient, and two moments of Adam."""


@dataclass(frozen=True)
class StepMemory:
    """The memory of a training step, and what is free.

    Attributes:
        per_image: bytes kept for each image of the batch, in all its views.
        weights: bytes of the weights, their gradients and moments.
        free: bytes; None where the system does not say.
        device: in words.
        views: of each image.
    """

    per_image: float
    weights: int
    free: int | None
    device: str
    views: int = 2

    @property
    def in_views(self) -> str:
        """The views of an image in words, for a message."""
        return " in two views" if self.views == 2 else ""

    @classmethod
    def measured(
        cls, backbone: nn.Module, four_images: Tensor, *, precision: PrecisionName = "float32", views: int = 2
    ) -> StepMemory:
        """The memory of a backbone, which is not changed, on the device of its inputs [4, C, S, S]."""
        per_image = views * activation_bytes(backbone, four_images, precision=precision)
        free = free_bytes(four_images.device)
        return cls(per_image, training_bytes(backbone), free, four_images.device.type, views)


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """The batch normalisations of a module, whose statistics are those of a micro-batch."""
    return [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]


def training_bytes(backbone: nn.Module) -> int:
    """Bytes of the weights of a backbone in training, with gradients and moments."""
    return COPIES_OF_A_WEIGHT * sum(parameter.nbytes for parameter in backbone.parameters())


def refuse_batches_that_do_not_fit(memory: StepMemory, batch_size: int) -> None:
    """Refuse a batch whose activations need more memory than is free.

    With EfficientNet-Lite0 at 224 pixels the measured peak is 2 to 7% above this estimate.

    Args:
        memory: of a step.
        batch_size: images per step.

    Raises:
        StudyError: the activations of one step need more memory than is free.
    """
    free, per_image = memory.free, memory.per_image
    if free is None or batch_size * per_image <= free:
        return
    raise StudyError(
        f"training on batches of {batch_size:,} images{memory.in_views} needs about "
        f"{bytes_text(batch_size * per_image)}; {bytes_text(free)} are free on {memory.device}, and smaller parts "
        f"would change the network's batch normalisation. Use --base-batch {_fitting(free, per_image)} or less, "
        "--base-precision bf16, a smaller --image-size, or fewshot-bench train, which trains in smaller parts and "
        "records their size."
    )


def fitting_micro_batch(memory: StepMemory, batch_size: int, least: int = 1) -> int:
    """How many images' activations fit into memory beside the weights.

    Args:
        memory: of a step.
        batch_size: images per step.
        least: images that must fit, such as those of a task.

    Returns:
        `batch_size` if it fits or the free memory is unknown; otherwise a power of two that fits, or `least`.

    Raises:
        StudyError: not even the least number fits.
    """
    free, per_image, needed_for_weights = memory.free, memory.per_image, memory.weights
    if free is None:
        return batch_size
    left = free - needed_for_weights
    if batch_size * per_image <= SHARE_OF_MEMORY * left:
        return batch_size
    if least * per_image > SHARE_OF_MEMORY * left:
        images = "one image" if least == 1 else f"a task of {least:,} images"
        raise StudyError(
            f"training needs about {bytes_text(needed_for_weights + least * per_image)} for {images}{memory.in_views}; "
            f"{bytes_text(free)} are free on {memory.device}. Use a smaller --image-size or backbone"
            f"{'.' if least == 1 else ', or a smaller --way, --shot or --query.'}"
        )
    return min(batch_size, max(least, _power_of_two(SHARE_OF_MEMORY * left / per_image)))


def activation_bytes(backbone: nn.Module, four_images: Tensor, *, precision: PrecisionName = "float32") -> float:
    """Bytes per image that a training step keeps for its backward pass.

    The difference between four images and two leaves out the weights, which are kept once.

    Args:
        backbone: on any device; it is not changed.
        four_images: its inputs, [4, C, S, S].
        precision: of the network.
    """
    probe = copy.deepcopy(backbone).to(four_images.device).train()
    # Dropout must not change the caller's random numbers.
    devices = [four_images.device] if four_images.device.type == "cuda" else []
    forked = torch.random.fork_rng(devices=devices)
    with forked, torch.enable_grad(), autocast(precision, four_images.device):
        # Cloned, because a slice keeps the whole tensor.
        four, two = (kept_bytes(partial(probe, images)) for images in (four_images, four_images[:2].clone()))
    return (four - two) / 2


def kept_bytes(run: Callable[[], object]) -> int:
    """Bytes kept for the backward pass of a forward pass, each storage once."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        # Holding the tensor keeps its storage from being replaced; one without memory has no address of its own.
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _fitting(free: int, per_image: float) -> int:
    """The largest power of two that fits with a tenth to spare, at least 2."""
    return max(2, _power_of_two(SHARE_OF_MEMORY * free / per_image))


def _power_of_two(most: float) -> int:
    """The largest that is not above a number, at least 1."""
    return 1 << (max(1, int(most)).bit_length() - 1)
