"""What existing scripts do around the one line that changes: it works as under the stock class, or one line says why not."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from rl_agg import Combiner, Signals
from sb3_agg import AggA2C, AggDQN, AggPPO
from tests.sb3.flattened import parameters
from tests.sb3.local_runs import copies
from tests.sb3.worlds import Walk, cartpoles

SETTINGS: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu"}
AGENTS = 4
ROLLOUT = AGENTS * 16
FORMS = pytest.mark.parametrize("closed_form", [True, False])


def agents(aggregation: Any = "mean", env: Any = None, **settings: Any) -> AggPPO:
    policy = settings.pop("policy", "MlpPolicy")
    return AggPPO(policy, cartpoles(AGENTS) if env is None else env, aggregation=aggregation, **{**SETTINGS, **settings})


# Vectorised environments ------------------------------------------------------------------------------------------------


class Adapter(DummyVecEnv):
    """Of a simulator that knows nothing of wrappers; what it says of them is up to the subclass."""

    answer: Any = None

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    "answer",
    [NotImplementedError(), AttributeError("envs"), RuntimeError("no wrappers"), None, False, [], [False] * 4],
    ids=str,
)
def test_a_vectorised_environment_that_cannot_tell_its_wrappers_has_no_monitor(answer: Any) -> None:
    env = type("Own", (Adapter,), {"answer": answer})([Walk] * 4)
    with pytest.warns(UserWarning, match="wrap the environments in Monitor"):
        model = AggPPO("MlpPolicy", env, aggregation="r_weighted", **SETTINGS).learn(128)
    np.testing.assert_allclose(model.agent_weights, 0.5)
    longer = AggPPO("MlpPolicy", env, aggregation="l_weighted", min_episodes=5, **SETTINGS).learn(100)
    assert longer.rollout_buffer.buffer_size == 25


class ReturnsAs(DummyVecEnv):
    """Reports each episode's return as a type of its own."""

    type: Any

    def step_wait(self) -> Any:
        *others, infos = super().step_wait()
        for info in infos:
            if "episode" in info:
                info["episode"]["r"] = self.type(info["episode"]["r"])
        return *others, infos


@pytest.mark.parametrize("type_", [np.atleast_1d, np.float32, torch.tensor, int], ids=["array", "float32", "tensor", "int"])
def test_a_return_may_be_any_one_number(type_: Any) -> None:
    walk = [lambda reward=reward: Monitor(Walk(reward=reward)) for reward in (1.0, 2.0)]
    env = type("Own", (ReturnsAs,), {"type": staticmethod(type_)})(walk)
    np.testing.assert_array_equal(agents("r_weighted", env).learn(ROLLOUT).agent_returns, [5.0, 10.0])
    own = {"learning_starts": 8, "batch_size": 16, "buffer_size": 400, "device": "cpu"}
    np.testing.assert_array_equal(AggDQN("MlpPolicy", env, **own).learn(64).agent_returns, [5.0, 10.0])


@pytest.mark.parametrize("kind", [AggPPO, AggA2C])
@pytest.mark.parametrize("env", ["CartPole-v1", "one of many"])
def test_one_environment_is_told_of_once(env: Any, kind: Any) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = kind("MlpPolicy", env if "-" in env else cartpoles(1), aggregation="r_weighted", n_steps=32, device="cpu")
        for _ in range(2):
            model.learn(64)
    (message,) = [str(warning.message) for warning in caught if "one agent" in str(warning.message)]
    assert "aggregation has no effect" in message
    assert "make_vec_env(..., n_envs=8)" in message


