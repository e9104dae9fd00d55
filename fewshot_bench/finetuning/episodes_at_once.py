"""How many episodes train fastest together on a CPU.

More at once saves overhead while activations stay near the caches, and frozen layers that all episodes share are faster
on larger batches. Both depend on network and machine, so a short trial of a few numbers decides.
"""

from __future__ import annotations

import hashlib
from functools import partial

import torch
from torch import Tensor

from fewshot_bench.cache.trials import Trial, choose
from fewshot_bench.finetuning.frozen_prefix import NetworkParts
from fewshot_bench.finetuning.recipe import EpisodeRecipe
from fewshot_bench.finetuning.trainer import EpisodeTrainer

_NEAR_THE_CACHES = 70 << 20
_NUMBERS = (1, 2, 4, 8, 16, 64)
_MOST_IN_A_TRIAL = 320 << 20


def fastest_on_cpu(
    parts: NetworkParts, recipe: EpisodeRecipe, inputs: Tensor, per_episode: int, *, way: int, shot: int
) -> int:
    """The number of episodes at once that takes the least time per episode.

    Args:
        parts: the backbone; heads alone are small, and as many as stay near the caches train together.
        recipe: how to train.
        inputs: of a step of one episode, [1, 2B, ...].
        per_episode: bytes that an episode takes; bounds the trial.
        way: N.
        shot: K.
    """
    numbers = [number for number in _NUMBERS if number * per_episode <= _MOST_IN_A_TRIAL]
    if not parts.tuned or not recipe.steps(way * shot):
        return max(1, _NEAR_THE_CACHES // max(1, per_episode))
    if len(numbers) < 2:
        return 1
    trainers: dict[int, EpisodeTrainer] = {}

    def run(number: int) -> None:
        """Steps of as many episodes, whatever goes at once."""
        if number not in trainers:
            trainers[number] = EpisodeTrainer(parts, recipe, episodes=number, way=way, shot=shot)
            trainers[number].prepare()
        with torch.enable_grad():
            for _ in range(numbers[-1] // number):
                trainers[number].try_step(inputs.expand(number, *inputs.shape[1:]))

    trained = f"{parts.rest} {parts.tuned} {recipe.loss} {recipe.precision} {recipe.bn} {recipe.on}"
    digest = hashlib.sha256(trained.encode()).hexdigest()[:16]
    key = f"episodes at once of {type(parts.rest).__name__} {digest} for {tuple(inputs.shape)}, {way}-way"
    trial = Trial(key, {str(number): partial(run, number) for number in numbers})
    return int(choose([trial], inputs.device)[key])
