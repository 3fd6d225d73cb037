"""A3C: the right gradient, applied on arrival, counted, and weighted where asked."""

from __future__ import annotations

import copy
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray import cloudpickle, tune
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.examples.rl_modules.classes.lstm_containing_rlm import LSTMContainingRLModule

from rl_agg import Scheme, Weighting
from rl_agg.arrivals import ArrivalExchange
from rl_agg.schedules import OnArrival
from rllib_agg import A3C, A3CConfig
from rllib_agg.a3c.learner import A3CTorchLearner, GradientMessage
from rllib_agg.a3c.running_signals import RunningSignals
from rllib_agg.aggregation.timeouts import check_timeout, deadline_of
from tests.rllib.ppo_configs import TINY
from tests.rllib.results import MODULE, agg
from tests.rllib.searches import Search, each_search
from tests.states import as_arrays

cloudpickle.register_pickle_by_value(sys.modules[__name__])

FRAGMENT = 10


def tiny_a3c(num_env_runners: int = 0, **training: Any) -> A3CConfig:
    return (
        A3CConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=num_env_runners, rollout_fragment_length=FRAGMENT)
        .rl_module(model_config=TINY)
        .training(gradients_per_iteration=5, **training)
        .debugging(seed=0)
    )


@pytest.fixture(scope="module")
def algorithm(ray_session: None) -> Iterator[A3C]:
    algorithm = tiny_a3c(gamma=0.9).build_algo()
    yield algorithm
    algorithm.stop()


def test_gradient_is_that_of_the_paper(algorithm: A3C, sample: Callable[[], list[Any]]) -> None:
    """Equation 5 written out step by step, with n-step returns from the end of each fragment backwards."""
    learner = algorithm.learner
    module, config = learner.module[MODULE], algorithm.config
    terms = []
    for episode in sample():
        observations = torch.tensor(np.asarray(episode.get_observations()))
        outputs = module.forward_train({Columns.OBS: observations})
        values = module.compute_values({Columns.OBS: observations})
        logits = outputs[Columns.ACTION_DIST_INPUTS].log_softmax(-1)
        target = 0.0 if episode.is_terminated else values[-1].item()
        for t in reversed(range(len(episode))):
            target = episode.get_rewards(t) + config.gamma * target
            logp, value = logits[t, episode.get_actions(t)], values[t]
            entropy = -(logits[t].exp() * logits[t]).sum()
            advantage = target - value.item()
            terms.append(-logp * advantage + config.vf_loss_coeff * (target - value) ** 2 - config.entropy_coeff * entropy)
    loss = torch.stack(terms).mean()
    expected = torch.autograd.grad(loss, list(module.parameters()))
    message = learner.take_gradient(sample(), seq_no=7, timesteps={})
    assert message.loss == pytest.approx(loss.item(), rel=1e-4)
    assert (message.seq_no, message.num_samples) == (7, len(terms))
    for actual, gradient in zip(message.gradients, expected, strict=True):
        np.testing.assert_allclose(actual, gradient, rtol=1e-4, atol=1e-5)


def test_local_iteration_counts_what_it_sends(algorithm: A3C) -> None:
    result = algorithm.train()
    logged = agg(result)
    size = sum(parameter.numel() for parameter in algorithm.learner.module[MODULE].parameters())
    assert logged["messages"] == 5
    assert logged["bytes"] == logged["bytes_down"] == 5 * 4 * size
    assert logged["physical_bytes"] == 0  # all in one process
    assert (logged["staleness"], logged["weight"]) == (0.0, 1.0)
    assert (logged["skipped_updates"], logged["masked_gradients"]) == (0, 0)
    assert result["num_env_steps_sampled_lifetime"] == 5 * FRAGMENT
    assert agg(algorithm.train())["messages"] == 10


def test_runner_samples_with_the_module_that_it_learns_with(algorithm: A3C) -> None:
    runner = algorithm.env_runner
    algorithm.train()
    state = algorithm.module_state(inference_only=False)
    runner.sample_gradient(state, {})
    for name, parameter in runner.module.named_parameters():
        torch.testing.assert_close(parameter, algorithm.learner.module[MODULE].get_parameter(name), rtol=0, atol=0)