def test_a_file_acts_in_one_environment_without_a_warning(tmp_path: Any) -> None:
    AggPPO("MlpPolicy", cartpoles(4), **SETTINGS).learn(64).save(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = AggPPO.load(tmp_path / "model", env=cartpoles(1))
        model.predict(model.env.reset())
    with pytest.warns(UserWarning, match="one agent"):
        model.learn(16)


# A policy that something else writes to ---------------------------------------------------------------------------------


class AtRolloutEnd(BaseCallback):
    def __init__(self, act: Callable[[Any], object]) -> None:
        super().__init__()
        self.act = act

    def _on_step(self) -> bool:
        return True

    @torch.no_grad()
    def _on_rollout_end(self) -> None:
        self.act(self.model)


def nudge(model: Any) -> None:
    model.policy.value_net.bias.add_(1e-4)


def decay(model: Any) -> None:
    for parameter in model.policy.parameters():
        parameter.mul_(0.999)


def load(model: Any) -> None:
    state = {name: value + 0.01 for name, value in model.policy.state_dict().items()}
    model.policy.load_state_dict(state)


@FORMS
@pytest.mark.parametrize("write", [nudge, decay, load])
@pytest.mark.parametrize("interval", [1, 4])
def test_agents_keep_what_they_have_when_a_callback_writes_to_the_policy(
    write: Callable[[Any], None], interval: int, closed_form: bool
) -> None:
    model = agents("fedavg", interval=interval, closed_form=closed_form)
    model.learn(5 * ROLLOUT, callback=AtRolloutEnd(write))
    assert model.ledger.messages == (5 // interval) * AGENTS
    steps = {float(state["step"]) for state in model._local_models.optimizer.state_dict()["state"]}
    assert steps == {5 * 2 * 4}  # updates, epochs, minibatches: no moments were forgotten
    assert len({tuple(copy.tolist()) for copy in copies(model)}) == (1 if interval == 1 else AGENTS)


@pytest.mark.parametrize("settings", [{"interval": 4}, {"aggregation_kwargs": {"mu": 0.1}, "interval": 4}], ids=str)
def test_what_is_written_to_the_policy_is_done_to_every_agent(settings: dict[str, Any]) -> None:
    model = agents("fedprox" if "aggregation_kwargs" in settings else "fedavg", **settings).learn(ROLLOUT)
    before, merged = copies(model).clone(), model._local_models.last_merge.clone()
    change = torch.randn(before.shape[1])
    flat = parameters(model) + change
    torch.nn.utils.vector_to_parameters(flat, model.policy.parameters())
    model._follow_policy()
    torch.testing.assert_close(copies(model), before + change)
    torch.testing.assert_close(model._local_models.last_merge, merged + change)
    assert torch.equal(parameters(model), flat)


def test_a_policy_recovers_from_numbers_that_were_not_finite() -> None:
    model = agents("fedavg", interval=4).learn(ROLLOUT)
    good = copy.deepcopy(model.policy.state_dict())
    with torch.no_grad():
        model.policy.action_net.weight.fill_(torch.nan)
    model._follow_policy()
    model.policy.load_state_dict(good)
    model._follow_policy()
    assert torch.isfinite(copies(model)).all()
    model.learn(ROLLOUT, reset_num_timesteps=False)


# Optimisers -------------------------------------------------------------------------------------------------------------

SWAPPED: list[Callable[[Any], torch.optim.Optimizer]] = [
    lambda parameters: torch.optim.RMSprop(parameters, lr=1e-3),
    lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9),
    lambda parameters: torch.optim.Adam(parameters, lr=1e-3, weight_decay=0.1),
]


@FORMS
@pytest.mark.parametrize("make", [SWAPPED[0], *(pytest.param(make, marks=pytest.mark.slow) for make in SWAPPED[1:])])
@pytest.mark.parametrize(
    "aggregation", ["mean", "fedavg", *(pytest.param(name, marks=pytest.mark.slow) for name in ("median", "actor_mean"))]
)
def test_an_optimiser_given_after_construction_steps(aggregation: str, make: Any, closed_form: bool) -> None:
    def swapped(at: int) -> torch.Tensor:
        """After three rollouts, the optimiser exchanged before one of them."""
        model = agents(aggregation, closed_form=closed_form, learning_rate=1e-3)
        for rollout in range(3):
            if rollout == at:
                model.policy.optimizer = make(model.policy.parameters())
            model.learn(ROLLOUT, reset_num_timesteps=False)
        return parameters(model)

    own = make([nn.Parameter(torch.zeros(1))])
    settings = {name: own.defaults[name] for name in ("momentum", "weight_decay") if name in own.defaults}
    policy_kwargs = {"optimizer_class": type(own), "optimizer_kwargs": settings}
    model = agents(aggregation, closed_form=closed_form, learning_rate=1e-3, policy_kwargs=policy_kwargs)
    for _ in range(3):
        model.learn(ROLLOUT, reset_num_timesteps=False)
    torch.testing.assert_close(swapped(0), parameters(model), rtol=1e-4, atol=1e-6)
    assert not torch.equal(swapped(1), swapped(3))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda policy: torch.optim.Adafactor(policy.parameters()), "optimizer_class Adafactor cannot step for several"),
        (lambda policy: torch.optim.SGD(policy.action_net.parameters(), lr=0.1), "the policy's lacks mlp_extractor"),
        (lambda policy: Plain(policy.parameters(), 0.1), "optimizer_class Plain cannot step for several agents"),
    ],
)
def test_an_optimiser_that_cannot_step_for_agents_is_refused_where_it_is_given(make: Any, words: str) -> None:
    model = agents("fedavg").learn(ROLLOUT)
    model.policy.optimizer = make(model.policy)
    with pytest.raises(ValueError, match=words):
        model.learn(ROLLOUT)


