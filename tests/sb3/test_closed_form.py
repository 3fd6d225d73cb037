"""Updates and rollouts in closed form, compared with the same ones by torch's graph."""

from __future__ import annotations

import copy
import pickle
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HumanOutputFormat, KVWriter, Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from torch import nn

from sb3_agg import AggA2C, AggMaskablePPO, AggPPO, AggRecurrentPPO, AggregationMixin
from sb3_agg.closed_form.objectives import PPOObjective
from tests.sb3.matrix_runs import gradient

AGENTS, STEPS = 4, 16
ROLLOUT = AGENTS * STEPS


class Noise(gym.Env[Any, Any]):
    """Observations of noise, rewards for some actions, and a time limit that cuts episodes off."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.clock = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        self.clock += 1
        reward = float(np.sum(action)) + self.np_random.normal()
        return self.observation_space.sample(), reward, False, self.clock == 7, {}

    def action_masks(self) -> Any:
        sizes = {
            spaces.Discrete: lambda s: [s.n],
            spaces.MultiDiscrete: lambda s: s.nvec,
            spaces.MultiBinary: lambda s: [2] * s.n,
        }
        masks = [self.np_random.random(size) < 0.6 for size in sizes[type(self.action_space)](self.action_space)]  # type: ignore[operator]
        for mask in masks:
            mask[0] = True
        return np.concatenate(masks)


def noise(observations: spaces.Space[Any], actions: spaces.Space[Any]) -> VecEnv:
    env = DummyVecEnv([lambda: Monitor(Noise(observations, actions)) for _ in range(AGENTS)])
    env.seed(3)
    return env


OBSERVATIONS = {
    "vector": spaces.Box(-1, 1, (3,)),
    "matrix": spaces.Box(-1, 1, (2, 2)),
    "image": spaces.Box(0, 255, (36, 36, 1), np.uint8),
    "number": spaces.Discrete(5),
    "numbers": spaces.MultiDiscrete([2, 3]),
    "bits": spaces.MultiBinary(4),
}
ACTIONS = {
    "choice": spaces.Discrete(3),
    "choices": spaces.MultiDiscrete([2, 4, 2]),
    "even choices": spaces.MultiDiscrete([3, 3]),
    "bits": spaces.MultiBinary(2),
    "box": spaces.Box(-1, 1, (2,)),
    "one": spaces.Box(-1, 1, (1,)),
}
RULES: dict[str, dict[str, Any]] = {
    "mean": {},
    "sum": {},
    "r_weighted": {"min_episodes": 1},
    "l_weighted": {},
    "literal": {"aggregation": "l_weighted", "aggregation_kwargs": {"mixed_sign": "literal"}},
    "median": {},
    "krum": {"aggregation_kwargs": {"num_byzantine": 0}},
    "lag": {"aggregation": "mean", "communication": "lag"},
    "float16": {"aggregation": "r_weighted", "compression": "float16"},
    "interval": {"aggregation": "mean", "interval": 2},
    "attack": {"aggregation": "trimmed_mean", "attack": {"kind": "sign_flip", "agents": [1]}},
    "fedavg": {"aggregation_kwargs": {}},
    "fedprox": {"aggregation_kwargs": {"mu": 0.3}},
    "actor_sum": {},
    "rs_pps": {"interval": 2},
}


class Numbers(KVWriter):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        self.rows.append({key: value for key, value in key_values.items() if not key.startswith("time/")})

    def close(self) -> None:
        pass


def build(kind: Any, env: VecEnv, rule: str = "mean", *, closed_form: bool, **own: Any) -> Any:
    scheme = {"aggregation": rule, **RULES.get(rule, {})}
    if kind is not AggA2C:
        own = {"batch_size": 16, "n_epochs": 2, **own}
    own = {"n_steps": STEPS, **scheme, **own}
    torch.manual_seed(0)
    model = kind("MlpPolicy", env, seed=1, device="cpu", closed_form=closed_form, **own)
    model.set_logger(Logger(None, [Numbers()]))
    return model


def learned(model: Any, updates: int, **own: Any) -> Any:
    """After some updates, by the same draws for every model."""
    model.set_random_seed(1)
    return model.learn(updates * ROLLOUT, log_interval=1, **own)


def numbers(model: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = model.logger.output_formats[0].rows
    return rows


def assert_same_run(found: Any, expected: Any, tolerance: float = 1e-4) -> None:
    assert found.why_no_closed_form is None
    assert expected.why_no_closed_form is not None
    for one, other in zip(found.policy.parameters(), expected.policy.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
    assert len(numbers(found)) == len(numbers(expected)) > 0
    for row, (one, other) in enumerate(zip(numbers(found), numbers(expected), strict=True)):
        assert one.keys() == other.keys()
        for key, value in other.items():  # SB3 logs the first update in the second row; later ones begin a little apart
            np.testing.assert_allclose(one[key], value, rtol=1e-5 if row < 2 else 1e-3, atol=1e-5, err_msg=key)
    assert found.ledger.state_dict()["messages"] == expected.ledger.state_dict()["messages"]
    assert found.ledger.bytes == expected.ledger.bytes


policies = st.fixed_dictionaries(
    {
        "net_arch": st.one_of(
            st.just({"pi": [4, 4], "vf": [4, 4]}),
            st.fixed_dictionaries({key: st.lists(st.integers(1, 5), max_size=3) for key in ("pi", "vf")}),
        ),
        "activation_fn": st.sampled_from([nn.Tanh, nn.ReLU, nn.SiLU, nn.ELU, nn.Identity]),
        "ortho_init": st.booleans(),
        "share_features_extractor": st.booleans(),
    }
)


@given(
    policies,
    st.sampled_from(sorted(OBSERVATIONS)),
    st.sampled_from(sorted(ACTIONS)),
    st.sampled_from(sorted(RULES)),
    st.sampled_from([AggPPO, AggMaskablePPO, AggA2C]),
    st.fixed_dictionaries(
        {
            "ent_coef": st.sampled_from([0.0, 0.01]),
            "vf_coef": st.sampled_from([0.5, 1.3]),
            "advantage_norm": st.sampled_from(["agent", "stock"]),
            "normalize_advantage": st.booleans(),
            "minibatches": st.sampled_from(["stratified", "stock"]),
            "max_grad_norm": st.sampled_from([0.05, 100.0]),
        }
    ),
    st.sampled_from([None, 0.1]),
    st.sampled_from([32, 18]),
)
@settings(max_examples=30, deadline=None)
def test_gradients_are_those_of_the_graph(
    policy: dict[str, Any],
    observed: str,
    acted: str,
    rule: str,
    kind: Any,
    own: dict[str, Any],
    clip_vf: float | None,
    batch_size: int,
) -> None:
    """With one plain gradient step for each minibatch, parameters move by the gradients."""
    if kind is AggMaskablePPO and acted in ("box", "one"):
        acted = "choice"
    if rule in ("fedavg", "fedprox", "actor_sum", "rs_pps"):
        own = {**own, "minibatches": "stratified"}
    policy = {**policy, "optimizer_class": torch.optim.SGD}
    if kind is AggA2C:
        own = {**own, "use_rms_prop": False}
    else:
        if own["minibatches"] == "stock":
            batch_size = 32  # few samples leave an agent idle, and of three agents two are Krum's choice alike
        own = {**own, "clip_range_vf": clip_vf, "clip_range": 0.05, "n_epochs": 1, "batch_size": batch_size}
    first, second = (
        build(
            kind,
            noise(OBSERVATIONS[observed], ACTIONS[acted]),
            rule,
            closed_form=closed_form,
            policy_kwargs=copy.deepcopy(policy),
            learning_rate=1e-2,
            **own,
        )
        for closed_form in (True, False)
    )
    before = torch.nn.utils.parameters_to_vector(first.policy.parameters()).clone()
    for model in (first, second):
        learned(model, 1)
    assert first.why_no_closed_form is None
    moved, expected = (torch.nn.utils.parameters_to_vector(model.policy.parameters()) - before for model in (first, second))
    assert (moved - expected).norm() <= 1e-5 * expected.norm() + 1e-7


@given(
    policies,
    st.sampled_from(sorted(OBSERVATIONS)),
    st.sampled_from(sorted(ACTIONS)),
    st.sampled_from(["mean", "sum", "r_weighted", "l_weighted", "literal", "median", "krum", "lag", "attack"]),
    st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_a_minibatchs_gradient_is_that_of_the_graph(
    policy: dict[str, Any], observed: str, acted: str, rule: str, stock: bool
) -> None:
    """To a millionth, with steps too small to change the policy."""
    own = {"ent_coef": 0.01, "learning_rate": 1e-12, "max_grad_norm": 100.0, "minibatches": "stock" if stock else "stratified"}
    kwargs = {**policy, "optimizer_class": torch.optim.SGD}
    found, expected = (
        gradient(
            learned(
                build(
                    AggPPO,
                    noise(OBSERVATIONS[observed], ACTIONS[acted]),
                    rule,
                    closed_form=closed_form,
                    policy_kwargs=copy.deepcopy(kwargs),
                    **{"batch_size": 32, **own},
                ),
                1,
            )
        )
        for closed_form in (True, False)
    )
    assert expected.norm() > 0
    assert (found - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize(
    ("rule", "acted"),
    [
        *[(rule, "choice") for rule in sorted(RULES)],
        *[("r_weighted", "box"), ("median", "box")],
        *[pytest.param(rule, "box", marks=pytest.mark.slow) for rule in sorted(RULES.keys() - {"r_weighted", "median"})],
    ],
)
def test_five_updates_are_the_same(rule: str, acted: str) -> None:
    own = {"target_kl": 0.2 if rule == "mean" else None, "clip_range_vf": 0.3 if rule == "mean" else None}
    first, second = (
        build(AggPPO, noise(OBSERVATIONS["vector"], ACTIONS[acted]), rule, closed_form=closed_form, **own)
        for closed_form in (True, False)
    )
    assert_same_run(learned(first, 5), learned(second, 5))


@pytest.mark.parametrize("kind", [AggA2C, AggMaskablePPO])
@pytest.mark.parametrize("rule", ["r_weighted", "median", "fedavg"])
def test_five_updates_of_other_algorithms(kind: Any, rule: str) -> None:
    first, second = (
        build(kind, noise(OBSERVATIONS["vector"], ACTIONS["choices"]), rule, closed_form=closed_form)
        for closed_form in (True, False)
    )
    assert_same_run(learned(first, 5), learned(second, 5))


OPTIMIZERS: dict[str, dict[str, Any]] = {
    "Adam, weight decay": {"optimizer_class": torch.optim.Adam, "optimizer_kwargs": {"weight_decay": 0.1}},
    "AdamW": {"optimizer_class": torch.optim.AdamW},
    "SGD, momentum": {"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {"momentum": 0.9}},
    "RMSpropTFLike": {"optimizer_class": RMSpropTFLike, "optimizer_kwargs": {"eps": 1e-5}},
}


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
@pytest.mark.parametrize("rule", ["r_weighted", "median", pytest.param("lag", marks=pytest.mark.slow)])
def test_optimisers(name: str, rule: str) -> None:
    first, second = (
        build(
            AggPPO,
            noise(OBSERVATIONS["vector"], ACTIONS["box"]),
            rule,
            closed_form=closed_form,
            policy_kwargs=copy.deepcopy(OPTIMIZERS[name]),
        )
        for closed_form in (True, False)
    )
    assert_same_run(learned(first, 5), learned(second, 5))
    for one, other in zip(first.policy.parameters(), second.policy.parameters(), strict=True):
        saved, expected = first.policy.optimizer.state[one], second.policy.optimizer.state[other]
        assert saved.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(saved[key], value, rtol=1e-3, atol=1e-5)


class Meddling(BaseCallback):
    """Changes the learning rate, freezes a layer, and sets parameters, between updates."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        model: Any = self.model
        update = self.n_calls // STEPS
        if update == 2:
            model.lr_schedule = lambda _: 1e-3
        if update == 3:
            model.policy.mlp_extractor.policy_net[0].weight.requires_grad_(False)
        if update == 4:
            changed = {name: value * 0.9 for name, value in model.policy.state_dict().items()}
            model.set_parameters({**model.get_parameters(), "policy": changed})
        if update == 5:
            with torch.no_grad():
                model.policy.value_net.bias.data = model.policy.value_net.bias.data + 0.1


