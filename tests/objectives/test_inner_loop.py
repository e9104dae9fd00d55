"""The inner loop against plain loops, finite differences, and learn2learn where it is installed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from fewshot_bench.backbones.networks import Conv4
from fewshot_bench.errors import StudyError
from fewshot_bench.finetuning.stacked_channels import ChannelStackedNetwork
from fewshot_bench.finetuning.stacked_network import VmapStackedNetwork
from fewshot_bench.objectives.inner_loop import BACKBONE, HEAD, InnerLoop, TaskNetwork, inner_steps

TASKS, WAY, SHOT, QUERIES, RATE = 3, 3, 2, 9, 0.1


class _Tiny(nn.Sequential):
    """Two convolutions with batch normalisation, 8 pixels to 12 numbers."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.MaxPool2d(2), nn.ReLU(inplace=True),
            nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(),
        )  # fmt: skip


class _Perceptron(nn.Sequential):
    """Without batch normalisation; its linear layer cannot lie in the channels."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(2 * 64, 12), nn.LayerNorm(12), nn.Tanh())


def _task(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Support images and queries of some tasks, and the labels of one."""
    generator = torch.Generator().manual_seed(seed)
    support = torch.randn(TASKS, WAY * SHOT, 2, 8, 8, generator=generator, dtype=torch.float64)
    query = torch.randn(TASKS, QUERIES, 2, 8, 8, generator=generator, dtype=torch.float64)
    return support, query, torch.arange(WAY).repeat_interleave(SHOT), torch.arange(QUERIES) % WAY


def _network(kind: Callable[[], nn.Module] = _Tiny) -> nn.Module:
    torch.manual_seed(0)
    network = kind().double()
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network


def _weights(network: nn.Module) -> dict[str, Tensor]:
    own = {BACKBONE + name: value.detach().clone() for name, value in network.named_parameters()}
    generator = torch.Generator().manual_seed(1)
    own["head.weight"] = 0.3 * torch.randn(WAY, 12, generator=generator, dtype=torch.float64)
    own["head.bias"] = 0.1 * torch.randn(WAY, generator=generator, dtype=torch.float64)
    return {name: value.requires_grad_() for name, value in own.items()}


def _rates(weights: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    if kind == "meta-sgd":
        generator = torch.Generator().manual_seed(2)
        return {
            name: (0.2 * torch.rand(weight.shape, generator=generator, dtype=torch.float64)).requires_grad_()
            for name, weight in weights.items()
        }
    names = HEAD if kind == "anil" else tuple(weights)
    return {name: torch.tensor(RATE, dtype=torch.float64) for name in names}


def _loss(logits: Tensor, truth: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, 1), truth.repeat(len(logits)))


def _loop_loss(
    network: nn.Module, weights: Mapping[str, Tensor], rates: Mapping[str, Tensor], loop: InnerLoop, statistics: str
) -> Tensor:
    """The mean query loss, task by task and step by step, with the network's own forward pass."""
    plain = copy.deepcopy(network).train()

    def logits(now: Mapping[str, Tensor], images: Tensor) -> Tensor:
        own = {name.removeprefix(BACKBONE): value for name, value in now.items() if name.startswith(BACKBONE)}
        return functional_call(plain, own, (images,)) @ now["head.weight"].T + now["head.bias"]

    support, query, labels, truth = _task()
    losses = []
    for own_support, own_query in zip(support, query, strict=True):
        now = dict(weights)
        for _ in range(loop.steps):
            loss = nn.functional.cross_entropy(logits(now, own_support), labels)
            gradients = torch.autograd.grad(loss, [now[name] for name in rates], create_graph=not loop.first_order)
            for name, gradient in zip(rates, gradients, strict=True):
                now[name] = now[name] - rates[name] * gradient
        if statistics == "batch":
            found = logits(now, own_query)
        else:
            moments = _keep_statistics(plain, lambda now=now, images=own_support: logits(now, images))
            found = _with_statistics(plain, moments, lambda now=now, images=own_query: logits(now, images))
        losses.append(nn.functional.cross_entropy(found, truth))
    return torch.stack(losses).mean()