class Plain:
    """Gradient descent by an object that is no optimiser of torch's."""

    def __init__(self, parameters: Any, lr: float) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": list(parameters), "lr": lr}]
        self.num_steps = 0

    def zero_grad(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        self.num_steps += 1
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is not None:
                parameter -= self.param_groups[0]["lr"] * parameter.grad

    def state_dict(self) -> dict[str, Any]:
        return {"num_steps": self.num_steps}

    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> None:  # SB3 takes it for a module
        self.num_steps = state["num_steps"]


class Around(Plain):
    """Steps another one."""

    def __init__(self, parameters: Any, lr: float) -> None:
        self.inner = torch.optim.Adam(parameters, lr=lr)
        self.param_groups, self.num_steps = self.inner.param_groups, 0

    def step(self) -> None:
        self.num_steps += 1
        self.inner.step()


@FORMS
@pytest.mark.parametrize("kind", [Plain, Around])
def test_an_optimiser_that_is_none_of_torchs_steps_as_under_stock(kind: Any, closed_form: bool, tmp_path: Path) -> None:
    policy_kwargs = {"optimizer_class": kind}
    stock = {"minibatches": "stock", "advantage_norm": "stock", "closed_form": closed_form}
    expected = PPO("MlpPolicy", cartpoles(AGENTS), policy_kwargs=policy_kwargs, **SETTINGS).learn(2 * ROLLOUT)
    found = agents(policy_kwargs=policy_kwargs, **stock).learn(2 * ROLLOUT)
    assert torch.equal(parameters(found), parameters(expected))
    assert found.policy.optimizer.num_steps == expected.policy.optimizer.num_steps == 16
    assert "step" not in vars(found.policy.optimizer)
    found.save(tmp_path / "model")
    assert AggPPO.load(tmp_path / "model").policy.optimizer.num_steps == 16


@pytest.mark.parametrize(
    "settings",
    [{"aggregation": "median"}, {"communication": "lag"}, {"interval": 3}, {"compression": "float16"}],
    ids=str,
)
def test_an_optimiser_that_is_none_of_torchs_steps_with_every_exchange(settings: dict[str, Any]) -> None:
    own, torchs = (
        parameters(agents(policy_kwargs={"optimizer_class": kind}, **settings).learn(2 * ROLLOUT))
        for kind in (Plain, torch.optim.SGD)
    )
    torch.testing.assert_close(own, torchs, rtol=1e-4, atol=1e-6)


# Files ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("aggregation", ["mean", "median", "fedavg"])
@pytest.mark.parametrize(
    "state", [{}, {"state": {}}, {"param_groups": []}, {"state": {}, "param_groups": [{}]}, None, 3], ids=str
)
def test_an_incomplete_state_of_the_optimiser_ends_in_sb3s_own_error(state: Any, aggregation: str) -> None:
    def error(model: Any) -> tuple[type, str]:
        given = {**model.get_parameters(), "policy.optimizer": state}
        try:
            model.set_parameters(given)
        except Exception as caught:
            return type(caught), str(caught)
        raise AssertionError("the state was accepted")

    assert error(agents(aggregation)) == error(PPO("MlpPolicy", cartpoles(AGENTS), **SETTINGS))


@pytest.mark.parametrize("aggregation", ["mean", "median", "fedavg"])
def test_other_parameters_than_the_policys_end_in_sb3s_own_error(aggregation: str) -> None:
    model = agents(aggregation)
    known = model.get_parameters()
    with pytest.raises(ValueError, match="not match"):
        model.set_parameters({"policy": known["policy"]})
    with pytest.raises(ValueError, match="invalid"):
        model.set_parameters({**known, "invalid": {}})
    model.set_parameters({"policy": known["policy"]}, exact_match=False)


@FORMS
@pytest.mark.parametrize("settings", [{}, {"aggregation": "fedavg", "interval": 2}, {"aggregation": "median"}], ids=str)
def test_a_model_continues_from_a_pickle(settings: dict[str, Any], closed_form: bool) -> None:
    """As multiprocessing, joblib and Ray pass it to another process."""
    first = agents(closed_form=closed_form, **settings).learn(ROLLOUT)
    first.env = None
    found = []
    for model in (first, pickle.loads(pickle.dumps(first))):
        model.set_env(cartpoles(AGENTS, seed=5))
        set_random_seed(0)
        model.learn(ROLLOUT, reset_num_timesteps=False)
        found.append((parameters(model), model.ledger.messages))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1] > 0


