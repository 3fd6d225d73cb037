"""Agents send the transitions of large error, and no others reach the replay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from rllib_agg import AggDQNConfig, DeepEBCDQLConfig
from rllib_agg.aggregation.agents import RETURN, agent_of
from rllib_agg.dqn.env_runner import TransitionEnvRunner
from rllib_agg.replay import REPLAYS
from rllib_agg.replay.buffers import TD_ERROR
from tests.rllib.groups import MODULE
from tests.rllib.replay_configs import KINDS, NUM_AGENTS, tiny_dqn, tiny_ebcdql

TRIGGER = {"rho": 0.8, "beta": 0.2, "epsilon": 0.05}


def pair(**training: Any) -> tuple[Any, Any]:
    """A runner that sends all, and one with the same network and environments that selects."""
    config = tiny_ebcdql(communication_kwargs=TRIGGER, **training)
    config.validate()
    ours, stock = TransitionEnvRunner(config=config), SingleAgentEnvRunner(config=config)
    with torch.no_grad():
        for parameter in ours.module.parameters():
            parameter.mul_(3.0)  # so that errors differ
    stock.module.set_state(ours.module.get_state())
    return ours, stock


def naive_errors(module: Any, episode: Any, gamma: float) -> list[float]:
    """One transition after the other."""

    def values(obs: Any) -> Any:
        return module.compute_q_values({"obs": torch.as_tensor(obs)[None]})["qf_preds"][0].detach().numpy()

    errors = []
    for t in range(len(episode)):
        after = 0.0 if episode.is_terminated and t == len(episode) - 1 else values(episode.get_observations(t + 1)).max()
        action = int(episode.get_actions(t))
        errors.append(float(episode.get_rewards(t) + gamma * after - values(episode.get_observations(t))[action]))
    return errors


def sampled(runner: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    return runner.sample(num_timesteps=20 * NUM_AGENTS)


def test_the_transitions_of_large_error_are_sent_and_no_others(ray_session: None) -> None:
    ours, stock = pair()
    usual, num_sent, num_all = dict.fromkeys(range(NUM_AGENTS), 0.0), 0, 0
    for seed in range(6):
        fragments, episodes = sampled(ours, seed), sampled(stock, seed)
        expected = []
        for episode in episodes:
            agent = agent_of(episode)
            for t, error in enumerate(naive_errors(stock.module, episode, stock.config.gamma)):
                if abs(error) >= max(0.8 * usual[agent], 0.05):
                    expected.append((agent, *episode.get_observations(t), *episode.get_observations(t + 1), error))
                usual[agent] = 0.8 * usual[agent] + 0.2 * abs(error)
        sent = [
            (agent_of(own), *own.get_observations(t), *own.get_observations(t + 1), own.get_extra_model_outputs(TD_ERROR, t))
            for own in fragments
            for t in range(len(own))
        ]
        np.testing.assert_allclose(sent, expected, rtol=1e-4, atol=1e-5)
        num_sent, num_all = num_sent + len(sent), num_all + sum(map(len, episodes))
        for agent, value in ours.usual.items():
            assert value == pytest.approx(usual[agent], rel=1e-4)
    assert 0.1 < num_sent / num_all < 0.9


def test_fragments_end_where_episodes_do_and_bring_returns(ray_session: None) -> None:
    ours, stock = pair()
    returns: dict[int, list[float]] = {agent: [] for agent in range(NUM_AGENTS)}
    reported: dict[int, list[float]] = {agent: [] for agent in range(NUM_AGENTS)}
    for seed in range(12):
        fragments, episodes = sampled(ours, seed), sampled(stock, seed)
        ends = {episode.get_observations(-1).tobytes() for episode in episodes if episode.is_terminated}
        for own in fragments:
            assert own.is_terminated == (own.get_observations(-1).tobytes() in ends)
        for part, noted in ((episodes, returns), (fragments, reported)):
            for own in part:
                values = np.asarray(own.get_extra_model_outputs(RETURN))
                noted[agent_of(own)] += values[~np.isnan(values)].tolist()
    assert all(returns.values())
    for agent, values in reported.items():
        assert set(values) <= set(returns[agent])
        assert values[-1] in returns[agent][-2:]


def test_a_replay_draws_what_was_sent_and_nothing_else(ray_session: None) -> None:
    ours, _ = pair()
    replay = REPLAYS[KINDS[1]](capacity=5000, alpha=0.6, seed=0)
    sent = set()
    for seed in range(6):
        fragments = sampled(ours, seed)
        for own in fragments:
            observations = own.get_observations()
            sent |= {(observations[t].tobytes(), observations[t + 1].tobytes()) for t in range(len(own))}
        replay.add(fragments)
    assert replay.get_num_timesteps() == len(sent)
    drawn = replay.sample(num_items=3000, n_step=1, beta=0.4, gamma=0.99, sample_episodes=True)
    assert {(own.get_observations(0).tobytes(), own.get_observations(1).tobytes()) for own in drawn} <= sent


def test_messages_and_bytes_are_counted(ray_session: None) -> None:
    algorithm = tiny_ebcdql(communication_kwargs=TRIGGER).build_algo()
    arrived: list[Any] = []
    count = algorithm.local_replay_buffer.on_add

    def spy(episodes: list[Any]) -> None:
        arrived.append([(agent_of(own), len(own)) for own in episodes])
        count(episodes)

    algorithm.local_replay_buffer.on_add = spy
    for _ in range(2):
        logged = algorithm.train()["learners"][MODULE]["agg"]
    assert logged["messages"] == sum(len({agent for agent, _ in sample}) for sample in arrived)
    steps = sum(length for sample in arrived for _, length in sample)
    observations = sum(length + 1 for sample in arrived for _, length in sample)
    assert logged["transitions"] == steps
    assert logged["bytes"] == observations * 16 + steps * (2 + 4 + 4)  # four numbers; an action, a reward, an error
    num_parameters = sum(own.size for own in algorithm.env_runner.module.get_state().values())
    assert logged["bytes_down"] % (4 * NUM_AGENTS * num_parameters) == 0
    assert logged["bytes_down"] > 0
    assert steps < 200
    algorithm.stop()


def test_gates_remember_in_checkpoints(ray_session: None, tmp_path: Any) -> None:
    algorithm = tiny_ebcdql(communication_kwargs=TRIGGER).training(store_buffer_in_checkpoints=True).build_algo()
    algorithm.train()
    path = algorithm.save_to_path(tmp_path / "checkpoint")
    usual, ledger = dict(algorithm.env_runner.usual), algorithm.exchange.ledger.state_dict()
    assert len(usual) == NUM_AGENTS
    size = algorithm.local_replay_buffer.get_num_timesteps()
    algorithm.train()
    assert algorithm.env_runner.usual != usual
    algorithm.restore_from_path(path)
    assert algorithm.env_runner.usual == usual
    assert algorithm.exchange.ledger.state_dict() == ledger
    assert algorithm.local_replay_buffer.get_num_timesteps() == size
    algorithm.stop()


@pytest.mark.remote
def test_a_runner_saves_the_memory_of_its_own_agents_alone(ray_session: None, tmp_path: Any) -> None:
    """After a restore each runner knows of all agents, and what it knows of the others' goes out of date."""
    config = tiny_ebcdql(communication_kwargs=TRIGGER).env_runners(num_env_runners=2, num_envs_per_env_runner=2)
    algorithm = config.build_algo()
    algorithm.train()
    algorithm.restore_from_path(algorithm.save_to_path(tmp_path / "first"))
    for _ in range(2):
        algorithm.train()
    runners = algorithm.env_runner_group.foreach_env_runner(lambda runner: dict(runner.usual), local_env_runner=False)
    state = algorithm.get_state()["aggregation"]["usual"]
    assert state == {agent: runners[agent // 2][agent] for agent in range(4)}
    assert runners[0] != runners[1]
    algorithm.stop()


def test_a_replay_that_nothing_was_sent_to_is_named(ray_session: None) -> None:
    algorithm = tiny_ebcdql(communication_kwargs={"epsilon": 1e6}).build_algo()
    with pytest.raises(ValueError, match="the gate has let no transition through yet; lower its threshold"):
        algorithm.train()
    algorithm.stop()


REFUSED: list[tuple[type, dict[str, Any], str]] = [
    (AggDQNConfig, {"communication": "td_error"}, "gate 'td_error' decides about transitions, but payload 'gradients'"),
    (AggDQNConfig, {"payload": "transitions", "aggregation": "r_weighted"}, "rule 'r_weighted' merges"),
    (AggDQNConfig, {"payload": "transitions", "compression": "float16"}, "codec 'float16' encodes"),
    (AggDQNConfig, {"payload": "parameters"}, "payload 'parameters' exchanges parameters, which AggDQNConfig does not have"),
    (AggDQNConfig, {"aggregation": "samples"}, "choose 'mean'"),
    (AggDQNConfig, {"broadcast_compression": "float16"}, "leave broadcast_compression out"),
    (AggDQNConfig, {"initial_priorities": "largest"}, "initial_priorities"),
    (AggDQNConfig, {"initial_priorities": "td_error", "n_step": 3}, "set n_step=1, not 3"),
    (DeepEBCDQLConfig, {"attack": {"kind": "sign_flip", "agents": [0]}}, "attack changes gradients"),
]


@pytest.mark.parametrize(("make", "training", "message"), REFUSED)
def test_what_cannot_work_is_refused(make: Any, training: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_dqn(make=make, **training).validate()


def test_what_a_replay_or_an_env_runner_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match=r"draws by priority.*not 'EpisodeReplayBuffer'"):
        tiny_dqn(KINDS[0], initial_priorities="td_error").validate()
    with pytest.raises(ValueError, match="replay_buffer_config"):
        tiny_dqn("MultiAgentEpisodeReplayBuffer").validate()
    with pytest.raises(ValueError, match=r"derive .* from TransitionEnvRunner"):
        tiny_ebcdql().env_runners(env_runner_cls=SingleAgentEnvRunner).validate()
    for config in (tiny_ebcdql(), tiny_dqn(initial_priorities="td_error")):
        with pytest.raises(ValueError, match="store no episodes; leave out output='episodes'"):
            config.env_runners(batch_mode="complete_episodes").offline_data(output="episodes").validate()
    several = tiny_dqn().multi_agent(policies={"one"}, policy_mapping_fn=lambda *args, **kwargs: "one")
    with pytest.raises(ValueError, match="takes single-agent environments"):
        several.validate()


def test_errors_are_first_priorities_without_a_gate(ray_session: None) -> None:
    config = tiny_dqn(initial_priorities="td_error")
    config.validate()
    runner = TransitionEnvRunner(config=config)
    replay = REPLAYS[KINDS[1]](capacity=5000, alpha=1.0, seed=0)
    total = num_steps = 0.0
    for _ in range(60):  # chunks of a step or two, which follow on each other in the replay
        for episode in (episodes := runner.sample()):
            expected = naive_errors(runner.module, episode, config.gamma)
            np.testing.assert_allclose(episode.get_extra_model_outputs(TD_ERROR), expected, rtol=1e-4, atol=1e-5)
            total, num_steps = total + np.abs(expected).sum(), num_steps + len(episode)
        replay.add(episodes)
    assert sum(episode.is_done for episode in replay.episodes) > NUM_AGENTS
    assert replay.get_num_timesteps() == num_steps
    assert replay._sum_segment.sum() == pytest.approx(total, rel=1e-4)