def _norms(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def _keep_statistics(network: nn.Module, forward: Callable[[], Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Mean and variance of what each normalisation sees, with their graphs."""
    kept: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        axes = [axis for axis in range(inputs[0].ndim) if axis != 1]
        kept.append((inputs[0].mean(axes, keepdim=True), inputs[0].var(axes, unbiased=False, keepdim=True)))

    handles = [module.register_forward_pre_hook(keep) for module in _norms(network)]
    forward()
    for handle in handles:
        handle.remove()
    return kept


def _with_statistics(network: nn.Module, moments: list[tuple[Tensor, Tensor]], forward: Callable[[], Tensor]) -> Tensor:
    waiting = iter(moments)

    def replace(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        mean, variance = next(waiting)
        normal = (inputs[0] - mean) / (variance + module.eps).sqrt()
        shape = (1, -1, *[1] * (normal.ndim - 2))
        return normal * module.weight.view(shape) + module.bias.view(shape)

    handles = [module.register_forward_hook(replace) for module in _norms(network)]
    outputs = forward()
    for handle in handles:
        handle.remove()
    return outputs


def _gradients(loss: Tensor, weights: Mapping[str, Tensor], rates: Mapping[str, Tensor]) -> list[Tensor]:
    leaves = [*weights.values(), *(rate for rate in rates.values() if rate.requires_grad)]
    return list(torch.autograd.grad(loss, leaves, materialize_grads=True))


@pytest.mark.parametrize("kind", ["maml", "anil", "meta-sgd"])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize(("backbone", "statistics"), [(_Tiny, "batch"), (_Tiny, "support"), (_Perceptron, "support")])
def test_losses_and_meta_gradients_are_those_of_a_loop_over_tasks(
    kind: str, first_order: bool, statistics: str, backbone: Callable[[], nn.Module]
) -> None:
    network = _network(backbone)
    weights, loop = _weights(network), InnerLoop(steps=3, first_order=first_order)
    rates = _rates(weights, kind)
    support, query, _, truth = _task()
    tasks = TaskNetwork(network, support[0, :2], TASKS, statistics)
    loss = _loss(tasks.query_logits(weights, rates, support, query, loop), truth)
    expected = _loop_loss(network, weights, rates, loop, statistics)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-10)
    for own, wanted in zip(_gradients(loss, weights, rates), _gradients(expected, weights, rates), strict=True):
        assert torch.allclose(own, wanted, rtol=1e-8, atol=1e-12)


def test_networks_with_batch_normalisation_lie_in_the_channels() -> None:
    support = _task()[0]
    convolutions = TaskNetwork(_network(), support[0, :2], TASKS, "batch")
    perceptron = TaskNetwork(_network(_Perceptron), support[0, :2], TASKS, "support")
    assert isinstance(convolutions.stack, ChannelStackedNetwork)
    assert isinstance(perceptron.stack, VmapStackedNetwork)


@pytest.mark.parametrize("statistics", ["batch", "support"])
def test_meta_gradients_are_those_of_finite_differences(statistics: str) -> None:
    network = _network()
    weights = _weights(network)
    rates, loop = _rates(weights, "meta-sgd"), InnerLoop(steps=2)
    support, query, _, truth = _task()
    tasks = TaskNetwork(network, support[0, :2], TASKS, statistics)

    def loss() -> Tensor:
        return _loss(tasks.query_logits(weights, rates, support, query, loop), truth)

    gradients = _gradients(loss(), weights, rates)
    generator = torch.Generator().manual_seed(3)
    directions = [torch.randn(part.shape, generator=generator, dtype=torch.float64) for part in gradients]
    leaves = [*weights.values(), *rates.values()]
    step, values = 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            for leaf, direction in zip(leaves, directions, strict=True):
                leaf += sign * step * direction
        values.append(float(loss().detach()))
        with torch.no_grad():
            for leaf, direction in zip(leaves, directions, strict=True):
                leaf -= sign * step * direction
    along = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(along, rel=1e-5)


def test_first_order_leaves_out_second_derivatives() -> None:
    network = _network()
    weights = _weights(network)
    rates = _rates(weights, "maml")
    support, query, _, truth = _task()
    tasks = TaskNetwork(network, support[0, :2], TASKS, "batch")
    found = [
        _gradients(
            _loss(tasks.query_logits(weights, rates, support, query, InnerLoop(2, first_order=order)), truth),
            weights,
            rates,
        )
        for order in (False, True)
    ]
    differences = [float((second - first).abs().max()) for second, first in zip(*found, strict=True)]
    assert max(differences) > 1e-3


def test_inner_steps_move_against_the_gradient() -> None:
    first = torch.tensor([[2.0], [5.0]], dtype=torch.float64, requires_grad=True)
    moved = inner_steps(
        lambda weights: weights["w"].square().sum(dim=1), {"w": first}, {"w": torch.tensor(0.25)}, steps=2
    )
    assert moved["w"].flatten().tolist() == [0.5, 1.25]  # each step halves


def test_tasks_do_not_see_each_other() -> None:
    network = _network()
    weights = _weights(network)
    rates, loop = _rates(weights, "maml"), InnerLoop(steps=2)
    support, query, _, _ = _task()
    tasks = TaskNetwork(network, support[0, :2], TASKS, "batch")
    plain = tasks.query_logits(weights, rates, support, query, loop)
    other = support.clone()
    other[1:] = 1 - other[1:]
    changed = tasks.query_logits(weights, rates, other, query, loop)
    assert torch.allclose(plain[0], changed[0])
    assert not torch.allclose(plain[1], changed[1])


@pytest.mark.parametrize(("statistics", "is_transductive"), [("batch", True), ("support", False)])
def test_queries_see_each_other_only_in_batch_statistics(statistics: str, is_transductive: bool) -> None:
    network = _network()
    weights = _weights(network)
    rates, loop = _rates(weights, "maml"), InnerLoop(steps=1)
    support, query, _, _ = _task()
    tasks = TaskNetwork(network, support[0, :2], TASKS, statistics)
    plain = tasks.query_logits(weights, rates, support, query, loop)
    other = query.clone()
    other[:, 1:] = 2 * other[:, 1:]
    changed = tasks.query_logits(weights, rates, support, other, loop)
    assert torch.allclose(plain[:, 0], changed[:, 0]) is not is_transductive


def test_the_network_that_is_stacked_does_not_change() -> None:
    network = _network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    support = _task()[0]
    for statistics in ("batch", "support"):
        TaskNetwork(network, support[0, :2], TASKS, statistics)
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_network_without_batch_normalisation_has_no_statistics_of_a_batch() -> None:
    support = _task()[0]
    with pytest.raises(StudyError, match="inner_statistics=support"):
        TaskNetwork(_network(_Perceptron), support[0, :2], TASKS, "batch")
    TaskNetwork(_network(_Perceptron), support[0, :2], TASKS, "support")


def _learn2learn_gradients(
    kind: str, network: nn.Module, weights: Mapping[str, Tensor], rates: Mapping[str, Tensor], loop: InnerLoop
) -> tuple[Tensor, list[Tensor]]:
    """The mean query loss by learn2learn's own learners, and its gradients."""
    l2l = pytest.importorskip("learn2learn", reason="learn2learn is not installed")
    body = copy.deepcopy(network).train()
    head = nn.Linear(12, WAY, dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in body.named_parameters():
            parameter.copy_(weights[BACKBONE + name])
        head.weight.copy_(weights["head.weight"])
        head.bias.copy_(weights["head.bias"])
    whole = nn.Sequential(body, head)
    features: nn.Module = nn.Identity()
    if kind == "anil":
        learner, features = l2l.algorithms.MAML(head, lr=RATE, first_order=loop.first_order), body
    elif kind == "maml":
        learner = l2l.algorithms.MAML(whole, lr=RATE, first_order=loop.first_order)
    else:
        lrs = [nn.Parameter(rates[name].detach().clone()) for name in weights]
        learner = l2l.algorithms.MetaSGD(whole, lrs=lrs, first_order=loop.first_order)
    support, query, labels, truth = _task()
    total = torch.zeros((), dtype=torch.float64)
    for own_support, own_query in zip(support, query, strict=True):
        clone = learner.clone()
        seen = features(own_support)
        for _ in range(loop.steps):
            clone.adapt(nn.functional.cross_entropy(clone(seen), labels))
        total = total + nn.functional.cross_entropy(clone(features(own_query)), truth) / TASKS
    leaves = [*body.parameters(), *head.parameters(), *(lrs if kind == "meta-sgd" else [])]
    return total, list(torch.autograd.grad(total, leaves, materialize_grads=True))


@pytest.mark.learn2learn
@pytest.mark.parametrize("kind", ["maml", "anil", "meta-sgd"])
@pytest.mark.parametrize("first_order", [False, True])
def test_losses_and_meta_gradients_are_those_of_learn2learn(kind: str, first_order: bool) -> None:
    network = _network()
    weights, loop = _weights(network), InnerLoop(steps=3, first_order=first_order)
    rates = _rates(weights, kind)
    expected, wanted = _learn2learn_gradients(kind, network, weights, rates, loop)
    support, query, _, truth = _task()
    tasks = TaskNetwork(network, support[0, :2], TASKS, "batch")
    loss = _loss(tasks.query_logits(weights, rates, support, query, loop), truth)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-10)
    for own, theirs in zip(_gradients(loss, weights, rates), wanted, strict=True):
        assert torch.allclose(own, theirs, rtol=1e-8, atol=1e-12)


@pytest.mark.slow
def test_conv4_takes_the_channels_and_agrees_with_the_loop() -> None:
    torch.manual_seed(0)
    network = Conv4(4, 2, 16).double()
    generator = torch.Generator().manual_seed(1)
    weights = {BACKBONE + name: value.detach().clone().requires_grad_() for name, value in network.named_parameters()}
    weights["head.weight"] = torch.randn(WAY, 4, generator=generator, dtype=torch.float64).requires_grad_()
    weights["head.bias"] = torch.zeros(WAY, dtype=torch.float64, requires_grad=True)
    support = torch.randn(2, WAY * SHOT, 2, 16, 16, generator=generator, dtype=torch.float64)
    query = torch.randn(2, QUERIES, 2, 16, 16, generator=generator, dtype=torch.float64)
    tasks = TaskNetwork(network, support[0, :2], 2, "batch")
    assert isinstance(tasks.stack, ChannelStackedNetwork)
    logits = tasks.query_logits(weights, _rates(weights, "maml"), support, query, InnerLoop(2))
    alone = TaskNetwork(network, support[0, :2], 1, "batch")
    for number in range(2):
        own = alone.query_logits(
            weights, _rates(weights, "maml"), support[number : number + 1], query[number : number + 1], InnerLoop(2)
        )
        assert torch.allclose(logits[number], own[0])
