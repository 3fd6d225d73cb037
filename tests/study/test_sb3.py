"""What a cell's run records, against Stable-Baselines3 run by hand."""

import dataclasses
import itertools
import math
from importlib.util import find_spec

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.atari_wrappers import EpisodicLifeEnv
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from rl_agg.study.analysis.records import decoded
from rl_agg.study.errors import StudyError
from rl_agg.study.run.runners import runner_for
from rl_agg.study.run.training import train
from rl_agg.study.spec.study import Budget, Environment, System, Wrapper
from sb3_agg import AgentVecNormalize
from sb3_agg.study import Sb3Runner, _environment, _model

ENVPOOL = pytest.mark.skipif(find_spec("envpool") is None, reason="the extra envpool is not installed")


def run(cell):
    seen = []
    updates = runner_for(cell).run(cell, lambda update, fraction: seen.append(fraction))
    assert len(seen) == len(updates)
    assert seen[-1] == 1.0
    return updates


class EpisodeBook(BaseCallback):
    """Writes down each rollout's episodes by agent, straight from Monitor."""

    def __init__(self):
        super().__init__()
        self.rollouts = []

    def _on_rollout_start(self):
        self.rollouts.append([[] for _ in range(self.training_env.num_envs)])

    def _on_step(self):
        for agent, info in enumerate(self.locals["infos"]):
            if "episode" in info:
                self.rollouts[-1][agent].append(info["episode"]["r"])
        return True


@pytest.mark.parametrize("normalize", [None, True], ids=["stock", "normalized"])
def test_records_are_those_of_stock_ppo_run_by_hand(tiny, normalize):
    environment = dataclasses.replace(tiny().environments["CartPole-v1"], normalize=normalize)
    updates = run(tiny(environments={"CartPole-v1": environment}).cells[0])
    env = make_vec_env("CartPole-v1", 4, seed=0)
    if normalize:
        env = VecNormalize(env, gamma=0.99)
    book = EpisodeBook()  # Monitor's returns, which VecNormalize outside of it leaves raw
    PPO("MlpPolicy", env, seed=0, n_steps=64, batch_size=64, n_epochs=2, device="cpu").learn(3 * 64 * 4, callback=book)
    last = [math.nan] * 4
    for number, (update, rollout) in enumerate(zip(updates, book.rollouts, strict=True), start=1):
        last = [np.mean(episodes) if episodes else old for episodes, old in zip(rollout, last, strict=True)]
        assert update.update == number
        assert update.env_steps == number * 64 * 4
        assert update.episodes == sum(map(len, rollout))
        assert update.agent_returns == pytest.approx(last, nan_ok=True)
        assert update.mean_return == pytest.approx(np.nanmean(last))
    assert all(a.wall_time < b.wall_time for a, b in itertools.pairwise(updates))


@pytest.mark.parametrize(("system", "has_weights"), [("stable_baselines3:DQN", False), ("sb3_agg:AggDQN", True)])
def test_records_of_a_replay_buffer_are_of_a_thousand_steps(tiny, system, has_weights):
    settings = {"learning_starts": 100, "batch_size": 16, "buffer_size": 2000}
    environment = Environment(num_agents=4, network="small", settings=settings)
    systems = {"stock": System(system, {"minibatches": "stock"} if has_weights else {})}
    study = tiny(systems=systems, environments={"CartPole-v1": environment}, budget=Budget(env_steps=2500))
    updates = run(study.cells[0])
    assert [update.env_steps for update in updates] == [1008, 2016, 2512]  # 16 steps in a rollout
    assert [update.update for update in updates] == [63, 126, 157]
    book = EpisodeBook()
    env = make_vec_env("CartPole-v1", 4, seed=0)
    DQN("MlpPolicy", env, seed=0, policy_kwargs={"net_arch": [64, 64]}, device="cpu", **settings).learn(2500, callback=book)
    last, first = [math.nan] * 4, 0
    for update in updates:
        rollouts, first = book.rollouts[first : update.update], update.update
        episodes = [list(itertools.chain.from_iterable(rollout[agent] for rollout in rollouts)) for agent in range(4)]
        last = [np.mean(own) if own else old for own, old in zip(episodes, last, strict=True)]
        assert update.episodes == sum(map(len, episodes))
        assert update.agent_returns == pytest.approx(last, nan_ok=True)
        assert ("agg/effective_agents" in update.scalars) == has_weights


