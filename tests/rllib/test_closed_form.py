"""Learners that differentiate in closed form, compared with the same ones by torch's graph."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from ray import cloudpickle
from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from torch import nn

from rllib_agg import AggPPO
from rllib_agg.ppo import AggPPOTorchLearner
from tests.rllib.groups import MODULE, on_each
from tests.rllib.ppo_configs import tiny_ppo
from tests.rllib.two_players import TwoPlayers

cloudpickle.register_pickle_by_value(sys.modules[__name__])

EPOCHS: dict[str, Any] = {
    "timesteps": {"num_env_steps_sampled_lifetime": 1},
    "num_epochs": 2,
    "minibatch_size": 50,
    "shuffle_batch_per_epoch": True,
}
SCHEMES: dict[str, dict[str, Any]] = {
    "mean": {"grad_clip": 0.5},
    "r_weighted": {"aggregation": "r_weighted", "entropy_coeff": 0.01},
    "l_weighted": {"aggregation": "l_weighted", "use_kl_loss": False, "vf_clip_param": 0.5},
    "samples": {"aggregation": "samples", "advantage_norm": "agent"},
    "median": {"aggregation": "median"},
    "lag": {"communication": "lag"},
    "interval": {"interval": 2},
}
OTHERS = sorted(SCHEMES.keys() - {"r_weighted", "median", "lag"})
NETWORKS: dict[str, dict[str, Any]] = {
    "shared": {"fcnet_hiddens": [8, 8], "vf_share_layers": True},
    "separate": {"fcnet_hiddens": [8], "vf_share_layers": False, "fcnet_activation": "relu"},
    "heads": {"fcnet_hiddens": [8], "head_fcnet_hiddens": [6], "head_fcnet_activation": "silu", "vf_share_layers": False},
}


def built(env: str = "CartPole-v1", network: str = "separate", num_learners: int = 0, **training: Any) -> Any:
    config = tiny_ppo(**{"lr": 1e-3, **training}).environment(env)
    return config.rl_module(model_config=NETWORKS[network]).learners(num_learners=num_learners).build_algo()


def sampled(algorithm: Any) -> list[Any]:
    algorithm.env_runner.sample(num_timesteps=73)  # so that what follows starts in the middle of episodes
    episodes: list[Any] = algorithm.env_runner.sample(num_timesteps=200)
    return episodes


def update(algorithm: Any, episodes: list[Any], times: int = 2) -> dict[str, Any]:
    """Update by the same episodes and the same draws, and say what was logged last."""
    for seed in range(times):
        on_each(algorithm.learner_group, partial(draw_alike, seed=seed))
        (*_, logged) = algorithm.learner_group.update(episodes=copy.deepcopy(episodes), **EPOCHS)
    return {key: float(value.peek()) for key, value in flattened(logged[MODULE]).items()}


def flattened(logged: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested metrics by their path."""
    flat: dict[str, Any] = {}
    for key, value in logged.items():
        flat |= flattened(value, f"{prefix}{key}/") if isinstance(value, dict) else {prefix + key: value}
    return flat


def draw_alike(learner: Any, seed: int) -> None:
    np.random.seed(seed)
    torch.manual_seed(seed)


def reasons(algorithm: Any) -> list[str | None]:
    """Why the learners' last updates took the graph; ``None`` of one that did not."""
    return on_each(algorithm.learner_group, lambda learner: learner.why_no_closed_form)


def assert_same_log(found: dict[str, float], expected: dict[str, float]) -> None:
    assert found.keys() == expected.keys()
    assert any(key.startswith("agg/") for key in found)
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-3, abs=1e-4, nan_ok=True), key


def assert_same(one: Any, other: Any, tolerance: float = 1e-4) -> None:
    found, expected = (algorithm.learner_group.get_weights()[MODULE] for algorithm in (one, other))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(
    ("env", "network", "scheme"),
    [
        ("CartPole-v1", "separate", "r_weighted"),
        *[pytest.param("CartPole-v1", "separate", scheme, marks=pytest.mark.slow) for scheme in ("median", "lag", *OTHERS)],
        *[pytest.param("Pendulum-v1", network, "r_weighted", marks=pytest.mark.slow) for network in NETWORKS],
        pytest.param("CartPole-v1", "shared", "median", marks=pytest.mark.slow),
        ("Pendulum-v1", "heads", "lag"),
    ],
)
def test_updates_are_those_of_the_graph(env: str, network: str, scheme: str, ray_session: None) -> None:
    first, second = (built(env, network, **SCHEMES[scheme], closed_form=closed_form) for closed_form in (True, False))
    episodes = sampled(first)
    logged, expected = update(first, episodes), update(second, episodes)
    assert (reasons(first), reasons(second)) == ([None], ["closed_form=False"])
    assert_same(first, second)
    assert_same_log(logged, expected)
    first.stop()
    second.stop()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["r_weighted", "median"])
def test_on_two_learners(scheme: str, ray_session: None) -> None:
    first, second = (
        built(**SCHEMES[scheme], closed_form=closed_form, num_learners=2, train_batch_size_per_learner=100)
        for closed_form in (True, False)
    )
    episodes = sampled(first)
    update(first, episodes)
    update(second, episodes)
    assert (reasons(first), reasons(second)) == ([None] * 2, ["closed_form=False"] * 2)
    assert_same(first, second)
    weights = on_each(first.learner_group, lambda learner: learner.module.get_state()[MODULE])
    np.testing.assert_equal(weights[0], weights[1])
    first.stop()
    second.stop()