@pytest.mark.parametrize("settings", [{}, {"aggregation": "median", "compression": "top_k"}], ids=str)
def test_an_off_policy_model_continues_from_a_pickle(settings: dict[str, Any]) -> None:
    own = {"learning_starts": 8, "batch_size": 16, "buffer_size": 400, "seed": 0, "device": "cpu"}
    first = AggDQN("MlpPolicy", cartpoles(AGENTS), **own, **settings).learn(64)
    first.env = None
    found = []
    for model in (first, pickle.loads(pickle.dumps(first))):
        model.set_env(cartpoles(AGENTS, seed=5))
        set_random_seed(0)
        model.learn(64, reset_num_timesteps=False)
        found.append((parameters(model), model.ledger.messages))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1] > 0


def test_settings_of_a_file_that_do_not_fit_what_load_is_given_are_named(tmp_path: Path) -> None:
    agents("r_weighted", aggregation_kwargs={"h": 3}).save(tmp_path / "model")
    with pytest.raises(
        ValueError, match=r"median has no setting 'h'.* \(load\(\) was given no aggregation_kwargs, so those of"
    ):
        AggPPO.load(tmp_path / "model", env=cartpoles(AGENTS), aggregation="median")
    AggPPO.load(tmp_path / "model", env=cartpoles(AGENTS), aggregation="median", aggregation_kwargs={}).learn(ROLLOUT)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model, "aggregation", "median"),
        lambda model: setattr(model, "interval", 2),
        lambda model: setattr(model, "communication", "lag"),
        lambda model: setattr(model, "fused_optimizer", False),
        lambda model: setattr(model, "budget_bytes_per_update", 1e5),
        lambda model: model.aggregation_kwargs.update(h=2),
    ],
)
def test_a_setting_that_is_changed_after_the_model_is_built_is_refused(change: Callable[[Any], Any]) -> None:
    model = agents("r_weighted", aggregation_kwargs={"h": 3}).learn(ROLLOUT)
    change(model)
    with pytest.raises(ValueError, match=r"was set after the model had been built with .*, and has no effect; save\(\)"):
        model.learn(ROLLOUT)


