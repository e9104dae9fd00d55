"""Knowledge distillation: a student learns the softened predictions of a teacher."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import kl_div

from fewshot_bench.errors import ShapeError, StudyError
from fewshot_bench.losses.arrays import takes_arrays
from fewshot_bench.losses.contrastive import at_least_float32


@takes_arrays
def distillation(logits: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Mean divergence of a student's predictions from a teacher's (Hinton et al., 2015).

        T^2 * mean over views of KL(softmax(teacher / T) || softmax(logits / T))

    The factor T^2 keeps the size of the gradients at any temperature, as in the code of RFS (Tian et al., 2020).

    Args:
        logits: of the student, [..., B, C].
        teacher: its logits of the same views, [..., B, C].
        temperature: T, which softens both predictions.

    Returns:
        [...], in float64 for float64 and in float32 otherwise.

    Raises:
        ShapeError: student and teacher differ in views or classes.
        StudyError: the temperature is not positive.

    Examples:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> float(distillation(logits, logits, temperature=4.0))
        0.0
        >>> round(float(distillation(logits, logits.flip(1), temperature=4.0)), 4)
        1.2284
    """
    if temperature <= 0:
        raise StudyError(f"temperature should be positive, not {temperature}.")
    if logits.shape != teacher.shape or logits.ndim < 2:
        raise ShapeError(
            f"distillation got logits {list(logits.shape)} of a student and {list(teacher.shape)} of its teacher."
        )
    own, target = (at_least_float32(values) / temperature for values in (logits, teacher))
    divergences: Tensor = kl_div(own.log_softmax(-1), target.log_softmax(-1), reduction="none", log_target=True)
    return temperature**2 * divergences.sum(-1).mean(-1)
