"""A view is a function of the episode's key, the step and the image's place, and of nothing else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fewshot_bench.finetuning import episode_tasks
from fewshot_bench.finetuning.episode_tasks import EpisodeKeys, PooledViews, RedrawnViews, order_of_images
from fewshot_bench.training.augmentation import Augmentation, choose_augmentation

EPISODES, IMAGES, SIDE, STEPS = 3, 4, 8, 7
KEYS = torch.tensor([11, -7, 5 << 40])


@pytest.fixture(autouse=True)
def _few_steps_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episode_tasks, "_IMAGES_AT_ONCE", 2 * STEPS * EPISODES * IMAGES)


def support(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (EPISODES, IMAGES, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)


def normalise(images: Tensor) -> Tensor:
    return images.float() / 255


def fresh(images: Tensor, keys: Tensor, augmentation: Augmentation | None = None) -> RedrawnViews:
    chosen = augmentation or choose_augmentation("autoaugment", channels=3, image_size=SIDE)
    return RedrawnViews(images, EpisodeKeys(keys, keys), chosen, normalise)


def all_steps(made: episode_tasks.StepViews, steps: int = STEPS) -> Tensor:
    return torch.stack([made.at(step, None) for step in range(steps)])


def test_company_and_order_of_episodes_change_no_view() -> None:
    whole = all_steps(fresh(support(), KEYS))
    order = [2, 0, 1]
    assert torch.equal(all_steps(fresh(support()[order], KEYS[order])), whole[:, order])
    for episode in range(EPISODES):
        alone = slice(episode, episode + 1)
        assert torch.equal(all_steps(fresh(support()[alone], KEYS[alone])), whole[:, alone])


@pytest.mark.parametrize("at_once", [1, 2 * EPISODES * IMAGES, 5 * EPISODES * IMAGES, 40 * EPISODES * IMAGES])
def test_how_many_steps_are_made_together_changes_no_view(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = all_steps(fresh(support(), KEYS))
    monkeypatch.setattr(episode_tasks, "_IMAGES_AT_ONCE", at_once)
    assert torch.equal(all_steps(fresh(support(), KEYS)), whole)


def test_going_back_to_a_step_gives_its_views_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episode_tasks, "_IMAGES_AT_ONCE", 4 * EPISODES * IMAGES)
    made = fresh(support(), KEYS)
    whole = all_steps(made)
    for step in (0, 6, 3, 2):
        assert torch.equal(made.at(step, None), whole[step])


def test_another_image_changes_its_own_views_alone() -> None:
    other = support()
    other[1, 2] = 255 - other[1, 2]
    changed = (all_steps(fresh(support(), KEYS)) != all_steps(fresh(other, KEYS))).flatten(3).any(-1).any(0)
    expected = torch.zeros(EPISODES, 2 * IMAGES, dtype=torch.bool)
    expected[1, [2, IMAGES + 2]] = True
    assert torch.equal(changed, expected)


class Counting:
    """Leaves images alone, and notes how many it was given."""

    numbers = 0

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        self.seen += len(images)
        return images


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_no_view_is_made_that_no_step_will_see(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episode_tasks, "_IMAGES_AT_ONCE", 2 * at_once * EPISODES * IMAGES)
    counting = Counting()
    made = RedrawnViews(support(), EpisodeKeys(KEYS, KEYS), counting, normalise, steps=STEPS)
    all_steps(made)
    assert counting.seen == 2 * STEPS * EPISODES * IMAGES


def test_steps_beyond_the_last_have_views_all_the_same() -> None:
    augmentation = choose_augmentation("autoaugment", channels=3, image_size=SIDE)
    made = RedrawnViews(support(), EpisodeKeys(KEYS, KEYS), augmentation, normalise, steps=3)
    assert torch.equal(all_steps(made), all_steps(fresh(support(), KEYS)))


class Numbers:
    """A view of an image is the first random number it was given."""

    numbers = 2

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        return uniform[:, :1, None, None].expand(images.shape).clone()


def test_both_views_of_every_image_in_every_step_and_episode_are_drawn_on_their_own() -> None:
    numbers = all_steps(fresh(support(), KEYS, Numbers()))[..., 0, 0, 0] * 255
    assert numbers.unique().numel() == STEPS * EPISODES * 2 * IMAGES


def test_equal_keys_give_equal_views() -> None:
    made = all_steps(fresh(support()[:1].expand(2, -1, -1, -1, -1), KEYS[:1].expand(2)))
    assert torch.equal(made[:, 0], made[:, 1])


def test_an_augmentation_without_random_numbers_gives_the_images() -> None:
    made = fresh(support(), KEYS, choose_augmentation("none", channels=3, image_size=SIDE))
    assert torch.equal(made.at(0, None), normalise(support().repeat(1, 2, 1, 1, 1)))


@pytest.mark.parametrize("kind", ["fresh", "pooled"])
def test_chosen_images_are_both_views_of_those_rows(kind: str) -> None:
    made = fresh(support(), KEYS) if kind == "fresh" else pooled(5)
    chosen = torch.tensor([[3, 0], [1, 1], [2, 3]])
    every, some = made.at(4, None), made.at(4, chosen)
    assert some.shape[:2] == (EPISODES, 4)
    for episode, (first, second) in enumerate(chosen.tolist()):
        rows = [first, second, IMAGES + first, IMAGES + second]
        assert torch.equal(some[episode], every[episode, rows])


def pooled(count: int) -> PooledViews:
    """Each entry of the pool is (episode, view, image)."""
    axes = (torch.arange(size) for size in (EPISODES, count, IMAGES))
    pool = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    return PooledViews(pool, EpisodeKeys(KEYS, KEYS))


@pytest.mark.parametrize("count", [2, 3, 8])
def test_two_different_views_of_the_right_image_are_drawn_from_the_pool(count: int) -> None:
    drawn = all_steps(pooled(count), 100)
    episode, view, image = drawn.unbind(-1)
    assert (episode == torch.arange(EPISODES).view(1, -1, 1)).all()
    assert (image == torch.arange(IMAGES).repeat(2)).all()
    first, second = view.split(IMAGES, dim=2)
    assert (first != second).all()
    for one in (first, second):
        shares = torch.stack([(one == number).float().mean(dim=(0, 1)) for number in range(count)])
        assert (shares > 0).all(), "every view is drawn for every image"
        assert (shares - 1 / count).abs().max() < 0.11, "and none much more often: 300 draws each"


@pytest.mark.parametrize("uniform", [0.0, 1 - 2.0**-24])
@pytest.mark.parametrize("count", [*range(2, 12), 100, 1000])
def test_the_smallest_and_largest_random_numbers_stay_in_the_pool(
    count: int, uniform: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(episode_tasks, "keyed_uniform", lambda keys, _, size: torch.full((len(keys), size), uniform))
    _, view, _ = pooled(count).at(0, None).unbind(-1)
    first, second = view.split(IMAGES, dim=1)
    assert ((view >= 0) & (view < count)).all()
    assert (first != second).all()


def test_the_pool_is_normalised_where_it_holds_images() -> None:
    pool = torch.stack([support(seed) for seed in range(3)], dim=1)
    keys = EpisodeKeys(KEYS, KEYS)
    plain, normal = PooledViews(pool, keys).at(2, None), PooledViews(pool, keys, normalise).at(2, None)
    assert plain.dtype == torch.uint8
    assert torch.equal(normal, normalise(plain))


def test_company_changes_no_draw_from_the_pool() -> None:
    pool = torch.stack([support(seed) for seed in range(3)], dim=1)
    whole = all_steps(PooledViews(pool, EpisodeKeys(KEYS, KEYS)))
    alone = PooledViews(pool[1:2], EpisodeKeys(KEYS[1:2], KEYS[1:2]))
    assert torch.equal(all_steps(alone), whole[:, 1:2])
    steps = [step.tobytes() for step in all_steps(pooled(3)).numpy()]
    assert len(set(steps)) == STEPS, "every step draws anew"


@settings(deadline=None, max_examples=30)
@given(images=st.integers(1, 40), epoch=st.integers(0, 10**6), key=st.integers(-(2**63), 2**63 - 1))
def test_every_epoch_has_a_permutation_of_the_images(images: int, epoch: int, key: int) -> None:
    keys = torch.tensor([key, 3])
    order = order_of_images(keys, epoch, images)
    assert torch.equal(order.sort(dim=1).values, torch.arange(images).expand(2, -1))
    assert torch.equal(order_of_images(keys[:1], epoch, images), order[:1])


def test_orders_differ_between_epochs_and_episodes() -> None:
    orders = [tuple(order.tolist()) for epoch in range(5) for order in order_of_images(KEYS, epoch, 25)]
    assert len(set(orders)) == 15