def test_the_step_that_only_stops_a_run_is_not_counted(tiny):
    settings = {"learning_starts": 20, "batch_size": 16, "buffer_size": 2000}
    environments = {"CartPole-v1": Environment(num_agents=2, network="small", settings=settings)}
    study = tiny(systems={"stock": System("sb3_agg:AggDQN")}, environments=environments, budget=Budget(updates=300))
    assert run(study.cells[0])[-1].env_steps == 300 * 8


def test_a_budget_of_updates_counts_those_and_not_records(tiny):
    settings = {"learning_starts": 20, "batch_size": 16, "buffer_size": 2000, "train_freq": 4}
    environments = {"CartPole-v1": Environment(num_agents=4, network="small", settings=settings)}
    study = tiny(systems={"stock": System("sb3_agg:AggDQN")}, environments=environments, budget=Budget(updates=100))
    record = decoded(study.cells[0], train(study.cells[0], lambda update, fraction: None))
    assert record.updates["update"].tolist() == [63, 100]
    assert not [warning for warning in record.metadata["warnings"] if "budget" in warning]


def test_noise_by_name_is_the_algorithms(tiny):
    settings = {"action_noise": {"type": "normal", "std": 0.25}, "learning_starts": 50, "buffer_size": 500}
    environment = Environment(num_agents=2, network="small", settings=settings)
    systems = {"stock": System("sb3_agg:AggTD3", {"aggregation": "l_weighted"})}
    (cell, *_) = tiny(systems=systems, environments={"Pendulum-v1": environment}, budget=Budget(env_steps=60)).cells
    made = _model(cell, _environment(cell))
    np.testing.assert_array_equal(made.action_noise._sigma, [0.25])
    assert made.policy_kwargs["net_arch"] == {"pi": [64, 64], "qf": [64, 64]}
    run(cell)
    settings["action_noise"]["type"] = "pink"
    with pytest.raises(StudyError, match=r"action_noise must be .*normal or ornstein-uhlenbeck.* got .*pink"):
        runner_for(cell).check(cell)


def test_a_cell_repeats_itself_and_seeds_differ(tiny):
    first, _, other, _ = tiny().cells
    assert other.seed == 1

    def returns(cell):
        return [update.agent_returns for update in run(cell)]

    assert returns(first) == returns(first)
    assert returns(first) != returns(other)


def test_weights_are_recorded_where_a_system_has_them(tiny):
    stock, loss, *_ = tiny().cells
    assert all(not update.scalars for update in run(stock))
    for update in run(loss):
        assert update.scalars["agg/weight_max"] >= update.scalars["agg/weight_min"] > 0
        assert update.scalars["agg/masked_agents"] == 0


def test_a_budget_in_steps_ends_with_the_rollout_that_reaches_it(tiny):
    updates = run(tiny(budget=Budget(env_steps=300)).cells[0])
    assert [update.env_steps for update in updates] == [256, 512]


def test_a_budget_in_updates_holds_where_rollouts_stretch(tiny):
    systems = {"stock": System("sb3_agg:AggPPO", {"min_episodes": 3, "n_steps": 16})}
    updates = run(tiny(systems=systems).cells[0])
    assert len(updates) == 3
    assert all(update.episodes >= 3 * 4 for update in updates)
    assert updates[-1].env_steps > 3 * 16 * 4


@pytest.mark.parametrize("budget", [Budget(updates=4), Budget(env_steps=4 * 64 * 4)], ids=["updates", "steps"])
def test_schedules_run_down_over_the_budget(tiny, budget, monkeypatch):
    rates = []

    def note(self):
        self._update_learning_rate(self.policy.optimizer)
        rates.append(self.policy.optimizer.param_groups[0]["lr"])

    monkeypatch.setattr(PPO, "train", note)
    systems = {"stock": System("stable_baselines3:PPO", {"learning_rate": "lin_0.004"})}
    run(tiny(systems=systems, budget=budget).cells[0])
    assert rates == pytest.approx([0.003, 0.002, 0.001, 0.0])