def test_runner_takes_other_weights_of_the_same_number(algorithm: A3C) -> None:
    """As it is sent, encoded, after a gradient that made no step."""
    algorithm.train()
    runner, state = algorithm.env_runner, algorithm.module_state(inference_only=False)
    runner.sample_gradient(state, {})
    weights = {name: value + 0.25 for name, value in state["rl_module"][MODULE].items()}
    message, sampled, _ = runner.sample_gradient({**state, "rl_module": {MODULE: weights}}, {})
    for name, parameter in runner.module.named_parameters():
        np.testing.assert_array_equal(parameter.detach(), weights[name])
    assert message.seq_no == sampled["weights_seq_no"].peek() == state["weights_seq_no"]


def test_metrics_do_not_count_the_bootstrap_step(algorithm: A3C) -> None:
    for _ in range(5):
        result = algorithm.train()["env_runners"]
    assert result["episode_len_mean"] == result["episode_return_mean"]  # CartPole pays 1 a step


@pytest.mark.remote
def test_remote_runners_answer_with_what_they_were_sent(ray_session: None, tmp_path: Path) -> None:
    config = tiny_a3c(2, aggregation="r_weighted")
    algorithm = config.evaluation(evaluation_interval=100, evaluation_duration=1).build_algo()
    for _ in range(4):
        logged = agg(algorithm.train())
    assert logged["messages"] >= 20
    gradient = logged["bytes"] / logged["messages"] - 4  # each message holds a return besides
    assert logged["bytes_down"] == gradient * (logged["messages"] + 2)  # two are under way
    assert logged["physical_bytes"] > logged["bytes_down"] + gradient * logged["messages"]  # RLlib sends constants too
    assert 0 <= logged["staleness"] <= 2
    assert algorithm.evaluate()["env_runners"]["episode_return_mean"] > 0
    path = algorithm.save_to_path(tmp_path / "checkpoint")
    signals, weights = algorithm.signals.get_state(), algorithm.learner.module.get_state()
    seq_no = algorithm.learner.weights_seq_no
    for _ in range(3):
        algorithm.train()
    algorithm.restore_from_path(path)
    np.testing.assert_equal(algorithm.signals.get_state(), signals)
    np.testing.assert_equal(algorithm.learner.module.get_state(), weights)
    assert algorithm.learner.weights_seq_no == seq_no
    assert agg(algorithm.train())["staleness"] >= 0
    algorithm.stop()


def test_a_checkpoint_restores_to_the_bit(ray_session: None, sample: Callable[[], list[Any]], tmp_path: Path) -> None:
    algorithm = tiny_a3c(aggregation="r_weighted", entropy_coeff=[[0, 0.1], [1000, 0.0]]).build_algo()
    for _ in range(3):
        before = agg(algorithm.train())
    restored = A3C.from_checkpoint(algorithm.save_to_path(tmp_path / "checkpoint"))
    for _ in range(3):
        for one in (algorithm, restored):
            message = one.learner.take_gradient(sample(), seq_no=one.learner.weights_seq_no, timesteps=one.timesteps)
            assert one.receive(0, message, {}, {})
    for part in ("rl_module", "optimizer", "weights_seq_no"):
        np.testing.assert_equal(restored.learner.get_state()[part], algorithm.learner.get_state()[part])
    np.testing.assert_equal(restored.signals.get_state(), algorithm.signals.get_state())
    assert agg(restored.train())["messages"] == before["messages"] + 3 + 5
    algorithm.stop()
    restored.stop()


def trained(**training: Any) -> tuple[A3C, dict[str, float]]:
    """Two iterations in one process."""
    torch.manual_seed(0)
    np.random.seed(0)
    algorithm = tiny_a3c(**training).build_algo()
    for _ in range(2):
        logged = agg(algorithm.train())
    algorithm.stop()
    return algorithm, logged


def assert_same_parameters(one: A3C, other: A3C) -> None:
    np.testing.assert_equal(other.learner.get_state()["rl_module"], one.learner.get_state()["rl_module"])


@pytest.mark.remote
def test_a_gate_that_lets_all_send_changes_nothing(ray_session: None) -> None:
    every, counted = trained()
    lazy, logged = trained(communication="lag", communication_kwargs={"xi": 0.0})
    assert_same_parameters(every, lazy)
    assert {name: logged[name] for name in ("messages", "bytes", "bytes_down")} == {
        name: counted[name] for name in ("messages", "bytes", "bytes_down")
    }
    lone, logged = trained(aggregation="median")  # of one agent
    assert_same_parameters(every, lone)