@pytest.mark.parametrize("rewritten", [np.array([1.0, 2.0, 3.0, 4.0]), [1.0, 2.0, 3.0, 4.0]])
def test_equal_settings_may_be_set_again_and_others_not(rewritten: Any) -> None:
    def by_table(signals: Any, *, table: Any) -> Any:
        return torch.as_tensor(table, dtype=torch.float64)

    model = agents(by_table, aggregation_kwargs={"table": np.array([1.0, 2.0, 3.0, 4.0])}).learn(ROLLOUT)
    model.aggregation_kwargs = {"table": rewritten}
    model.learn(ROLLOUT)
    model.aggregation_kwargs = {"table": rewritten[::-1]}
    with pytest.raises(ValueError, match=r"aggregation_kwargs=.* was set after the model had been built with"):
        model.learn(ROLLOUT)


@pytest.mark.parametrize(
    ("aggregation", "name", "value", "message"),
    [
        ("mean", "advantage_norm", "batch", "unknown advantage_norm 'batch'"),
        ("mean", "min_episodes", -1, "min_episodes must be an integer >= 0, got -1"),
        ("fedavg", "minibatches", "stock", "work with minibatches='stratified' only, got 'stock'"),
    ],
)
def test_a_value_that_is_set_after_the_model_is_built_is_checked(
    aggregation: str, name: str, value: Any, message: str
) -> None:
    model = agents(aggregation)
    setattr(model, name, value)
    with pytest.raises(ValueError, match=message):
        model.learn(ROLLOUT)


@pytest.mark.parametrize("aggregation", ["mean", "median"])
@pytest.mark.parametrize("closed_form", [True, False])
def test_an_agent_that_a_gate_lets_not_send_is_not_masked(aggregation: str, closed_form: bool) -> None:
    gate = {"communication": "random", "communication_kwargs": {"expected_messages": 2}}
    model = agents(aggregation, closed_form=closed_form, **gate).learn(2 * ROLLOUT)
    assert 0 < model.ledger.messages < model._n_updates * AGENTS * ROLLOUT
    assert model.logger.name_to_value["agg/masked_agents"] == 0


def test_a_setting_that_is_changed_after_an_off_policy_model_is_built_is_refused() -> None:
    model = AggDQN("MlpPolicy", cartpoles(AGENTS), batch_size=16, buffer_size=400, device="cpu")
    model.compression = "sign"
    with pytest.raises(ValueError, match="compression='sign' was set after the model had been built with 'identity'"):
        model.learn(64)


# Compiled policies ------------------------------------------------------------------------------------------------------


def compile_whole(model: Any) -> None:
    model.policy = torch.compile(model.policy, backend="eager")


def compile_a_part(model: Any) -> None:
    model.policy.mlp_extractor = torch.compile(model.policy.mlp_extractor, backend="eager")