@pytest.mark.parametrize("normalize", [{}, {"clip_obs": 5.0}, {"per_agent": True}])
def test_normalization_discounts_as_the_algorithm_does(tiny, monkeypatch, normalize):
    made = []

    class Seen(PPO):
        def learn(self, *args, **kwargs):
            made.append(self)
            return super().learn(*args, **kwargs)

    monkeypatch.setattr("sb3_agg.study.import_system", lambda cell: Seen)
    environment = dataclasses.replace(tiny().environments["CartPole-v1"], normalize=normalize)
    systems = {"stock": System("x:y", {"gamma": 0.9})}
    cell = tiny(environments={"CartPole-v1": environment}, systems=systems).cells[0]
    Sb3Runner().run(cell, lambda *_: None)
    assert made[0].env.gamma == 0.9
    assert made[0].env.clip_obs == normalize.get("clip_obs", 10.0)
    assert isinstance(made[0].env, AgentVecNormalize) == ("per_agent" in normalize)


@pytest.mark.parametrize(
    ("normalize", "words"),
    [
        ({"per_agents": True}, r"normalize has no setting 'per_agents'; .*per_agent.* \(did you mean 'per_agent'\?\)"),
        ({"per_agent": "yes"}, "normalize.per_agent must be True or False, got 'yes'"),
        ({"per_agent": True, "norm_reward": False}, "normalize.per_agent has no effect with norm_reward: false"),
    ],
)
def test_rewards_normalised_by_agent_in_a_way_that_is_none(tiny, normalize, words):
    environment = dataclasses.replace(tiny().environments["CartPole-v1"], normalize=normalize)
    with pytest.raises(ValueError, match=words):
        _environment(tiny(environments={"CartPole-v1": environment}).cells[0])


def test_the_network_is_the_papers_unless_settings_say_otherwise(tiny, monkeypatch):
    built = []
    monkeypatch.setattr("sb3_agg.study._environment", lambda cell: make_vec_env("CartPole-v1", 2))
    from sb3_agg import study as sb3

    original = sb3._model
    monkeypatch.setattr("sb3_agg.study._model", lambda cell, env: built.append(original(cell, env)))
    for settings, width, activation, optimizer in [
        ({}, 85, torch.nn.Tanh, torch.optim.Adam),
        ({"policy_kwargs": {"net_arch": [7], "activation_fn": "nn.ELU"}}, 7, torch.nn.ELU, torch.optim.Adam),
        ({"policy_kwargs": {"optimizer_class": "torch.optim.SGD"}}, 85, torch.nn.Tanh, torch.optim.SGD),
    ]:
        environments = {"CartPole-v1": Environment(network="medium", settings=settings)}
        Sb3Runner().check(tiny(environments=environments).cells[0])
        first, after = list(built[-1].policy.mlp_extractor.policy_net)[:2]
        assert first.out_features == width
        assert isinstance(after, activation)
        assert type(built[-1].policy.optimizer) is optimizer