def test_a_gate_withholds_gradients(ray_session: None) -> None:
    algorithm, logged = trained(communication="lag", communication_kwargs={"xi": 1e6})
    assert logged["messages"] == algorithm.learner.weights_seq_no == 1
    assert logged["bytes_down"] == 10 * logged["bytes"]
    assert logged["masked_gradients"] == 0


class TwoOptimizers(A3CTorchLearner):
    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        critic = {id(own) for name, own in self.module[module_id].named_parameters() if name.startswith("vf")}
        for name, of_critic in (("actor", False), ("critic", True)):
            own = [item for item in self.module[module_id].parameters() if (id(item) in critic) == of_critic]
            self.register_optimizer(
                module_id=module_id, optimizer_name=name, optimizer=torch.optim.Adam(own), params=own, lr_or_lr_schedule=0.01
            )


def test_a_gate_knows_what_two_optimizers_make_of_gradients(ray_session: None) -> None:
    algorithm = tiny_a3c(communication="lag").learners(learner_class=TwoOptimizers).build_algo()
    logged = agg(algorithm.train())
    learner = algorithm.learner
    message = GradientMessage([own.numpy() for own in map(torch.zeros_like, learner.parameters_by_ref.values())], 0, 1, 0, 0)
    scale = learner.step_scale(message)
    algorithm.stop()
    assert logged["messages"] >= 1
    assert scale.shape == (sum(own.numel() for own in learner.parameters_by_ref.values()),)


def test_float16_halves_the_bytes(ray_session: None) -> None:
    algorithm, logged = trained(compression="float16")
    assert 2 * logged["bytes"] == logged["bytes_down"] > 0
    plain, _ = trained()
    for name, value in algorithm.learner.get_state()["rl_module"][MODULE].items():
        np.testing.assert_allclose(value, plain.learner.get_state()["rl_module"][MODULE][name], atol=0.01)


def test_the_exchange_is_restored(ray_session: None, sample: Callable[[], list[Any]]) -> None:
    settings = {"communication": "lag", "aggregation": "median", "compression": "float16"}
    algorithm, other = (tiny_a3c(**settings).build_algo() for _ in range(2))
    algorithm.train()
    other.set_state(algorithm.get_state())
    np.testing.assert_equal(as_arrays(other.exchange.state_dict()), as_arrays(algorithm.exchange.state_dict()))
    for one in (algorithm, other):
        message = one.learner.take_gradient(sample(), seq_no=one.learner.weights_seq_no, timesteps={})
        one.receive(0, message, {}, {})
    assert_same_parameters(algorithm, other)
    algorithm.stop()
    other.stop()


@each_search
def test_tune_searches_over_aggregations(search: Search, ray_session: None, tmp_path: Path) -> None:
    config = tiny_a3c(aggregation=tune.grid_search(["mean", "r_weighted"]))
    results = search(A3C, config, tmp_path)
    assert [result["config"]["aggregation"] for result in results] == ["mean", "r_weighted"]
    assert [agg(result)["messages"] for result in results] == [10, 10]


class Pixels(gym.Env[Any, Any]):
    """Small images and a continuous action."""

    observation_space = gym.spaces.Box(-1, 1, (16, 16, 1), np.float32)
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, config: Any = None) -> None:
        self._t = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._t = 0
        return self._look(), {}

    def step(self, action: Any) -> Any:
        self._t += 1
        return self._look(), float(-np.square(action).sum()), self._t == 7, False, {}

    def _look(self) -> Any:
        return self.np_random.uniform(-1, 1, (16, 16, 1)).astype(np.float32)


def test_images_and_continuous_actions(ray_session: None) -> None:
    model = {"conv_filters": [[4, 4, 2], [8, 4, 2]], "head_fcnet_hiddens": [8], "vf_share_layers": True}
    algorithm = tiny_a3c().environment(Pixels).rl_module(model_config=model).build_algo()
    assert agg(algorithm.train())["messages"] == 5
    algorithm.stop()


