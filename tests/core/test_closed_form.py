"""Networks and distributions in closed form, compared with torch's graph in double precision."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Normal, kl_divergence

from rl_agg.closed_form.activations import activation_of
from rl_agg.closed_form.actor_critic import ActorCritic
from rl_agg.closed_form.distributions import Bernoulli, Categorical, DiagonalGaussian, Distribution, GaussianOfOutputs
from rl_agg.closed_form.factors import FactoredGradients, slots_of
from rl_agg.closed_form.flat_optimizer import FlatOptimizer
from rl_agg.closed_form.layers import LinearLayer
from rl_agg.closed_form.memory import FlatParameters, Memory

NUM_FEATURES = 3
ACTIVATIONS = (nn.Tanh, nn.ReLU, nn.SiLU, nn.ELU, nn.Sigmoid, nn.Identity)
DOUBLE = 1e-12
LIMIT = 0.4


class Networks(nn.Module):
    """A policy and a value network, whose first layers may be the same."""

    def __init__(self, shape: dict[str, Any], num_outputs: int) -> None:
        super().__init__()
        torch.manual_seed(shape["seed"])
        shared, widths = self._hidden([NUM_FEATURES], shape["shared"], shape)
        self.shared = nn.Sequential(*shared)
        policy, policy_widths = self._hidden(widths, shape["policy"], shape)
        value, value_widths = self._hidden(widths, shape["value"], shape)
        self.policy = nn.Sequential(*policy, nn.Linear(policy_widths[-1], num_outputs))
        self.value = nn.Sequential(*value, nn.Linear(value_widths[-1], 1))
        self.log_std = nn.Parameter(torch.randn(num_outputs) * 0.3)
        self.double()

    @staticmethod
    def _hidden(widths: list[int], more: list[int], shape: dict[str, Any]) -> tuple[list[nn.Module], list[int]]:
        widths = [widths[-1], *more]
        modules: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            modules += [nn.Linear(before, after, bias=shape["bias"]), shape["activation"]()]
        return modules, widths

    def layers(self, *parts: nn.Sequential) -> list[LinearLayer]:
        modules = [module for part in parts for module in part]
        found: list[LinearLayer] = []
        for module in modules:
            if isinstance(module, nn.Linear):
                found.append(LinearLayer(module.weight, module.bias, activation_of(nn.Identity())))  # type: ignore[arg-type]
            else:
                found[-1] = found[-1]._replace(activation=activation_of(module))  # type: ignore[arg-type]
        return found

    def closed_form(self, memory: Memory) -> ActorCritic:
        return ActorCritic(self.layers(self.shared, self.policy), self.layers(self.shared, self.value), memory)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.shared(features)
        return self.policy(hidden), self.value(hidden)


shapes = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10_000),
        "shared": st.lists(st.integers(1, 5), max_size=2),
        "policy": st.lists(st.integers(1, 4), max_size=3),
        "value": st.lists(st.integers(1, 4), max_size=3),
        "alike": st.booleans(),
        "bias": st.booleans(),
        "activation": st.sampled_from(ACTIVATIONS),
    }
).map(lambda shape: {**shape, "value": shape["policy"] if shape["alike"] else shape["value"]})

spaces = st.one_of(
    st.tuples(st.just("spread"), st.integers(1, 3)),
    st.tuples(st.just("choices"), st.lists(st.integers(2, 4), min_size=1, max_size=3)),
    st.tuples(st.just("masked"), st.lists(st.integers(2, 4), min_size=1, max_size=3)),
    st.tuples(st.just("bits"), st.integers(1, 3)),
    st.tuples(st.just("normal"), st.integers(1, 3)),
)


def num_outputs(space: tuple[str, Any]) -> int:
    if space[0] == "spread":
        return 2 * int(space[1])
    return sum(space[1]) if isinstance(space[1], list) else space[1]


def draw_actions(space: tuple[str, Any], num_samples: int) -> tuple[Tensor, Tensor | None]:
    """Actions, and masks that allow them."""
    kind, size = space
    if kind in ("normal", "spread"):
        return torch.randn(num_samples, size, dtype=torch.float64), None
    if kind == "bits":
        return torch.randint(2, (num_samples, size)).double(), None
    actions = torch.stack([torch.randint(n, (num_samples,)) for n in size], dim=1)
    if kind == "choices":
        return actions.double(), None
    allowed = [(torch.rand(num_samples, n) < 0.5).scatter_(1, actions[:, [i]], True) for i, n in enumerate(size)]
    return actions.double(), torch.cat(allowed, dim=1)


def of_torch(
    space: tuple[str, Any], networks: Networks, outputs: Tensor, actions: Tensor, masks: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, entropies, and divergences from :func:`before_of`, by torch's distributions."""
    kind, size = space
    if kind == "spread":
        now, then = (Normal(own[:, :size], own[:, size:].clamp(-LIMIT, LIMIT).exp()) for own in (outputs, before_of(outputs)))
        return now.log_prob(actions).sum(-1), now.entropy().sum(-1), kl_divergence(then, now).sum(-1)
    if kind == "normal":
        normal = Normal(outputs, networks.log_std.exp())
        return normal.log_prob(actions).sum(-1), normal.entropy().sum(-1), torch.zeros(len(actions))
    if kind == "bits":
        bits = TorchBernoulli(logits=outputs)
        return bits.log_prob(actions).sum(-1), bits.entropy().sum(-1), torch.zeros(len(actions))
    if masks is not None:
        outputs = torch.where(masks, outputs, -1e8)
    before = before_of(outputs) if masks is None else torch.where(masks, before_of(outputs), -1e8)
    each, then = ([TorchCategorical(logits=logits) for logits in own.split(size, dim=-1)] for own in (outputs, before))
    log_prob = sum(one.log_prob(actions[:, i]) for i, one in enumerate(each))
    divergence = sum(kl_divergence(*pair) for pair in zip(then, each, strict=True))
    return log_prob, sum(one.entropy() for one in each), divergence  # type: ignore[return-value]


