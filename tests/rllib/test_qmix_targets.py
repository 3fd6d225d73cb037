"""The loss against a plain loop over episodes, steps and agents, with torch's own layers nowhere batched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from rllib_agg import QMIXConfig
from rllib_agg.envs.team.interface import TeamSpec
from rllib_agg.qmix.episodes import TeamEpisodes, pack
from rllib_agg.qmix.learner import QMIXLearner
from rllib_agg.qmix.module import spaces_of
from rllib_agg.qmix.targets import td_lambda_targets
from tests.rllib.qmix_runs import PLAIN

SPEC = TeamSpec(3, 11, 4, 5, 9, ("a", "a", "b"))
GAMMA = 0.9


def episodes(count: int = 6, seed: int = 0) -> TeamEpisodes:
    """Random ones, some cut off, some ended; their rows after the end are left as another episode wrote them."""
    rng = np.random.default_rng(seed)
    made = TeamEpisodes.zeros(count, SPEC.max_episode_steps, SPEC, np.dtype(np.float32))
    masks = rng.random((count, 10, 3, 11)) < 0.4
    actions = rng.integers(11, size=(count, 9, 3))
    np.put_along_axis(masks[:, :9], actions[..., None], True, axis=-1)
    masks[:, 9, :, 0] = True
    made.observations[...] = rng.normal(size=made.observations.shape)
    made.states[...] = rng.normal(size=made.states.shape)
    made.masks[...] = pack(masks)
    made.actions[...] = actions
    made.rewards[...] = rng.normal(size=made.rewards.shape)
    made.lengths[...] = np.resize([9, 4, 7, 1], count)
    made.terminated[...] = np.resize([True, False, True], count)
    return made


def learner(**training: Any) -> QMIXLearner:
    config = QMIXConfig().environment("matrix/two_step").training(**PLAIN).training(gamma=GAMMA, **training)
    config.rl_module(model_config={"hidden_dim": 8, "hypernet_dim": 6, "orthogonal_init": False})
    config.validate()
    group = config.build_learner_group(spaces={DEFAULT_MODULE_ID: spaces_of(SPEC)})
    made: QMIXLearner = group.foreach_learner(lambda learner: learner).result_or_errors[0].get()
    made.team.initialize(torch.Generator().manual_seed(1), orthogonal=False, same=False)
    for parameter in (*made.team.target_networks.parameters(), *made.team.parameters()):
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    return made


def values_of(networks: Any, made: TeamEpisodes, episode: int) -> np.ndarray:
    """Values of all steps of an episode ``[L+1, n, a]``, one step after the other."""
    length = int(made.lengths[episode])
    hidden, found = networks.start(1), []
    last = torch.full((1, 1, 3), -1)
    for step in range(length + 1):
        seen = torch.from_numpy(made.observations[episode, step])[None, None]
        values, hidden = networks(networks.arrange(seen, last), hidden)
        found.append(values[0, 0].detach().double().numpy())
        if step < length:
            last = torch.from_numpy(made.actions[episode, step].astype(np.int64))[None, None]
    return np.stack(found)


def by_hand(made: TeamEpisodes, team: Any, mixer: str | None, *, double_q: bool, lambda_: float) -> float:
    """The loss."""

    def mixed(network: Any, values: np.ndarray, state: np.ndarray) -> np.ndarray:
        if mixer is None:
            return values
        if mixer == "vdn":
            return values.sum(keepdims=True)
        return network(torch.from_numpy(values).float(), torch.from_numpy(state)).detach().double().numpy()[None]

    masks, errors = made.unpacked_masks(11), []
    for episode in range(len(made)):
        length = int(made.lengths[episode])
        online, target = values_of(team.networks, made, episode), values_of(team.target_networks, made, episode)
        following = None
        for step in reversed(range(length)):
            state, after = made.states[episode, step], made.states[episode, step + 1]
            nexts = np.empty(3)
            for agent in range(3):
                legal = np.flatnonzero(masks[episode, step + 1, agent])
                judge = (online if double_q else target)[step + 1, agent]
                best = max(legal.tolist(), key=lambda action: judge[action], default=0)
                nexts[agent] = target[step + 1, agent, best]
            bootstrap = mixed(team.target_mixer, nexts, after)
            reward = float(made.rewards[episode, step])
            if step == length - 1:
                goal = reward + (0 if made.terminated[episode] else GAMMA * bootstrap)
            else:
                goal = reward + GAMMA * ((1 - lambda_) * bootstrap + lambda_ * following)
            following = goal
            chosen = np.array([online[step, agent, made.actions[episode, step, agent]] for agent in range(3)])
            errors.append(mixed(team.mixer, chosen, state) - goal)
    return float(np.mean(np.square(errors)))


@pytest.mark.parametrize("lambda_", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("double_q", [True, False])
@pytest.mark.parametrize("mixer", ["qmix", "vdn", None])
def test_the_loss_is_that_of_a_plain_loop(mixer: str | None, double_q: bool, lambda_: float) -> None:
    made, own = episodes(), learner(mixer=mixer, double_q=double_q, td_lambda=lambda_)
    found = own.td_loss(made)["total_loss"].item()
    assert found == pytest.approx(by_hand(made, own.team, mixer, double_q=double_q, lambda_=lambda_), rel=1e-4)


@pytest.mark.parametrize("settings", [{"parameter_sharing": "full"}, {"parameter_sharing": "full", "agent_ids": False}])
def test_the_loss_of_a_shared_network(settings: dict[str, Any]) -> None:
    made, own = episodes(), learner(**settings)
    assert own.team.networks.num_networks == 1
    assert own.team.networks.input_size == 4 + 11 + 3 * settings.get("agent_ids", True)
    found = own.td_loss(made)["total_loss"].item()
    assert found == pytest.approx(by_hand(made, own.team, "qmix", double_q=True, lambda_=0), rel=1e-4)


def test_lengths_may_come_in_any_order() -> None:
    made, own = episodes(), learner()
    ordered = made.longest_first()
    assert ordered.lengths.tolist() == sorted(made.lengths.tolist(), reverse=True)
    assert own.td_loss(ordered)["total_loss"].item() == own.td_loss(made)["total_loss"].item()


def test_what_comes_after_the_end_changes_nothing() -> None:
    made, own = episodes(), learner()
    other = episodes(seed=1)
    for episode, length in enumerate(made.lengths):
        for name in ("observations", "states", "masks"):
            getattr(other, name)[episode, : length + 1] = getattr(made, name)[episode, : length + 1]
        for name in ("actions", "rewards"):
            getattr(other, name)[episode, :length] = getattr(made, name)[episode, :length]
    other.observations[1, 5:] = 1e6
    gradients = []
    for each in (made, other):
        own.team.zero_grad()
        loss = own.td_loss(each)["total_loss"]
        loss.backward()
        gradients.append([loss.detach(), *(parameter.grad.clone() for parameter in own.get_parameters(own.team))])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)


def test_truncation_bootstraps_and_termination_does_not() -> None:
    rewards, values = torch.tensor([[1.0, 2.0, 99.0]] * 2), torch.tensor([[10.0, 20.0, 77.0]] * 2).unsqueeze(-1)
    settings = {"gamma": 0.5, "lambda_": 0.0}
    found = td_lambda_targets(rewards, values, torch.tensor([2, 2]), torch.tensor([True, False]), **settings)
    assert found[:, :2, 0].tolist() == [[6.0, 2.0], [6.0, 12.0]]
    found = td_lambda_targets(rewards, values, torch.tensor([2, 2]), torch.tensor([True, False]), gamma=0.5, lambda_=1.0)
    assert found[:, :2, 0].tolist() == [[2.0, 2.0], [7.0, 12.0]]


def test_targets_are_no_part_of_the_gradient_and_follow() -> None:
    made, own = episodes(), learner(lr=0.01)
    team = own.team
    before = [parameter.clone() for parameter in team.target_networks.parameters()]
    own.learn(made)
    assert all((a == b).all() for a, b in zip(before, team.target_networks.parameters(), strict=True))
    gap = team.networks.head.weight.detach() - team.target_networks.head.weight
    team.update_targets(0.25)
    torch.testing.assert_close(team.networks.head.weight - team.target_networks.head.weight, 0.75 * gap)
    team.update_targets(1.0)
    for online, target in ((team.networks, team.target_networks), (team.mixer, team.target_mixer)):
        pairs = zip(online.parameters(), target.parameters(), strict=True)  # type: ignore[union-attr]
        assert all((a == b).all() for a, b in pairs)


def test_a_corrupt_batch_is_skipped_and_counted() -> None:
    made, own = episodes(), learner()
    own.learn(made)
    before = {name: value.clone() for name, value in own.team.state_dict().items()}
    made.rewards[0, 0] = np.nan
    own.learn(made)
    assert all((value == before[name]).all() for name, value in own.team.state_dict().items())
    assert own.num_skipped == {DEFAULT_MODULE_ID: 1}


def test_gradients_are_clipped_by_their_norm() -> None:
    own = learner(grad_clip=1e-3, lr=1.0)
    own.config.lr = 1.0
    own.learn(episodes())
    norm = torch.stack([parameter.grad.norm() for parameter in own.get_parameters(own.team)]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)