class Broken(gym.Wrapper[Any, Any, Any, Any]):
    """CartPole that pays NaN on some runners."""

    def __init__(self, config: Any) -> None:
        super().__init__(gym.make("CartPole-v1"))
        self._broken = config.worker_index in config["broken"]

    def step(self, action: Any) -> Any:
        observation, reward, *rest = self.env.step(action)
        return observation, float("nan") if self._broken else reward, *rest


@pytest.mark.slow  # the next one shows it for a median
def test_runner_that_pays_nan_is_masked(ray_session: None) -> None:
    algorithm = tiny_a3c(2).environment(Broken, env_config={"broken": [2]}).build_algo()
    for _ in range(3):
        logged = agg(algorithm.train())
    assert logged["masked_gradients"] > 0
    assert logged["messages"] - logged["masked_gradients"] >= 15
    assert all(parameter.isfinite().all() for parameter in algorithm.learner.module[MODULE].parameters())
    algorithm.stop()


@pytest.mark.slow
def test_median_of_runners_with_a_faulty_one(ray_session: None, sample: Callable[[], list[Any]]) -> None:
    """The last gradient of each of the others is combined; that of the faulty one is masked."""
    algorithm = tiny_a3c(3, aggregation="median").environment(Broken, env_config={"broken": [2]}).build_algo()
    learner, steps = algorithm.learner, []
    learner.apply_step = lambda step, *_, **__: steps.append(step)
    message = learner.take_gradient(sample(), seq_no=0, timesteps={})
    rows = np.random.default_rng(0).normal(size=(4, message.vector().numel())).astype(np.float32)
    rows[1, 0] = np.nan
    ends = np.cumsum([gradient.size for gradient in message.gradients])[:-1]
    for agent, row in zip((0, 1, 2, 0), rows, strict=True):
        parts = zip(np.split(row, ends), message.gradients, strict=True)
        gradients = [part.reshape(gradient.shape) for part, gradient in parts]
        algorithm.receive(agent, dataclasses.replace(message, gradients=gradients), {}, {})
    expected = [rows[0], (rows[0] + rows[2]) / 2, (rows[3] + rows[2]) / 2]
    np.testing.assert_allclose(torch.stack(steps), expected, rtol=1e-6)
    del learner.apply_step
    for _ in range(2):
        logged = agg(algorithm.train())
    assert logged["masked_gradients"] > 0
    assert all(parameter.isfinite().all() for parameter in learner.module[MODULE].parameters())
    algorithm.stop()


@pytest.mark.slow
def test_nothing_but_nan_ends_the_iteration(ray_session: None, caplog: pytest.LogCaptureFixture) -> None:
    config = tiny_a3c(1).environment(Broken, env_config={"broken": [1]}).env_runners(sample_timeout_s=5.0)
    algorithm = config.build_algo()
    for _ in range(20):  # a busy machine takes longer than that for the first
        logged = agg(algorithm.train())
        if logged["messages"]:
            break
    assert logged["masked_gradients"] == logged["messages"] > 0
    assert "No gradient that could be applied arrived within sample_timeout_s=5.0 seconds" in caplog.text
    algorithm.stop()


def test_gradient_that_is_not_finite_is_masked(algorithm: A3C, sample: Callable[[], list[Any]]) -> None:
    learner = algorithm.learner
    counted = agg(algorithm.train())
    message = learner.take_gradient(sample(), seq_no=learner.weights_seq_no, timesteps={})
    message.gradients[0][0] = np.nan
    before = copy.deepcopy(learner.get_state())
    assert not algorithm.receive(0, message, {}, {})
    for part in ("rl_module", "optimizer"):
        np.testing.assert_equal(learner.get_state()[part], before[part])
    logged = agg(algorithm.train())
    assert logged["masked_gradients"] == counted["masked_gradients"] + 1
    assert logged["messages"] == counted["messages"] + 1 + 5
    assert logged["bytes"] == 4 * message.vector().numel() * logged["messages"]