@pytest.mark.parametrize(
    ("system", "environment", "words"),
    [
        (System("sb3_contrib:ARS"), {}, ["ARS has neither rollouts nor a replay buffer", "PPO"]),
        (System("stable_baselines3:SAC"), {}, ["cannot be built", "action spaces"]),
        (System("stable_baselines3:PPO", {"tensorboard_log": "runs"}), {}, ["the study's key '--tensorboard' sets it"]),
        (System("stable_baselines3:PPPO"), {}, ["unknown name 'PPPO'", "did you mean 'PPO'"]),
        (System("stable_baselines:PPO"), {}, ["no module 'stable_baselines'"]),
        (System("importing_nothing:PPO"), {}, ["importing_nothing needs a module 'no_such_module'"]),
        (System("collections:OrderedDict"), {}, ["no runner is registered for collections:OrderedDict", "BaseAlgorithm"]),
        (System("os:getcwd"), {}, ["not a class"]),
        (System("rllib_agg:AggPPOConfig"), {}, ["is a config; write rllib_agg:AggPPO"]),
        (System("stable_baselines3:PPO", {"n_epoch": 1}), {}, ["unknown PPO setting 'n_epoch'", "did you mean 'n_epochs'"]),
        (System("sb3_agg:AggPPO", {"aggregatoin": "sum"}), {}, ["did you mean 'aggregation'"]),
        (System("sb3_agg:AggPPO", {"n_epoch": 1}), {}, ["did you mean 'n_epochs'"]),
        (System("sb3_agg:AggPPO", {"aggregation": "summ"}), {}, ["cannot be built", "did you mean 'sum'"]),
        (
            System("stable_baselines3:PPO", {"policy_kwargs": {"net_arc": [8]}}),
            {},
            ["policy_kwargs", "did you mean 'net_arch'"],
        ),
        (
            System("stable_baselines3:DQN", {"policy_kwargs": {"net_arc": [8]}}),
            {},
            ["policy_kwargs", "did you mean 'net_arch'"],
        ),
        (
            System("stable_baselines3:PPO"),
            {"normalize": {"norm_obss": True}},
            ["normalize has no setting", "did you mean 'norm_obs'"],
        ),
        (
            System("sb3_agg:AggDQN"),
            {"normalize": {"per_agent": True}},
            ["normalize.per_agent needs rollouts"],
        ),
        (System("stable_baselines3:PPO", {"seed": 1}), {}, ["'seed' cannot be set here", "'seeds'"]),
        (System("stable_baselines3:PPO", {"learning_rate": "linear"}), {}, ["learning_rate", "'linear'"]),
        (System("stable_baselines3:PPO", {"policy_kwargs": {"activation_fn": "nn.Nope"}}), {}, ["activation_fn", "'nn.Nope'"]),
        (
            System("stable_baselines3:PPO", {"policy_kwargs": {"activation_fn": "os.Tanh"}}),
            {},
            ["a class of torch.nn", "'os.Tanh'"],
        ),
        (
            System("stable_baselines3:PPO", {"policy_kwargs": {"optimizer_class": "SDG"}}),
            {},
            ["a class of torch.optim", "'SDG'"],
        ),
        (System("stable_baselines3:PPO"), {"id": "CartPole-v9"}, ["no environment 'CartPole-v9'", "`v1`"]),
        pytest.param(
            System("stable_baselines3:PPO"),
            {"id": "envpool/CartPole-v9"},
            ["EnvPool", "did you mean 'CartPole-v1'"],
            marks=ENVPOOL,
        ),
        (
            System("stable_baselines3:PPO"),
            {"id": "envpool/CartPole-v1", "unequal": [{"agents": [0], "mass_scale": 2.0}]},
            ["mass_scale cannot differ among environments that step together"],
        ),
        (System("stable_baselines3:PPO"), {"network": "tiny"}, ["'tiny'", "large, medium, small"]),
        (System("stable_baselines3:PPO", policy="MlpPolice"), {}, ["MlpPolice"]),
    ],
    ids=lambda value: None if not isinstance(value, System) else value.system,
)
def test_what_cannot_start_is_an_error_in_one_message(tiny, system, environment, words, tmp_path, monkeypatch):
    (tmp_path / "importing_nothing.py").write_text("import no_such_module")
    monkeypatch.syspath_prepend(tmp_path)
    study = tiny(systems={"stock": system}, environments={"CartPole-v1": Environment(num_agents=2, **environment)})
    cell = study.cells[0]
    with pytest.raises(StudyError) as caught:
        runner_for(cell).check(cell)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "environment", "words"),
    [
        ({"n_epochs": None}, {}, "n_epochs must be an integer, got null"),
        ({"n_epochs": 0}, {}, "n_epochs must be an integer >= 1, got 0"),
        ({"gamma": None}, {}, "gamma must be a number, got null"),
        ({"ent_coef": None}, {}, "ent_coef must be a number, got null"),
        ({"max_grad_norm": None}, {}, "max_grad_norm must be a number, got null"),
        ({"n_steps": None}, {}, "n_steps must be an integer, got null"),
        ({"learning_rate": None}, {}, "learning_rate must not be null"),
        (
            {"policy_kwargs": {"net_arch": "small"}},
            {},
            "policy_kwargs.net_arch must be a list or a mapping or null, got 'small'",
        ),
        ({}, {"normalize": {"gamma": "x"}}, "normalize.gamma must be a number, got 'x'"),
    ],
)
def test_null_and_values_out_of_range_are_errors_before_anything_runs(tiny, settings, environment, words):
    systems = {"stock": System("sb3_agg:AggPPO", settings)}
    study = tiny(systems=systems, environments={"CartPole-v1": Environment(num_agents=2, **environment)})
    with pytest.raises(StudyError, match=words):
        runner_for(study.cells[0]).check(study.cells[0])