def before_of(outputs: Tensor) -> Tensor:
    """What a network may have returned before: small enough to be inside all limits."""
    return 0.3 * outputs.detach().clamp(-LIMIT, LIMIT)


def in_closed_form(space: tuple[str, Any], networks: Networks, memory: Memory) -> Distribution:
    kind, size = space
    if kind == "normal":
        return DiagonalGaussian(networks.log_std, memory)
    if kind == "spread":
        return GaussianOfOutputs(LIMIT)
    return Bernoulli() if kind == "bits" else Categorical(size)


def trained(networks: Networks, space: tuple[str, Any], frozen: int) -> list[nn.Parameter]:
    """Its parameters, of which some are frozen; ``log_std`` is no part of most."""
    networks.log_std.requires_grad_(space[0] == "normal")
    parameters = list(networks.parameters())
    for i, parameter in enumerate(parameters):
        if frozen and (i * 7 + frozen) % 3 == 0:
            parameter.requires_grad_(False)
    networks.value[-1].weight.requires_grad_()
    return [parameter for parameter in networks.parameters() if parameter.requires_grad]


def flat(gradients: Any) -> Tensor:
    return torch.cat([gradient.reshape(-1) for gradient in gradients])


def assert_close(found: Tensor, expected: Tensor, tolerance: float = DOUBLE) -> None:
    assert (found - expected).norm() <= tolerance * max(1.0, float(expected.norm()))