def test_gradient_that_counts_nothing_is_not_masked(ray_session: None, sample: Callable[[], list[Any]]) -> None:
    algorithm = tiny_a3c(2, aggregation="reward_shares").build_algo()
    learner = algorithm.learner
    message = learner.take_gradient(sample(), seq_no=0, timesteps={})
    for agent, episode_return, updates in ((0, -200.0, 1), (1, -100.0, 2), (0, -200.0, 2)):
        # Shares are of returns above the least, so that the worst of both agents has none
        assert algorithm.receive(agent, dataclasses.replace(message, episode_return=episode_return), {}, {})
        assert learner.weights_seq_no == updates
    assert algorithm.exchange.ledger.messages_per_agent.tolist() == [2, 1]
    assert algorithm.metrics.peek(("learners", MODULE, "agg", "masked_gradients")) == 0
    algorithm.stop()


def factor(signals: RunningSignals, agent: int, rule: str) -> float:
    scheme = Scheme(rule=rule, schedule=OnArrival())
    return ArrivalExchange(scheme, signals.signals().num_agents).factor(agent, signals.signals())


def test_relative_weight_of_an_arriving_gradient() -> None:
    signals = RunningSignals(3)
    signals.observe(0, returns=10.0, losses=1.0, num_samples=20)
    assert factor(signals, 0, "r_weighted") == 1.0  # none to compare it with
    signals.observe(2, returns=30.0, losses=3.0, num_samples=20)
    weights = np.array([0 + 1 / 2, 1 + 1 / 2])
    assert factor(signals, 2, "r_weighted") == pytest.approx(2 * weights[1] / weights.sum())
    assert factor(signals, 0, "l_weighted") == pytest.approx(2 * (1 / 4 + 1 / 2) / 2)
    assert factor(signals, 2, "sum") == factor(signals, 2, "mean") == 1.0
    signals.observe(2, returns=float("nan"), losses=4.0, num_samples=20)
    assert signals.get_state()["returns"][2] == 30.0
    assert signals.get_state()["losses"][2] == pytest.approx(3.1)


@pytest.mark.parametrize("rule", ["mean", "sum", "samples", "r_weighted", "l_weighted"])
def test_factor_is_the_weight_times_the_number_of_agents_over_all_weights(rule: str) -> None:
    signals, generator = RunningSignals(4), np.random.default_rng(0)
    for agent in (0, 1, 3) * 5:
        returns, losses, num_samples = generator.uniform(-5, 50, 3)
        signals.observe(agent, returns=returns, losses=losses, num_samples=abs(num_samples))
    weights = Weighting(rule)(signals.signals())
    for agent in (0, 1, 3):
        assert factor(signals, agent, rule) == float(weights[agent] * 3) / float(weights.sum())
    assert factor(signals, 2, rule) == 0.0  # it has not reported yet


def test_without_a_timeout_there_is_no_deadline() -> None:
    check_timeout(None)
    assert deadline_of(None) == math.inf
    assert 0 < deadline_of(5.0) - time.monotonic() <= 5


@pytest.mark.parametrize("num_agents", [1, 3])
def test_signals_of_another_number_of_agents(num_agents: int) -> None:
    saved = RunningSignals(2)
    for agent in range(2):
        saved.observe(agent, returns=10.0 * agent, losses=1.0, num_samples=20)
    signals = RunningSignals(num_agents)
    signals.set_state(saved.get_state())
    np.testing.assert_array_equal(signals.get_state()["returns"], [0.0, 10.0, np.nan][:num_agents])
    signals.observe(num_agents - 1, returns=5.0, losses=1.0, num_samples=20)
    assert factor(signals, num_agents - 1, "r_weighted") > 0