@pytest.mark.parametrize("rule", ["r_weighted", "median"])
def test_what_callbacks_change(rule: str) -> None:
    first, second = (
        build(AggPPO, noise(OBSERVATIONS["vector"], ACTIONS["box"]), rule, closed_form=closed_form)
        for closed_form in (True, False)
    )
    assert_same_run(learned(first, 6, callback=Meddling()), learned(second, 6, callback=Meddling()))


@pytest.mark.parametrize("rule", ["r_weighted", "median", "fedavg"])
def test_a_resumed_run_is_the_run(rule: str, tmp_path: Any) -> None:
    """Saved after two updates, restored, and trained on by the same draws; and by the graph as well."""
    env = noise(OBSERVATIONS["vector"], ACTIONS["box"])
    model = learned(build(AggPPO, env, rule, closed_form=True), 2)
    model.save(tmp_path / "model")
    again = AggPPO.load(tmp_path / "model", env, device="cpu")
    by_graph = AggPPO.load(tmp_path / "model", env, device="cpu", closed_form=False)
    outcomes = []
    for one in (model, again, by_graph):
        one.set_random_seed(7)
        one._last_obs = None
        one.learn(2 * ROLLOUT, reset_num_timesteps=False)
        outcomes.append(torch.nn.utils.parameters_to_vector(one.policy.parameters()).detach())
    assert by_graph.why_no_closed_form == "closed_form=False"
    assert torch.equal(outcomes[0], outcomes[1])
    torch.testing.assert_close(outcomes[2], outcomes[0], rtol=1e-4, atol=1e-4)
    PPO.load(tmp_path / "model", env, device="cpu").learn(ROLLOUT)  # a stock optimiser goes on with its moments