@given(shapes, spaces, st.integers(0, 3), st.booleans())
@settings(max_examples=150, deadline=None)
def test_gradients_are_those_of_the_graph(shape: dict[str, Any], space: Any, frozen: int, entropy_counts: bool) -> None:
    networks = Networks(shape, num_outputs(space))
    parameters = trained(networks, space, frozen)
    features, (actions, masks) = torch.randn(6, NUM_FEATURES, dtype=torch.float64), draw_actions(space, 6)
    of_value, of_log_prob, of_entropy, of_divergence = torch.randn(4, 6, dtype=torch.float64)
    diverges = space[0] in ("choices", "masked", "spread")
    if not entropy_counts:
        of_entropy.zero_()

    outputs, values = networks(features)
    log_prob, entropy, divergence = of_torch(space, networks, outputs, actions, masks)
    per_sample = of_value * values[:, 0] + of_log_prob * log_prob + of_entropy * entropy + of_divergence * divergence
    each = [
        flat(torch.autograd.grad(per_sample[rows].sum(), parameters, retain_graph=True, materialize_grads=True))
        for rows in (slice(0, 2), slice(2, 4), slice(4, 6))
    ]

    memory = FlatParameters(parameters)
    memory.bind()
    form, distribution = networks.closed_form(memory), in_closed_form(space, networks, memory)

    def evaluate() -> tuple[Tensor, Tensor]:
        distribution.mask(masks)
        own_outputs, own_values = form.forward(features)
        own_log_prob, own_entropy = distribution.evaluate(own_outputs, actions)
        assert_close(own_values, values.detach())
        assert_close(own_log_prob, log_prob.detach())
        assert_close(own_entropy, entropy.detach())
        if diverges:
            assert_close(distribution.divergence(before_of(own_outputs)), divergence.detach())
        of_outputs = distribution.differentiate(
            of_log_prob, of_entropy if entropy_counts else None, of_divergence if diverges else None
        )
        return of_outputs, of_value[:, None].clone()

    with torch.no_grad():
        form.backward(*evaluate())
        distribution.write_gradients()
        assert_close(memory.gradients, sum(each))  # type: ignore[arg-type]
        for parameter in parameters:
            assert_close(parameter.grad, memory.gradient(parameter))  # type: ignore[arg-type]

        form.differentiate(*evaluate())
        equal = form.factors(3, None, 0) + distribution.factors(3, None)
        assert_close(matrix_of(equal, memory), torch.stack(each))

        form.differentiate(*evaluate())
        agents = torch.tensor([0, 0, 2, 2, 3, 3])  # the second agent has no samples
        padded = form.factors(4, *slots_of(agents, 4)) + distribution.factors(4, agents)
        assert_close(matrix_of(padded, memory), torch.stack([each[0], torch.zeros_like(each[0]), each[1], each[2]]))


def matrix_of(factors: Any, memory: Memory) -> Tensor:
    def reserve(*shape: int) -> Tensor:
        return memory.values.new_full(shape, np.nan)

    return FactoredGradients(factors, len(memory.values), reserve).matrix()


@given(shapes, spaces)
@settings(max_examples=60, deadline=None)
def test_agents_with_parameters_of_their_own(shape: dict[str, Any], space: Any) -> None:
    networks = Networks(shape, num_outputs(space))
    parameters = trained(networks, space, frozen=0)
    own = torch.stack([flat(parameters).detach() + 0.3 * torch.randn(sum(map(torch.numel, parameters))) for _ in range(3)])
    features, (actions, masks) = torch.randn(6, NUM_FEATURES, dtype=torch.float64), draw_actions(space, 6)
    of_value, of_log_prob, of_entropy = torch.randn(3, 6, dtype=torch.float64)

    expected = []
    for agent in range(3):
        torch.nn.utils.vector_to_parameters(own[agent], parameters)
        rows = slice(2 * agent, 2 * agent + 2)
        outputs, values = networks(features[rows])
        log_prob, entropy, _ = of_torch(space, networks, outputs, actions[rows], None if masks is None else masks[rows])
        loss = (of_value[rows] * values[:, 0] + of_log_prob[rows] * log_prob + of_entropy[rows] * entropy).sum()
        expected.append(flat(torch.autograd.grad(loss, parameters, materialize_grads=True)))

    memory = Memory(parameters, own, torch.zeros_like(own))

    def by_agent(samples: Tensor) -> Tensor:
        return samples.unflatten(0, (3, 2))

    with torch.no_grad():
        form, distribution = networks.closed_form(memory), in_closed_form(space, networks, memory)
        distribution.mask(None if masks is None else by_agent(masks))
        distribution.evaluate(form.forward(by_agent(features))[0], by_agent(actions))
        of_outputs = distribution.differentiate(by_agent(of_log_prob), by_agent(of_entropy))
        form.backward(of_outputs, by_agent(of_value[:, None].clone()))
        distribution.write_gradients()
    assert_close(memory.gradients, torch.stack(expected))