def test_infinite_return_masks_an_agent_until_its_next_finite_one() -> None:
    signals = RunningSignals(2)
    signals.observe(0, returns=float("inf"), losses=1.0, num_samples=20)
    signals.observe(1, returns=5.0, losses=1.0, num_samples=20)
    assert factor(signals, 0, "mean") == 0.0
    assert factor(signals, 1, "mean") == 1.0
    signals.observe(0, returns=float("nan"), losses=1.0, num_samples=20)  # no episode ended
    assert factor(signals, 0, "mean") == 0.0
    signals.observe(0, returns=5.0, losses=1.0, num_samples=20)
    assert factor(signals, 0, "mean") == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.learners(num_learners=1), "set num_learners=0, not 1"),
        (lambda config: config.training(aggregation="median-ish"), "unknown aggregation 'median-ish'"),
        (lambda config: config.training(aggregation="fedavg"), "payload 'parameters' .aggregation='fedavg'. does not fit A3C"),
        (lambda config: config.training(aggregation="actor_sum"), "payload 'gradients_with_own' .* does not fit A3C"),
        (lambda config: config.training(payload="parameters"), "payload 'parameters' .* leave payload='gradients'"),
        (lambda config: config.training(interval=4), "interval=4 does not fit A3C: .* leave interval=1"),
        (lambda config: config.training(communication="espc"), "gate 'espc' decides about scores"),
        (
            lambda config: config.training(communication="random", communication_kwargs={"expected_messages": 1}),
            "gate 'random' draws among agents that exchange together",
        ),
        (
            lambda config: config.training(communication="gain"),
            "gate 'gain' reads gains, which this algorithm does not provide",
        ),
        (lambda config: config.training(communication_kwargs={"xi": 1.0}), "every has no setting 'xi'"),
        (lambda config: config.training(compression="float61"), "unknown compression 'float61'"),
        (
            lambda config: config.training(aggregation="krum", aggregation_kwargs={"num_byzantine": 1}),
            "krum with num_byzantine=1 needs more than 1 agents",
        ),
        (lambda config: config.training(gradients_per_iteration=0), "gradients_per_iteration must be an integer >= 1, got 0"),
        (
            lambda config: config.training(gradients_per_iteration="5"),
            "gradients_per_iteration must be an integer >= 1, got '5'",
        ),
        (lambda config: config.training(lambda_=7.0), "lambda_ must be a finite number >= 0 and <= 1, got 7.0"),
        (lambda config: config.training(gamma=2.0), "gamma must be a finite number >= 0 and <= 1, got 2.0"),
        (lambda config: config.training(lr=-0.5), "lr must be a finite number >= 0, got -0.5"),
        (lambda config: config.training(lr=[[0, 0.1], [9, -0.1]]), "lr must be a finite number >= 0, got -0.1"),
        (lambda config: config.training(grad_clip=-2.0), "grad_clip must be a finite number > 0, got -2.0"),
        (lambda config: config.training(vf_loss_coeff=-1), "vf_loss_coeff must be a finite number >= 0, got -1"),
        (lambda config: config.env_runners(sample_timeout_s=0), "sample_timeout_s must be a finite number > 0, got 0"),
        (lambda config: config.env_runners(batch_mode="complete_episodes"), "learns from fragments"),
        (lambda config: config.env_runners(num_gpus_per_env_runner=0.5), "set num_gpus_per_env_runner=0, not 0.5"),
        (lambda config: config.rl_module(model_config={"use_lstm": True}), "use_lstm is not supported"),
        (lambda config: config.update_from_dict({"gradient_per_iteration": 3}), "has no setting 'gradient_per_iteration'"),
    ],
)
def test_bad_settings(change: Callable[[A3CConfig], Any], message: str) -> None:
    config = tiny_a3c()
    with pytest.raises(ValueError, match=message):
        change(config).validate()


@pytest.mark.parametrize("name", ["num_epochs", "minibatch_size", "train_batch_size_per_learner", "shuffle_batch_per_epoch"])
def test_settings_that_have_no_effect_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"A3CConfig does not use {name}"):
        tiny_a3c().training(**{name: 3})
    with pytest.raises(ValueError, match=f"A3C does not use {name}; rollout_fragment_length says what a gradient is of"):
        tiny_a3c().update_from_dict({name: 3}).validate()


def test_a_recurrent_module_of_a_users_own_is_refused(ray_session: None) -> None:
    settings = {"lstm_cell_size": 8, "dense_layers": [8], "max_seq_len": 10}
    spec = RLModuleSpec(module_class=LSTMContainingRLModule, model_config=settings)
    config = tiny_a3c().env_runners(num_env_runners=0).rl_module(rl_module_spec=spec)
    with pytest.raises(ValueError, match="A3C takes MLP and CNN modules; LSTMContainingRLModule is recurrent"):
        config.build_algo()


class NothingSampled(RLlibCallback):
    def on_sample_end(self, *, samples: list[Any], **kwargs: Any) -> None:
        samples.clear()


def test_a_fragment_without_episodes_has_no_gradient(ray_session: None) -> None:
    algorithm = tiny_a3c().callbacks(NothingSampled).build_algo()
    assert agg(algorithm.train())["masked_gradients"] == 5
    algorithm.stop()