@pytest.mark.parametrize("rule", ["mean", "fedavg"])
def test_agents_act_in_closed_form_too(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(AggPPO, noise(OBSERVATIONS["vector"], ACTIONS["box"]), rule, closed_form=True)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a forward pass of the policy's own")

    for name in ("forward", "predict_values", "evaluate_actions"):
        monkeypatch.setattr(ActorCriticPolicy, name, refuse)
    learned(model, 3)
    assert model.why_no_closed_form is None


def test_same_seed_same_numbers() -> None:
    runs = [learned(build(AggPPO, noise(OBSERVATIONS["vector"], ACTIONS["choice"]), closed_form=True), 2) for _ in range(2)]
    for one, other in zip(*(run.policy.parameters() for run in runs), strict=True):
        assert torch.equal(one, other)


def test_agents_without_finite_data_are_masked() -> None:
    """An agent's NaN in the middle of training: the same agents are masked, and the others' steps are the same."""

    class Broken(Noise):
        broken = False

        def step(self, action: Any) -> Any:
            observation, reward, *rest = super().step(action)
            return observation, float("nan") if self.broken and self.clock == 5 else reward, *rest

    for rule in ("mean", "median", "fedavg"):
        runs = []
        for closed_form in (True, False):
            env = DummyVecEnv([lambda: Monitor(Broken(OBSERVATIONS["vector"], ACTIONS["choice"])) for _ in range(AGENTS)])
            env.seed(3)
            env.envs[1].unwrapped.broken = True  # type: ignore[attr-defined]
            with pytest.warns(UserWarning, match="agent 1 had a NaN"):
                runs.append(learned(build(AggPPO, env, rule, closed_form=closed_form), 2))
        assert_same_run(*runs)
        assert numbers(runs[0])[-1]["agg/masked_agents"] == 1


def test_a_gradient_that_is_not_finite_masks_its_agent() -> None:
    """Its samples overflow in the loss, while all it has seen is finite."""
    runs = []
    for closed_form in (True, False):
        model = build(AggPPO, noise(OBSERVATIONS["vector"], ACTIONS["choice"]), closed_form=closed_form)
        collect = model.collect_rollouts

        def spoilt(*args: Any, collect: Any = collect, model: Any = model, **kwargs: Any) -> bool:
            collected: bool = collect(*args, **kwargs)
            model.rollout_buffer.log_probs[:, 2] = -200.0  # a ratio of e^200
            return collected

        model.collect_rollouts = spoilt
        runs.append(learned(model, 2))
    assert_same_run(*runs)
    assert numbers(runs[0])[-1]["agg/masked_agents"] == 1


# What goes wrong, or is replaced --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, RMSpropTFLike])
def test_training_continues_after_a_rollout_that_nobody_could_learn_from(optimizer: Any) -> None:
    runs = []
    for closed_form in (True, False):
        env = noise(OBSERVATIONS["vector"], ACTIONS["choice"])
        kwargs = {"optimizer_class": optimizer}
        model = build(AggPPO, env, closed_form=closed_form, fused_optimizer=False, policy_kwargs=kwargs)
        compute = model.rollout_buffer.compute_returns_and_advantage

        def spoilt(*args: Any, compute: Any = compute, model: Any = model, **kwargs: Any) -> None:
            compute(*args, **kwargs)
            if model.num_timesteps == ROLLOUT:  # all numbers are finite, but no gradient is
                model.rollout_buffer.log_probs[:] = -200.0

        model.rollout_buffer.compute_returns_and_advantage = spoilt
        runs.append(learned(model, 3))
    first, second = (torch.nn.utils.parameters_to_vector(run.policy.parameters()) for run in runs)
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)
    skipped = [[row["agg/skipped_updates"] for row in numbers(run) if "agg/skipped_updates" in row] for run in runs]
    assert skipped[0] == skipped[1]
    assert skipped[0][0] > 0 == skipped[0][-1]