def test_null_passes_where_it_means_something(tiny):
    settings = {"batch_size": None, "target_kl": None, "clip_range_vf": None, "policy_kwargs": None}
    study = tiny(systems={"stock": System("sb3_agg:AggPPO", settings)})
    runner_for(study.cells[0]).check(study.cells[0])


@pytest.mark.parametrize(
    ("path", "policy"),
    [("stable_baselines3:A2C", None), ("sb3_agg:AggA2C", None), ("sb3_agg:AggRecurrentPPO", "MlpLstmPolicy")],
)
def test_any_on_policy_algorithm_runs(tiny, path, policy):
    settings = {"n_steps": 16} | ({"batch_size": 32, "n_epochs": 1} if "PPO" in path else {})
    systems = {"stock": System(path, settings, policy)}
    updates = run(tiny(systems=systems, environments={"CartPole-v1": Environment(num_agents=2)}).cells[0])
    assert [update.env_steps for update in updates] == [32, 64, 96]


def test_episodes_that_a_wrapper_ends_are_reported_with_their_raw_return(tiny):
    """Pendulum ends after 200 steps; Monitor, inside the wrappers, never hears of those that end after 20."""
    wrappers = [Wrapper("gymnasium.wrappers:TimeLimit", {"max_episode_steps": 20}), Wrapper("walks:Negated")]
    settings = {"n_steps": 64, "batch_size": 64, "n_epochs": 1}
    environments = {"Pendulum-v1": Environment(num_agents=2, wrappers=wrappers, settings=settings)}
    for update in run(tiny(environments=environments).cells[0]):
        assert update.episodes == 6
        assert -20 * 16.3 < update.mean_return < 0  # a step costs at most 16.3


class Lives(EpisodicLifeEnv):
    """Loses one at every tenth step, and goes on inside."""

    def __init__(self, env):
        gym.Wrapper.__init__(self, env)
        self.clock, self.was_real_done = 0, True

    def reset(self, **kwargs):
        return self.env.reset(**kwargs) if self.was_real_done else (self.last, {})

    def step(self, action):
        self.last, reward, self.was_real_done, truncated, info = self.env.step(action)
        self.was_real_done = self.was_real_done or truncated
        self.clock += 1
        return self.last, reward, self.was_real_done or self.clock % 10 == 0, truncated, info


def test_a_lost_life_is_no_episode(tiny):
    settings = {"n_steps": 400, "batch_size": 400, "n_epochs": 1}
    environment = Environment(num_agents=2, wrappers=[Wrapper(f"{__name__}:Lives")], settings=settings)
    for update in run(tiny(environments={"Pendulum-v1": environment}).cells[0]):
        assert update.mean_return < -300  # of 200 steps; a life's are 10
        assert update.episodes == 4


@ENVPOOL
def test_environments_of_envpool_run(tiny):
    settings = {"n_steps": 64, "batch_size": 64, "n_epochs": 1}
    environment = Environment(num_agents=4, normalize=True, env_kwargs={"max_episode_steps": 20}, settings=settings)
    for update in run(tiny(environments={"envpool/CartPole-v1": environment}).cells[0]):
        assert update.episodes >= 12
        assert 8 < update.mean_return <= 20
        assert len(update.agent_returns) == 4


def test_returns_are_those_of_the_scored_agents(tiny):
    broken = Environment(num_agents=4, unequal=[{"agents": [0], "reward_scale": 100.0}], scored_agents=[1, 2, 3])
    settings = {"n_steps": 64, "batch_size": 64, "n_epochs": 1}
    updates = run(tiny(environments={"CartPole-v1": dataclasses.replace(broken, settings=settings)}).cells[0])
    for update in updates:
        assert update.agent_returns[0] > 500 > max(update.agent_returns[1:])
        assert update.mean_return == pytest.approx(np.mean(update.agent_returns[1:]))


def test_an_unknown_name_lists_classes_alone(tiny):
    with pytest.raises(StudyError) as caught:
        runner_for(tiny(systems={"stock": System("sb3_agg:AgPPO")}).cells[0])
    listed = str(caught.value).partition("choose from ")[2].split(", ")
    assert "AggPPO" in listed
    assert not {"rollouts", "mixin", "study", "AgentLogs"} & set(listed)