def test_a_restored_algorithm_goes_on_as_it_would_have(tmp_path: Any, ray_session: None) -> None:
    model = built(aggregation="r_weighted")
    episodes = sampled(model)
    update(model, episodes)
    restored = AggPPO.from_checkpoint(model.save_to_path(tmp_path / "checkpoint"))
    by_graph = built(aggregation="r_weighted", closed_form=False)
    by_graph.restore_from_path(tmp_path / "checkpoint")
    for algorithm in (model, restored, by_graph):
        update(algorithm, episodes)
    np.testing.assert_equal(*(algorithm.learner_group.get_weights()[MODULE] for algorithm in (model, restored)))
    assert (reasons(restored), reasons(by_graph)) == ([None], ["closed_form=False"])
    assert_same(model, by_graph)
    for algorithm in (model, restored, by_graph):
        algorithm.stop()


def test_an_agent_that_is_not_finite_is_masked(ray_session: None) -> None:
    """Its samples overflow in the loss: the graph then finds the agent, and what follows is the same."""
    first, second = (built(aggregation="r_weighted", closed_form=closed_form) for closed_form in (True, False))
    episodes = sampled(first)
    for episode in episodes[:1]:
        episode.extra_model_outputs["action_logp"].data[:] = -200.0  # a ratio of e^200
    logged = [update(algorithm, episodes) for algorithm in (first, second)]
    assert_same(first, second)
    assert logged[0]["agg/masked_agents"] == 1
    assert_same_log(*logged)
    first.stop()
    second.stop()


# Where there is none --------------------------------------------------------------------------------------------------------


class OwnLoss(AggPPOTorchLearner):
    def losses_per_sample(self, **kwargs: Any) -> Any:
        return super().losses_per_sample(**kwargs)


class OwnModule(DefaultPPOTorchRLModule):
    pass


def hook(algorithm: Any) -> None:
    module = algorithm.learner_group._learner.module[MODULE].unwrapped()
    module.pi.net.mlp[0].register_forward_hook(lambda *_: None)


def dropout(algorithm: Any) -> None:
    module = algorithm.learner_group._learner.module[MODULE].unwrapped()
    module.encoder.actor_encoder.net.mlp[1] = nn.Dropout(0.1)


@pytest.mark.parametrize(("change", "reason"), [(hook, "has hooks"), (dropout, "layer Dropout")])
def test_a_change_between_updates_is_noticed(change: Callable[[Any], None], reason: str, ray_session: None) -> None:
    algorithm = built()
    episodes = sampled(algorithm)
    update(algorithm, episodes, times=1)
    assert reasons(algorithm) == [None]
    change(algorithm)
    update(algorithm, episodes, times=1)
    assert reason in reasons(algorithm)[0]  # type: ignore[operator]
    algorithm.stop()


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda config: config.learners(learner_class=OwnLoss), "OwnLoss.losses_per_sample()"),
        (lambda config: config.rl_module(rl_module_spec=RLModuleSpec(module_class=OwnModule)), "module OwnModule"),
        (
            lambda config: config.rl_module(model_config={"use_lstm": True, "max_seq_len": 20}),
            "the module has states",
        ),
        pytest.param(
            lambda config: config.training(use_critic=False, use_gae=False).env_runners(batch_mode="complete_episodes"),
            "use_critic=False",
            marks=pytest.mark.slow,
        ),
        pytest.param(lambda config: config.training(closed_form=False), "closed_form=False", marks=pytest.mark.slow),
    ],
)
def test_where_there_is_none(prepare: Callable[[Any], Any], reason: str, ray_session: None) -> None:
    algorithm = prepare(tiny_ppo()).build_algo()
    algorithm.train()
    assert reason in reasons(algorithm)[0]  # type: ignore[operator]
    algorithm.stop()


@pytest.mark.parametrize("aggregation", ["r_weighted", "median"])
def test_parts_that_are_not_trained_stay(aggregation: str, ray_session: None) -> None:
    """One of two modules is left out from the second update on, and a layer of the other one is frozen."""
    config = (
        tiny_ppo(aggregation=aggregation)
        .environment(TwoPlayers)
        .multi_agent(policies={"one", "ten"}, policy_mapping_fn=lambda agent, *_, **__: agent)
    )
    algorithm = config.build_algo()
    algorithm.train()
    assert reasons(algorithm) == [None]
    learner = algorithm.learner_group._learner
    learner.config.multi_agent(policies_to_train=["ten"])
    learner.module["ten"].pi.requires_grad_(False)
    before = copy.deepcopy(learner.module.get_state())
    algorithm.train()
    assert reasons(algorithm) == [None]
    after = learner.module.get_state()
    np.testing.assert_equal(after["one"], before["one"])
    np.testing.assert_equal(
        *[{name: own["ten"][name] for name in own["ten"] if name.startswith("pi.")} for own in (after, before)]
    )
    trained = "encoder.actor_encoder.net.mlp.0.weight"
    assert (after["ten"][trained] != before["ten"][trained]).any()
    algorithm.stop()
