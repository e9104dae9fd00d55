"""What every loss must keep, so that training can minimise it in batches of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from fewshot_bench.errors import ConformanceError, FewshotBenchError
from fewshot_bench.losses import LOSSES, Loss, readings_of
from fewshot_bench.losses.registry import checked_loss
from fewshot_bench.testing.conformance import (
    Properties,
    difference,
    expect,
    is_mixing_devices,
    other_random_numbers,
    random_states,
    second_device,
)
from fewshot_bench.training.classification import (
    Batch,
    Network,
    cached_gradients,
    gradients_at_once,
    summed_gradients,
)


def check_loss(loss: Loss | Callable[..., Tensor] | str, *properties: str) -> None:
    """Check that a loss has the properties that training relies on, on small made-up batches.

    Args:
        loss: a function that takes what `fewshot_bench.losses.Loss` takes, or a registered name.
        properties: some of `LOSS_PROPERTIES`; none for all. Leave out "gradient" for a loss that holds a part of
            itself constant.

    Raises:
        ConformanceError: it lacks a property. The sentence says which, how far off it is and how to mend it.
        UnknownNameError: there is no such property or loss.

    >>> check_loss("ce+schane", "shapes", "batch_order")
    """
    subject = _subject(loss)
    LOSS_PROPERTIES.check(subject.name, subject, properties)


@dataclass(frozen=True)
class _Subject:
    """A loss under test.

    Attributes:
        name: for messages.
        loss: with its results checked.
        readings: that it takes.
        compares_views: whether views of a batch are compared with each other.
    """

    name: str
    loss: Loss
    readings: tuple[Any, ...]
    compares_views: bool

    def __call__(self, batch: _Views, reading: Any = None, lambda_: float = 0.6, tau: float = 0.3) -> Tensor:
        return self.loss(
            batch.logits,
            batch.embeddings,
            batch.labels,
            batch.images,
            lambda_=lambda_,
            tau=tau,
            reading=reading or self.readings[0],
        )


def _subject(loss: Loss | Callable[..., Tensor] | str) -> _Subject:
    if isinstance(loss, str):
        entry = LOSSES[loss]
        compares_views = bool(entry.facts.get("is_contrastive", True))
        return _Subject(loss, checked_loss(loss, entry.factory), readings_of(loss) or ("out",), compares_views)
    if not callable(loss):
        raise ConformanceError(f"{loss!r} is not a loss. Pass a function or a registered name.")
    name = getattr(loss, "__name__", type(loss).__name__)
    return _Subject(name, checked_loss(name, cast(Loss, loss)), ("in", "out"), True)


@dataclass(frozen=True)
class _Views:
    """Two views of each of some images: logits [..., B, C], embeddings [..., B, D], labels and images [..., B]."""

    logits: Tensor
    embeddings: Tensor
    labels: Tensor
    images: Tensor

    def with_gradients(self) -> _Views:
        """The same numbers, as leaves that ask for gradients."""
        logits, embeddings = (part.detach().clone().requires_grad_() for part in (self.logits, self.embeddings))
        return replace(self, logits=logits, embeddings=embeddings)


def _views(*leading: int, images: int = 6, dtype: torch.dtype = torch.float32, seed: int = 0) -> _Views:
    """Embeddings around the means of three classes, and logits that are right more often than not."""
    generator = torch.Generator().manual_seed(seed)
    labels, ids = (torch.arange(images) % 3).repeat(2), torch.arange(images).repeat(2)
    means = 2 * torch.randn(3, 4, generator=generator, dtype=torch.float64)
    shape = (*leading, 2 * images)
    embeddings = means[labels] + torch.randn(*shape, 4, generator=generator, dtype=torch.float64)
    logits = torch.randn(*shape, 3, generator=generator, dtype=torch.float64)
    logits = logits + nn.functional.one_hot(labels, 3)
    return _Views(logits.to(dtype), embeddings.to(dtype), labels, ids)


def _shapes(subject: _Subject) -> None:
    for leading in ((), (3,), (2, 3)):
        for reading in subject.readings:
            subject(_views(*leading).with_gradients(), reading)  # what it returns is checked
    shared = _views(3)
    own = replace(shared, labels=shared.labels.expand(3, -1), images=shared.images.expand(3, -1))
    expect(
        difference(subject(own), subject(shared)),
        "labels [3, B] give other losses than the same labels [B] for 3 batches ({}). Leading dimensions broadcast: "
        "index and compare from the last axis, e.g. labels.unsqueeze(-1) == labels.unsqueeze(-2).",
    )


def _dtype(subject: _Subject) -> None:
    for dtype in (torch.float32, torch.float64):
        found = subject(_views(dtype=dtype)).dtype
        if found != dtype:
            raise ConformanceError(
                f"the loss of {str(dtype).removeprefix('torch.')} embeddings is {str(found).removeprefix('torch.')}. "
                "Make constants in the dtype of the embeddings, e.g. embeddings.new_zeros(...)."
            )


def _cases() -> Iterator[tuple[str, _Views]]:
    plain = _views()
    views = len(plain.labels)
    yield "embeddings and logits are ordinary", plain
    yield "all embeddings are equal", replace(plain, embeddings=torch.ones_like(plain.embeddings))
    yield "all embeddings are zero", replace(plain, embeddings=torch.zeros_like(plain.embeddings))
    yield "the logits are as large as 1,000", replace(plain, logits=1000 * plain.logits)
    yield "the embeddings are as long as 1,000", replace(plain, embeddings=1000 * plain.embeddings)
    yield "all views are of one class", replace(plain, labels=torch.zeros(views, dtype=torch.int64))
    yield "every image has a class of its own", replace(_views(images=3), labels=torch.arange(3).repeat(2))
    yield "one class has a single image", replace(plain, labels=(plain.images == 0).long())
    yield (
        "there is one view of one image",
        _Views(plain.logits[:1], plain.embeddings[:1], plain.labels[:1], plain.images[:1]),
    )


def _finite(subject: _Subject) -> None:
    for reading in subject.readings:
        for lambda_, tau in ((0.0, 0.5), (0.6, 0.1), (1.0, 0.5)):
            for case, batch in _cases():
                given = batch.with_gradients()
                loss = subject(given, reading, lambda_, tau)
                gradients = _gradients(loss, given)
                found = "the loss" if not bool(loss.isfinite()) else ""
                if not found and not all(bool(gradient.isfinite().all()) for gradient in gradients):
                    found = "its gradient"
                if found:
                    raise ConformanceError(
                        f"{found} is not finite where {case} (lambda {lambda_}, tau {tau}), and one such batch ends a "
                        "training. Bound divisors and logarithms from below, and mask by torch.where on both sides."
                    )


def _gradients(loss: Tensor, given: _Views) -> list[Tensor]:
    wanted = [given.logits, given.embeddings]
    return list(torch.autograd.grad(loss.sum(), wanted, allow_unused=True, materialize_grads=True))


_STEP = 1e-6


def _gradient(subject: _Subject) -> None:
    for reading in subject.readings:
        given = _views(images=4, dtype=torch.float64).with_gradients()
        gradients = _gradients(subject(given, reading), given)
        for part, gradient in zip(("logits", "embeddings"), gradients, strict=True):
            expect(
                difference(
                    gradient, _finite_differences(subject, reading, given, part), f"entries of d loss / d {part}"
                ),
                "the gradient is not that of the loss: {} (finite differences in float64). A detach(), .data, round or "
                "argmax cuts it off. If a part is meant to be constant, leave this property out.",
            )


@torch.no_grad()
def _finite_differences(subject: _Subject, reading: Any, given: _Views, part: str) -> Tensor:
    values: Tensor = getattr(given, part).detach()
    moves = _STEP * torch.eye(values.numel(), dtype=values.dtype).view(-1, *values.shape)
    slopes = [
        subject(replace(given, **{part: values + move}), reading)
        - subject(replace(given, **{part: values - move}), reading)
        for move in moves
    ]
    return torch.stack(slopes).view_as(values) / (2 * _STEP)


def _direction(subject: _Subject) -> None:
    batch = _views(dtype=torch.float64)
    right = 4 * nn.functional.one_hot(batch.labels, 3).double()
    near = right @ torch.eye(3, 4, dtype=torch.float64)
    good = subject(replace(batch, logits=right, embeddings=near))
    bad = subject(replace(batch, logits=-right, embeddings=near[torch.randperm(12, generator=_generator())]))
    if float(good) > float(bad) + 1e-9:
        raise ConformanceError(
            f"the loss is {float(good):.3g} where every class is told apart and {float(bad):.3g} where none is. "
            "Training minimises it: change its sign."
        )


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _batch_order(subject: _Subject) -> None:
    batch = _views(dtype=torch.float64)
    order = torch.randperm(len(batch.labels), generator=_generator())
    shuffled = _Views(*(getattr(batch, name)[order] for name in ("logits", "embeddings", "labels", "images")))
    for reading in subject.readings:
        expect(
            difference(subject(shuffled, reading), subject(batch, reading)),
            "the order of the views changes the loss ({}). Which views belong together is in labels and images, not in "
            "their places.",
        )


def _batches(subject: _Subject) -> None:
    batch = _views(3, dtype=torch.float64)
    for reading in subject.readings:
        alone = [
            subject(replace(batch, logits=logits, embeddings=embeddings), reading)
            for logits, embeddings in zip(batch.logits, batch.embeddings, strict=True)
        ]
        expect(
            difference(subject(batch, reading), torch.stack(alone)),
            "3 batches at once give other losses than one after the other ({}). Reduce over the last axes alone, e.g. "
            "by mean(-1), never over leading dimensions.",
        )


def _micro_batches(subject: _Subject) -> None:
    batch = Batch(torch.arange(12.0).view(12, 1), *_labels_and_images())
    in_parts = cached_gradients if subject.compares_views else summed_gradients
    found, expected = (
        _trained(subject, batch, compute) for compute in (lambda n, b: in_parts(n, b, 2), gradients_at_once)
    )
    kind = "" if subject.compares_views else " It is registered as is_contrastive=False, a mean over views: is it one?"
    for name, one, other in zip(
        ("loss", "gradient of the encoder", "gradient of the head"), found, expected, strict=True
    ):
        expect(
            difference(one, other, "numbers"),
            f"micro-batches of 2 images give another {name} than the whole batch ({{}}). A loss is a pure function of "
            f"its arguments: it keeps nothing between calls and asks for no gradients itself.{kind}",
        )


def _labels_and_images() -> tuple[Tensor, Tensor]:
    return (torch.arange(6) % 3).repeat(2), torch.arange(6).repeat(2)


def _trained(subject: _Subject, batch: Batch, compute: Callable[[Network, Batch], Any]) -> tuple[Tensor, ...]:
    """Loss and gradients of a small encoder and head, which are the same each time."""
    generator = _generator()
    encoder = torch.randn(1, 4, generator=generator, dtype=torch.float64).requires_grad_()
    head = torch.randn(4, 3, generator=generator, dtype=torch.float64).requires_grad_()

    def loss(logits: Tensor, embeddings: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        return subject(_Views(logits, embeddings, labels, images))

    network = Network(
        encode=lambda part: (part.views.double() @ encoder).sin(),
        head=lambda embeddings: embeddings @ head,
        loss=loss,
        backward=lambda value: value.backward(),  # type: ignore[no-untyped-call]  # torch leaves it untyped
        buffers=(),
        device=torch.device("cpu"),
    )
    measured = compute(network, batch)
    gradients = [torch.zeros_like(part) if part.grad is None else part.grad for part in (encoder, head)]
    return (measured.loss, *gradients)


def _inputs(subject: _Subject) -> None:
    batch = _views()
    before = {name: value.clone() for name, value in vars(batch).items()}
    subject(batch)
    for name, value in vars(batch).items():
        if not torch.equal(value, before[name]):
            changed = int((value != before[name]).sum())
            raise ConformanceError(
                f"the loss changes {changed:,} of {value.numel():,} numbers of {name} in place. Replace operations "
                "that end in _ by those that return a new tensor."
            )


def _determinism(subject: _Subject) -> None:
    with other_random_numbers(1):
        before = random_states()
        first = subject(_views())
        is_untouched = random_states() == before
    with other_random_numbers(2):
        expect(
            difference(subject(_views()), first),
            "a second call on the same batch gives another loss ({}). Keep nothing between calls, and draw no random "
            "numbers.",
        )
    if not is_untouched:
        raise ConformanceError(
            "the loss draws from or seeds the global random numbers, and so changes the augmentation of later batches."
        )


def _device(subject: _Subject) -> None:
    batch = _views()
    way_out = "Make tensors on embeddings.device, e.g. torch.eye(views, device=embeddings.device)."
    with second_device() as device:
        there = _Views(*(value.to(device) for value in vars(batch).values()))
        try:
            subject(there)
        except Exception as error:
            if is_mixing_devices(error) or (isinstance(error, FewshotBenchError) and "a loss on" in str(error)):
                text = " ".join(str(error).split())[:200]
                raise ConformanceError(f"it mixes the CPU with the device of the batch ({text}). {way_out}") from error
            if torch.cuda.is_available():
                raise


LOSS_PROPERTIES = Properties(
    {
        "shapes": _shapes,
        "dtype": _dtype,
        "finite": _finite,
        "gradient": _gradient,
        "direction": _direction,
        "batch_order": _batch_order,
        "batches": _batches,
        "micro_batches": _micro_batches,
        "inputs": _inputs,
        "determinism": _determinism,
        "device": _device,
    }
)
"""The names of what `check_loss` checks, for `pytest.mark.parametrize`."""
