"""Keyed numbers: frozen, uniform, and the same whoever else is in the batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fewshot_bench.errors import ShapeError
from fewshot_bench.training import episode_keys, image_keys, keyed_uniform
from fewshot_bench.training.randomness import check_uniform

WORD = (1 << 64) - 1
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
# The first words of SplitMix64 from the state 1234567, as Rosetta Code lists them for every language.
PUBLISHED = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]


def splitmix64(state: int, position: int) -> int:
    """Word number `position` of Vigna's public-domain splitmix64.c, in Python's whole numbers."""
    word = (state + (position + 1) * 0x9E3779B97F4A7C15) & WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & WORD
    return word ^ (word >> 31)


def keys(count: int, seed: int = 0) -> Tensor:
    return episode_keys(seed, 0, np.arange(count))


def test_without_counters_it_is_splitmix64_as_published() -> None:
    numbers = keyed_uniform(torch.tensor([1234567]), [], 5)
    assert numbers.tolist() == [[(word >> 40) / (1 << 24) for word in PUBLISHED]]


@given(key=INT64, counters=st.lists(st.integers(0, (1 << 62)), max_size=4))
def test_every_counter_replaces_the_state_by_a_word(key: int, counters: list[int]) -> None:
    state = key & WORD
    for counter in counters:
        state = splitmix64(state, counter)
    expected = [(splitmix64(state, position) >> 40) / (1 << 24) for position in range(3)]
    assert keyed_uniform(torch.tensor([key]), counters, 3).tolist() == [expected]


def test_numbers_are_frozen() -> None:
    numbers = keyed_uniform(keys(2), [3, 1], 3)
    assert numbers.dtype == torch.float32
    assert (numbers * 2**24).tolist() == [[9427602, 810321, 3224245], [11862397, 6741604, 3745382]]


def test_keys_are_frozen() -> None:
    assert episode_keys(0, 0, np.array([0, 2999])).tolist() == [3431401006027294091, -3439437414421355157]
    assert image_keys(0, np.array([0, 1])).tolist() == [4532971084729352780, -3058800259580316042]


@given(some=st.lists(st.integers(0, 39), min_size=1, unique=True), count=st.integers(1, 9))
def test_an_episode_s_numbers_do_not_depend_on_the_others_or_on_the_count(some: list[int], count: int) -> None:
    everything = keyed_uniform(keys(40), [7, 2], 9)
    assert torch.equal(keyed_uniform(keys(40)[some], [7, 2], count), everything[some, :count])


@given(counters=st.lists(INT64, min_size=1, max_size=3))
def test_counters_may_be_tensors(counters: list[int]) -> None:
    tensors = [torch.tensor(counter) for counter in counters]
    assert torch.equal(keyed_uniform(keys(4), tensors, 5), keyed_uniform(keys(4), counters, 5))


def test_nothing_is_read_back_from_the_device_of_the_keys() -> None:
    step = torch.tensor(5, device="meta")  # meta tensors have no values: reading one is an error
    assert keyed_uniform(keys(3).to("meta"), [step, 1], 6).shape == (3, 6)


@pytest.mark.parametrize("change", [([1, 0], 0), ([0, 1], 0), ([0], 0), ([0, 0, 0], 0), ([0, 0], 1)])
def test_other_counters_or_keys_give_other_numbers(change: tuple[list[int], int]) -> None:
    counters, seed = change
    assert (keyed_uniform(keys(50, seed), counters, 20) == keyed_uniform(keys(50), [0, 0], 20)).sum() <= 1


def test_seed_run_number_and_use_give_different_keys() -> None:
    numbers = np.arange(3000)
    some = [episode_keys(0, 0, numbers), episode_keys(1, 0, numbers), episode_keys(0, 1, numbers)]
    assert len(torch.cat([*some, image_keys(0, numbers), image_keys(1, numbers)]).unique()) == 5 * 3000


def test_a_key_depends_on_its_own_number_only() -> None:
    assert torch.equal(episode_keys(4, 2, np.array([7, 3])), episode_keys(4, 2, np.arange(9))[[7, 3]])


def samples() -> dict[str, Tensor]:
    """Thousands of numbers along each of the things that tell them apart."""
    one = keys(1)
    return {
        "positions": keyed_uniform(one, [0, 0], 1 << 18)[0],
        "steps": torch.cat([keyed_uniform(one, [step, 0], 1) for step in range(1 << 12)])[:, 0],
        "streams": torch.cat([keyed_uniform(one, [0, stream], 1) for stream in range(1 << 12)])[:, 0],
        "episodes": keyed_uniform(keys(1 << 15), [0, 0], 1)[:, 0],
        "neighbouring keys": keyed_uniform(torch.arange(1 << 18), [0, 0], 1)[:, 0],
    }


SAMPLES = samples()


@pytest.mark.parametrize("name", SAMPLES)
def test_numbers_are_uniform_and_uncorrelated(name: str) -> None:
    numbers = SAMPLES[name].double()
    count = len(numbers)
    assert (numbers >= 0).all()
    assert (numbers < 1).all()
    # Five standard errors of each statistic under independence.
    assert abs(numbers.mean() - 1 / 2) < 5 * (1 / 12 / count) ** 0.5
    assert abs(numbers.var() - 1 / 12) < 5 * (1 / 180 / count) ** 0.5
    centred = numbers - numbers.mean()
    for lag in (1, 2, 8):
        correlation = (centred[lag:] * centred[:-lag]).mean() / centred.var()
        assert abs(correlation) < 5 / count**0.5
    hits = torch.histc(numbers, 64, 0, 1)
    chi_square = ((hits - count / 64) ** 2 / (count / 64)).sum()
    assert abs(chi_square - 63) < 5 * (2 * 63) ** 0.5


def test_every_one_of_the_bits_is_fair() -> None:
    words = (SAMPLES["positions"] * 2**24).long()
    shares = torch.stack([(words >> bit & 1).double().mean() for bit in range(24)])
    assert (shares - 0.5).abs().max() < 5 * 0.5 / len(words) ** 0.5


@pytest.mark.parametrize("wrong", [torch.zeros(3), torch.zeros(3, dtype=torch.int32), torch.zeros(3, 1).long()])
def test_keys_of_another_type_or_shape_are_refused(wrong: Tensor) -> None:
    with pytest.raises(ShapeError, match=r"keys should be int64 \[E\]; these are .* Use episode_keys"):
        keyed_uniform(wrong, [0], 2)


@pytest.mark.parametrize("shape", [(2, 8), (3, 7), (3, 8, 1)])
def test_numbers_that_do_not_fit_the_images_are_refused(shape: Sequence[int]) -> None:
    images = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
    with pytest.raises(
        ShapeError, match=r"of 3 images takes uniform numbers float32 \[3, 8\]; these are torch.float32"
    ):
        check_uniform(images, torch.zeros(*shape), 8)