@pytest.mark.parametrize(
    ("settings", "compiled"),
    [
        ({}, compile_whole),
        ({"aggregation": "median"}, compile_whole),
        ({"aggregation": "fedavg", "interval": 2}, compile_a_part),
        pytest.param({"aggregation": "actor_mean"}, compile_whole, marks=pytest.mark.slow),
        pytest.param({"aggregation": "fedavg", "interval": 2}, compile_whole, marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore:OptimizedModule is recurrent")
def test_a_compiled_policy_learns_what_it_would_uncompiled(settings: dict[str, Any], compiled: Callable[[Any], None]) -> None:
    def learned(prepare: Callable[[Any], object]) -> torch.Tensor:
        model = agents(closed_form=False, n_epochs=1, n_steps=8, **settings)
        prepare(model)
        return parameters(model.learn(2 * AGENTS * 8))

    torch.testing.assert_close(learned(compiled), learned(lambda _: None))


def test_another_policy_is_where_agents_start() -> None:
    model, other = agents("fedavg", interval=4), agents("fedavg", seed=5)
    model.policy = other.policy
    model.learn(ROLLOUT)
    assert (copies(model) - parameters(agents(seed=5))).abs().max() < 0.1
    model.policy = agents().policy
    with pytest.raises(ValueError, match="replaced by others while agents have some of their own"):
        model.learn(ROLLOUT)


def test_a_layer_that_is_replaced_is_trained_or_missed_by_the_optimiser() -> None:
    model = agents("fedavg")
    model.policy.action_net = nn.Linear(64, 2)
    with pytest.raises(ValueError, match=r"the policy's lacks action_net\.weight"):
        model.learn(ROLLOUT)
    model.policy.optimizer = torch.optim.Adam(model.policy.parameters(), lr=0.01)
    before = model.policy.action_net.weight.clone()
    model.learn(ROLLOUT)
    assert not torch.equal(model.policy.action_net.weight, before)


# Rules and combiners of one's own ---------------------------------------------------------------------------------------


def shares(signals: Signals) -> np.ndarray:
    assert signals.returns is not None
    return np.arange(1.0, 1.0 + len(signals.returns)) / 10


RESULTS: list[Callable[[Signals], Any]] = [
    shares,
    lambda signals: shares(signals).astype(np.float32),
    lambda signals: shares(signals).tolist(),
    lambda signals: tuple(shares(signals)),
    lambda signals: torch.as_tensor(shares(signals)),
]


@FORMS
@pytest.mark.parametrize("payload", ["gradients", "parameters"])
@pytest.mark.parametrize("rule", RESULTS)
def test_a_rule_returns_an_array_a_list_or_a_tensor(rule: Any, payload: str, closed_form: bool) -> None:
    model = agents(rule, payload=payload, closed_form=closed_form).learn(ROLLOUT)
    np.testing.assert_allclose(model.agent_weights, [0.1, 0.2, 0.3, 0.4], rtol=1e-6)


class Trained(torch.nn.Module):
    """Weights of a module that is trained elsewhere, which counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(AGENTS))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, signals: Signals) -> torch.Tensor:
        self.calls += 1
        return self.logits.softmax(0)


@FORMS
def test_a_rule_with_state_is_used_itself_and_is_in_the_file(closed_form: bool, tmp_path: Path) -> None:
    rule = Trained()
    model = agents(rule, closed_form=closed_form)
    rule.logits.data[0] = 2.0
    model.learn(ROLLOUT)
    np.testing.assert_allclose(model.agent_weights, rule.logits.detach().softmax(0), rtol=1e-6)
    model.save(tmp_path / "model")
    rule.logits.data.zero_()
    loaded = AggPPO.load(tmp_path / "model", env=cartpoles(AGENTS))
    assert loaded.aggregation.logits.tolist() == [2.0, 0.0, 0.0, 0.0]
    assert int(loaded.aggregation.calls) == int(rule.calls)
    assert loaded.exchange.state_dict()["rule"]["calls"] == int(rule.calls)
    loaded.learn(ROLLOUT)
    assert int(loaded.aggregation.calls) > int(rule.calls) > 1


class Momentum(Combiner):
    """The running mean of the mean gradient."""

    def __init__(self) -> None:
        self.calls, self.mean = 0, torch.zeros(())

    def merge(self, gradients: torch.Tensor, *, num_masked: int, step: int) -> torch.Tensor:
        self.calls += 1
        self.mean = 0.9 * self.mean + 0.1 * gradients.mean(0)
        return self.mean

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls, "mean": self.mean}

    def load_state_dict(self, state: Any) -> None:
        self.calls, self.mean = state["calls"], state["mean"]


@FORMS
def test_what_a_combiner_remembers_is_in_the_file(closed_form: bool, tmp_path: Path) -> None:
    model = agents(Momentum(), closed_form=closed_form).learn(ROLLOUT)
    model.save(tmp_path / "model")
    loaded = AggPPO.load(tmp_path / "model", env=cartpoles(AGENTS))
    assert loaded.exchange.state_dict()["rule"]["calls"] == 8
    assert torch.equal(loaded.exchange.state_dict()["rule"]["mean"], model.exchange.state_dict()["rule"]["mean"])
