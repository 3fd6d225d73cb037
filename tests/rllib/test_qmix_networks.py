"""Stacked networks against a network for each agent, and the mixers' shapes and slopes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rllib_agg.qmix.mixer import MonotonicMixer, SumMixer, make_mixer, mix, seed_mixer
from rllib_agg.qmix.networks import AgentNetworks
from rllib_agg.qmix.recurrence import recur

B, T, N, D, A, H = 4, 7, 3, 5, 6, 8


def networks(**settings: bool) -> AgentNetworks:
    torch.manual_seed(0)
    return AgentNetworks(N, A, D, hidden=H, **{"shared": False, "agent_ids": False, **settings})


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    actions = torch.randint(-1, A, (B, T, N), generator=generator)
    return torch.randn(B, T, N, D, generator=generator), actions


class Plain(nn.Module):
    """One agent's network out of torch's own layers, a step at a time."""

    def __init__(self, stacked: AgentNetworks, index: int) -> None:
        super().__init__()
        self.feature = nn.Linear(stacked.input_size, H)
        self.cell = nn.GRUCell(H, H)
        self.head = nn.Linear(H, A)
        with torch.no_grad():
            self.feature.weight.copy_(stacked.feature.weight[index].T)
            self.feature.bias.copy_(stacked.feature.bias[index, 0])
            self.cell.weight_ih.copy_(stacked.rnn.weight_ih[index].T)
            self.cell.bias_ih.copy_(stacked.rnn.bias_ih[index, 0])
            self.cell.weight_hh.copy_(stacked.rnn.weight_hh[index].T)
            self.cell.bias_hh.copy_(stacked.rnn.bias_hh[index, 0])
            self.head.weight.copy_(stacked.head.weight[index].T)
            self.head.bias.copy_(stacked.head.bias[index, 0])

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        hidden, values = torch.zeros(len(inputs), H), []
        for step in range(inputs.shape[1]):
            hidden = self.cell(self.feature(inputs[:, step]).relu(), hidden)
            values.append(self.head(hidden))
        return torch.stack(values, 1), hidden


def inputs_of(observations: Tensor, actions: Tensor, agent: int, agent_ids: bool) -> Tensor:
    one_hot = torch.eye(A)[actions[:, :, agent].clamp(min=0)] * (actions[:, :, agent] >= 0).unsqueeze(-1)
    parts = [observations[:, :, agent], one_hot]
    return torch.cat([*parts, torch.eye(N)[agent].expand(B, T, N)] if agent_ids else parts, dim=-1)


@pytest.mark.parametrize("agent_ids", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_stacked_networks_equal_separate_ones(shared: bool, agent_ids: bool) -> None:
    stacked = networks(shared=shared, agent_ids=agent_ids)
    observations, actions = data()
    values, hidden = stacked(stacked.arrange(observations, actions), stacked.start(B))
    assert values.shape == (B, T, N, A)
    slope = torch.randn(B, T, N, A, generator=torch.Generator().manual_seed(2))
    (values * slope).sum().backward()
    plain = [Plain(stacked, 0 if shared else agent) for agent in range(N)]
    for agent, network in enumerate(plain):
        expected, last = network(inputs_of(observations, actions, agent, agent_ids))
        (expected * slope[:, :, agent]).sum().backward()
        torch.testing.assert_close(values[:, :, agent], expected, rtol=1e-6, atol=1e-6)
        own = hidden[0, agent::N] if shared else hidden[agent]
        torch.testing.assert_close(own, last, rtol=1e-6, atol=1e-6)
    layers = {"feature.weight": "feature.weight", "rnn.weight_ih": "cell.weight_ih", "rnn.weight_hh": "cell.weight_hh"}
    layers |= {
        "head.weight": "head.weight",
        "feature.bias": "feature.bias",
        "rnn.bias_hh": "cell.bias_hh",
        "head.bias": "head.bias",
    }
    for name, other in layers.items():
        found = stacked.get_parameter(name).grad
        each = [network.get_parameter(other).grad for network in plain]
        wanted = torch.stack([torch.stack(each).sum(0)] if shared else each)  # type: ignore[arg-type]
        torch.testing.assert_close(found, (wanted.mT if wanted.ndim == 3 else wanted.unsqueeze(1)), rtol=1e-5, atol=1e-5)


def test_the_recurrences_gradient_is_that_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    start = draw(2, 3, 2)
    sizes = (2, 4, 3, 3), (2, 3, 6), (2, 1, 6), (2, 2, 6), (2, 1, 2)
    given = [draw(*size).requires_grad_() for size in sizes]
    for running in (None, [3, 2, 2, 1]):
        assert torch.autograd.gradcheck(
            lambda inputs, *parameters, running=running: recur(inputs, start, *parameters, running), given
        )


@pytest.mark.parametrize("shared", [False, True])
def test_steps_after_the_end_are_left_out(shared: bool) -> None:
    stacked = networks(shared=shared)
    observations, actions = data()
    lengths = np.sort(np.random.default_rng(0).integers(1, T + 1, size=B))[::-1]
    played = torch.arange(T) < torch.from_numpy(lengths.copy()).unsqueeze(1)
    found, gradients = [], []
    for each in (None, lengths):
        stacked.zero_grad()
        values, _ = stacked(stacked.arrange(observations, actions), stacked.start(B), each)
        values[played].square().sum().backward()
        found.append(values[played].detach())
        gradients.append([parameter.grad.clone() for parameter in stacked.parameters()])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_step_by_step_is_all_at_once() -> None:
    stacked = networks()
    observations, actions = data()
    whole, _ = stacked(stacked.arrange(observations, actions), stacked.start(B))
    hidden = stacked.start(B)
    for step in range(T):
        now = slice(step, step + 1)
        values, hidden = stacked(stacked.arrange(observations[:, now], actions[:, now]), hidden)
        torch.testing.assert_close(values, whole[:, now], rtol=1e-6, atol=1e-6)


def test_same_and_orthogonal_starts() -> None:
    stacked = networks()
    stacked.initialize(torch.Generator().manual_seed(3), orthogonal=True, same=True)
    for name, parameter in stacked.named_parameters():
        assert (parameter == parameter[:1]).all()
        assert "weight" in name or not parameter.any()
    block = stacked.rnn.weight_hh[0, :, H : 2 * H]
    torch.testing.assert_close(block @ block.T, torch.eye(H), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(stacked.head.weight[0].T @ stacked.head.weight[0], torch.eye(A), rtol=1e-5, atol=1e-5)
    once = {name: parameter.clone() for name, parameter in stacked.named_parameters()}
    stacked.initialize(torch.Generator().manual_seed(3), orthogonal=True, same=False)
    assert all((parameter[0] == once[name][0]).all() for name, parameter in stacked.named_parameters())
    assert not (stacked.head.weight[0] == stacked.head.weight[1]).all()


def mixer(hypernet_dim: int = 16, state_size: int = 4) -> MonotonicMixer:
    made = MonotonicMixer(N, state_size, embed_dim=8, hypernet_dim=hypernet_dim)
    seed_mixer(made, torch.Generator().manual_seed(4), orthogonal=False, scale=1.0)
    return made


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    hypernet_dim=st.sampled_from([0, 16]),
    agent=st.integers(0, N - 1),
    step=st.floats(0, 100),
    scale=st.floats(0, 100),
)
def test_no_agents_value_lowers_the_teams(seed: int, hypernet_dim: int, agent: int, step: float, scale: float) -> None:
    made = MonotonicMixer(N, 4, embed_dim=8, hypernet_dim=hypernet_dim).double()
    generator = torch.Generator().manual_seed(seed)
    seed_mixer(made, generator, orthogonal=bool(seed % 2), scale=0.5)
    values = scale * torch.randn(5, N, generator=generator, dtype=torch.float64)
    states = scale * torch.randn(5, 4, generator=generator, dtype=torch.float64)
    more = values.clone()
    more[:, agent] += step
    before, after = made(values, states), made(more, states)
    assert (after >= before - 1e-9 * before.abs()).all()
    values.requires_grad_()
    made(values, states).sum().backward()
    assert (values.grad >= 0).all()


@pytest.mark.parametrize("hypernet_dim", [0, 16])
def test_a_small_mixer_scales_the_teams_value(hypernet_dim: int) -> None:
    values, states = torch.randn(7, N), torch.randn(7, 4)
    plain, small = mixer(hypernet_dim), mixer(hypernet_dim)
    small.scale_output(0.01)
    torch.testing.assert_close(small(values, states), 0.01 * plain(values, states))


@pytest.mark.parametrize("hypernet_dim", [0, 16])
def test_the_mixer_is_the_papers_sum_by_sum(hypernet_dim: int) -> None:
    made = mixer(hypernet_dim)
    generator = torch.Generator().manual_seed(5)
    values, states = torch.randn(2, 6, N, generator=generator), torch.randn(2, 6, 4, generator=generator)
    found = made(values, states)
    assert found.shape == (2, 6)
    weight, offset = made.state_layer.weight.detach().double().numpy(), made.state_layer.bias.detach().double().numpy()
    for index in np.ndindex(2, 6):
        state, q = states[index].double().numpy(), values[index].double().numpy()
        parts = np.split(weight @ state + offset, np.cumsum(made.sizes)[:-1])
        if hypernet_dim:
            parts[:2] = [
                layer.weight.detach().double().numpy() @ np.maximum(part, 0) + layer.bias.detach().double().numpy()
                for layer, part in zip((made.first, made.second), parts[:2], strict=True)
            ]
        hidden = parts[2].copy()
        for agent in range(N):
            hidden += q[agent] * np.abs(parts[0].reshape(N, 8)[agent])
        hidden = np.where(hidden > 0, hidden, np.exp(np.minimum(hidden, 0)) - 1)
        total = np.abs(parts[1]) @ hidden
        total += made.value.weight.detach().double().numpy()[0] @ np.maximum(parts[3], 0) + made.value.bias.item()
        assert found[index].item() == pytest.approx(total, abs=1e-5)


def test_the_other_mixers() -> None:
    values, states = torch.randn(2, 5, N), torch.randn(2, 5, 4)
    assert (mix(SumMixer(), values, states)[..., 0] == values.sum(-1)).all()
    assert mix(make_mixer(None, N, 4, embed_dim=8, hypernet_dim=0), values, states) is values
    assert isinstance(make_mixer("vdn", N, 4, embed_dim=8, hypernet_dim=0), SumMixer)
    assert isinstance(make_mixer("qmix", N, 4, embed_dim=8, hypernet_dim=0), MonotonicMixer)