def test_a_layer_used_twice_is_refused() -> None:
    layer = LinearLayer(nn.Parameter(torch.ones(2, 2)), None, activation_of(nn.Tanh()))  # type: ignore[arg-type]
    head = LinearLayer(nn.Parameter(torch.ones(1, 2)), None, activation_of(nn.Identity()))  # type: ignore[arg-type]
    memory = FlatParameters([layer.weight, head.weight])
    with pytest.raises(ValueError, match="layers share a parameter"):
        ActorCritic([layer, layer], [head], memory)


# Steps ----------------------------------------------------------------------------------------------------------------------

OPTIMIZERS: list[tuple[type[torch.optim.Optimizer], dict[str, Any]]] = [
    (torch.optim.Adam, {"fused": True}),
    (torch.optim.Adam, {"fused": True, "amsgrad": True, "weight_decay": 0.1}),
    (torch.optim.Adam, {"foreach": True}),
    (torch.optim.AdamW, {"fused": True}),
    (torch.optim.RMSprop, {"momentum": 0.5}),
    (torch.optim.SGD, {"lr": 0.1}),
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    (torch.optim.Adagrad, {}),
]


def two_parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(4))]


@pytest.mark.parametrize(("kind", "own"), OPTIMIZERS)
def test_steps_are_those_of_the_optimiser(kind: Any, own: dict[str, Any]) -> None:
    """Its own steps, ours, a state that was saved in between, and its own again."""
    expected, found = two_parameters(), two_parameters()
    reference, optimizer = kind(expected, **own), kind(found, **own)
    memory = FlatParameters(found)

    def step(through: FlatOptimizer | None) -> None:
        for one, other in zip(expected, found, strict=True):
            one.grad = torch.randn_like(one)
            if through is None:
                other.grad = one.grad.clone()
            else:
                memory.gradient(other).copy_(one.grad)  # type: ignore[union-attr]
        reference.step()
        (optimizer if through is None else through).step()

    def in_vectors(through: FlatOptimizer) -> None:
        memory.bind()
        assert through.adopt()
        with torch.no_grad():
            step(through)
            step(through)
        through.hand_back()

    flat_optimizer = FlatOptimizer(optimizer, memory)
    in_vectors(flat_optimizer)
    step(None)
    for group in (*reference.param_groups, *optimizer.param_groups):
        group["lr"] *= 0.5
    in_vectors(flat_optimizer)
    optimizer.load_state_dict(optimizer.state_dict())  # puts other tensors in their place
    in_vectors(flat_optimizer)
    in_vectors(FlatOptimizer(optimizer, memory))
    step(None)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-6, atol=1e-7)
        assert reference.state[one].keys() == optimizer.state[other].keys()
        for name, value in reference.state[one].items():
            torch.testing.assert_close(optimizer.state[other][name], value, rtol=1e-5, atol=1e-7)


def test_parameters_that_stepped_unequally_often_are_no_vector() -> None:
    parameters = two_parameters()
    optimizer = torch.optim.Adam(parameters)
    flat_optimizer = FlatOptimizer(optimizer, FlatParameters(parameters))
    for present in (parameters, parameters[:1]):
        optimizer.zero_grad()
        for parameter in present:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert not flat_optimizer.adopt()


def test_a_value_put_in_place_of_a_view_is_kept() -> None:
    parameters = two_parameters()
    memory = FlatParameters(parameters)
    memory.bind()
    parameters[0].data = torch.full((3, 2), 7.0)
    memory.bind()
    assert (memory.values[:6] == 7.0).all()
    parameters[0].data.fill_(3.0)
    assert (memory.values[:6] == 3.0).all()