def test_another_policy_in_its_place_is_trained() -> None:
    runs = []
    for closed_form in (True, False):
        model, other = (
            build(AggPPO, noise(OBSERVATIONS["vector"], ACTIONS["choice"]), closed_form=closed_form) for _ in range(2)
        )
        learned(model, 1)
        model.policy = learned(other, 2).policy
        runs.append(learned(model, 2))
    assert_same_run(*runs)


def test_a_frozen_parameter_whose_value_is_replaced() -> None:
    class Annealing(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            self.model.policy.log_std.data = torch.full((2,), -0.1 * self.n_calls / STEPS)  # type: ignore[attr-defined]

    runs = []
    for closed_form in (True, False):
        model = build(AggPPO, noise(OBSERVATIONS["vector"], ACTIONS["box"]), closed_form=closed_form)
        model.policy.log_std.requires_grad_(False)
        runs.append(learned(model, 4, callback=Annealing()))
    assert_same_run(*runs)


@pytest.mark.parametrize("rule", ["fedavg", "r_weighted"])
def test_a_layer_frozen_when_a_rollout_ends(rule: str) -> None:
    class Freezing(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            if self.n_calls == 2 * STEPS:
                self.model.policy.mlp_extractor.policy_net[0].weight.requires_grad_(False)  # type: ignore[attr-defined]

    runs = [
        learned(
            build(AggPPO, noise(OBSERVATIONS["vector"], ACTIONS["box"]), rule, closed_form=closed_form), 4, callback=Freezing()
        )
        for closed_form in (True, False)
    ]
    assert_same_run(*runs)


def test_networks_that_return_nan_raise_as_torchs_distributions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)  # torch.compile() switches it off for good
    for closed_form in (True, False):
        model = learned(build(AggPPO, noise(OBSERVATIONS["vector"], ACTIONS["box"]), closed_form=closed_form), 1)
        with torch.no_grad():
            model.policy.action_net.bias.fill_(float("nan"))
        with pytest.raises(ValueError, match=r"NaN|nan"):
            learned(model, 1)


@pytest.mark.parametrize("rule", ["mean", "fedavg"])
def test_a_policy_copied_within_a_rollout_is_a_policy_of_its_own(rule: str) -> None:
    class Copying(BaseCallback):
        copies: list[Any] = []  # noqa: RUF012 - of this one test

        def _on_step(self) -> bool:
            if self.n_calls == STEPS + 1 and rule == "mean":
                self.copies += [copy.deepcopy(self.model.policy), pickle.loads(pickle.dumps(self.model.policy))]
            return True

    callback = Copying()
    model = learned(build(AggPPO, noise(OBSERVATIONS["vector"], ACTIONS["box"]), rule, closed_form=True), 2, callback=callback)
    assert model.why_no_closed_form is None
    for policy in callback.copies:
        policy.load_state_dict(model.policy.state_dict())
        observations = torch.zeros(AGENTS, 3)
        torch.testing.assert_close(
            policy.forward(observations, deterministic=True), model.policy.forward(observations, deterministic=True)
        )


def test_an_interrupted_run_can_be_saved_and_continued(tmp_path: Any) -> None:
    model = build(AggPPO, noise(OBSERVATIONS["vector"], ACTIONS["choice"]), closed_form=True)
    step, count = model.policy.optimizer, 0

    def interrupted(objective: Any, *args: Any, of: Any = PPOObjective.differentiate) -> Any:
        nonlocal count
        count += 1
        if count == 5:
            raise KeyboardInterrupt
        return of(objective, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PPOObjective, "differentiate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            learned(model, 1)
    assert {float(state["step"]) for state in step.state.values()} == {4.0}
    model.save(tmp_path / "model")
    AggPPO.load(tmp_path / "model", model.env, device="cpu").learn(ROLLOUT)


def test_a_learning_rate_below_zero_in_a_file(tmp_path: Any) -> None:
    def falls_too_far(left: float) -> float:
        return (left - 0.01) * 1e-3

    env = noise(OBSERVATIONS["vector"], ACTIONS["choice"])
    learned(build(AggPPO, env, closed_form=True, learning_rate=falls_too_far), 2).save(tmp_path / "model")
    AggPPO.load(tmp_path / "model", env, device="cpu").learn(ROLLOUT)


def test_decoupled_weight_decay_of_adam() -> None:
    decay = {"optimizer_kwargs": {"weight_decay": 0.5, "decoupled_weight_decay": True}}
    env = noise(OBSERVATIONS["vector"], ACTIONS["box"])
    runs = [build(AggPPO, env, closed_form=closed, policy_kwargs=copy.deepcopy(decay)) for closed in (True, False)]
    assert_same_run(*[learned(run, 3) for run in runs])


# Where there is none --------------------------------------------------------------------------------------------------------


class OwnPolicy(ActorCriticPolicy):
    def evaluate_actions(self, *args: Any) -> Any:
        return super().evaluate_actions(*args)


class OwnAdam(torch.optim.Adam):
    pass


class Scaled(FlattenExtractor):
    pass


class OwnTrain(PPO):
    def train(self) -> None:
        super().train()


class AggOwnTrain(AggregationMixin, OwnTrain):
    pass


def hook(model: Any) -> None:
    model.policy.mlp_extractor.policy_net[0].register_forward_hook(lambda *_: None)


def replace_layer(model: Any) -> None:
    model.policy.mlp_extractor.policy_net[1] = nn.Dropout(0.1)


def tie(model: Any) -> None:
    net = model.policy.mlp_extractor.policy_net
    net[2].weight = model.policy.mlp_extractor.value_net[2].weight


def schedule(model: Any) -> None:
    torch.optim.lr_scheduler.ExponentialLR(model.policy.optimizer, 0.9)


def own_method(model: Any) -> None:
    model.policy.predict_values = model.policy.predict_values


def scale(model: Any) -> None:
    model.policy.features_extractor = Scaled(model.observation_space)


def own_part(model: Any) -> None:
    extractor = model.policy.mlp_extractor
    extractor.forward_actor = extractor.forward_actor


def share(model: Any) -> None:
    model.policy.share_memory()


CHANGES = {
    "has hooks": hook,
    "layer Dropout": replace_layer,
    "layers share a parameter": tie,
    "a step() of its own": schedule,
    "overrides predict_values()": own_method,
    "features extractor Scaled": scale,
    "a forward_actor() of its own": own_part,
    "in shared memory": share,
}


@pytest.mark.parametrize("reason", sorted(CHANGES))
def test_a_change_between_updates_is_noticed(reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = build(AggPPO, noise(OBSERVATIONS["vector"], ACTIONS["choice"]), closed_form=True)
    learned(model, 1)
    assert model.why_no_closed_form is None
    model.set_logger(Logger(None, [HumanOutputFormat(sys.stdout)]))
    CHANGES[reason](model)
    learned(model, 2)
    assert model.why_no_closed_form is not None
    assert reason in model.why_no_closed_form
    printed = capsys.readouterr().out
    assert printed.count("closed form not used") == 1
    assert reason in printed


@pytest.mark.parametrize(
    ("kind", "policy", "policy_kwargs", "reason"),
    [
        (AggPPO, OwnPolicy, {}, "OwnPolicy overrides evaluate_actions()"),
        (AggOwnTrain, "MlpPolicy", {}, "OwnTrain.train"),
        (AggPPO, "MlpPolicy", {"activation_fn": nn.Softplus}, "layer Softplus"),
        (AggPPO, "MlpPolicy", {"optimizer_class": OwnAdam}, "optimizer_class OwnAdam"),
        (AggPPO, "MlpPolicy", {"features_extractor_class": Scaled}, "features extractor Scaled"),
        (AggRecurrentPPO, "MlpLstmPolicy", {}, "RecurrentPPO.train"),
    ],
)
def test_where_there_is_none(kind: Any, policy: Any, policy_kwargs: dict[str, Any], reason: str) -> None:
    env = noise(OBSERVATIONS["vector"], ACTIONS["box"])
    model = kind(policy, env, n_steps=STEPS, batch_size=16, n_epochs=1, device="cpu", policy_kwargs=policy_kwargs)
    model.learn(ROLLOUT)
    assert reason in model.why_no_closed_form


def test_state_dependent_exploration_takes_the_graph() -> None:
    env = noise(OBSERVATIONS["vector"], ACTIONS["box"])
    model = AggPPO("MlpPolicy", env, n_steps=STEPS, batch_size=16, n_epochs=1, device="cpu", use_sde=True)
    model.learn(ROLLOUT)
    assert model.why_no_closed_form == "distribution StateDependentNoiseDistribution"
