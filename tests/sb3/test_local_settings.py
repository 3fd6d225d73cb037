"""SB3's own settings with local models, and what is sent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import SimpleMultiObsEnv
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn

from sb3_agg import AggPPO
from tests.sb3.flattened import flat
from tests.sb3.local_runs import AGENTS, NET, SCHEMES, STEPS, build, copies, learn, own_state
from tests.sb3.worlds import cartpoles, walks

# SB3's own settings ---------------------------------------------------------------------------------------------------------


def test_the_learning_rate_follows_its_schedule() -> None:
    """Down to 0 after half of the timesteps."""
    model = build("fedavg", aggregation_kwargs={"interval": 9}, learning_rate=lambda left: max(0.0, left - 0.5))
    seen = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            seen.append(copies(model))

    learn(model, 4, callback=Watch())
    moved = [not torch.equal(one, next_one) for one, next_one in zip(seen, [*seen[1:], copies(model)], strict=True)]
    assert moved == [True, False, False, False]  # 0.25, 0, 0, 0


def test_target_kl_stops_all_agents() -> None:
    model = build("fedavg", target_kl=1e-9, n_epochs=50)
    learn(model, 2)
    assert 0 < model._n_updates < 50


def test_clipping_is_each_agent_s_own() -> None:
    """Plain gradient descent: no agent moves farther than the learning rate times the bound."""
    settings = {"batch_size": None, "n_epochs": 1, "learning_rate": 1.0, "max_grad_norm": 0.25}
    env = walks({"length": 4, "reward": 100.0}, {"length": 4, "reward": 1e-4})
    kwargs = {**NET, "optimizer_class": torch.optim.SGD}
    model = build("fedavg", env=env, policy_kwargs=kwargs, aggregation_kwargs={"interval": 9}, vf_coef=10.0, **settings)
    start = copies(model)
    distances = (copies(learn(model)) - start).norm(dim=1)
    assert distances[0].item() == pytest.approx(0.25, rel=1e-4)
    assert distances[1].item() <= 0.2501
    loose = build(
        "fedavg", env=env, policy_kwargs=kwargs, aggregation_kwargs={"interval": 9}, **(settings | {"max_grad_norm": 1e9})
    )
    assert (copies(learn(loose)) - start).norm(dim=1)[0] > 1.0


def test_the_logged_standard_deviation_is_the_average_s() -> None:
    model = learn(build("actor_sum", env="Pendulum-v1", learning_rate=0.05), 2)
    assert model.logger.name_to_value["train/std"] == pytest.approx(model.policy.log_std.exp().mean().item())


class Normalized(BaseFeaturesExtractor):
    """Batch normalisation, which has buffers."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, observations: Tensor) -> Tensor:
        result: Tensor = self.norm(observations)
        return result


@pytest.mark.parametrize("scheme", ["fedavg", "actor_sum"])
def test_buffers_are_the_agents_own_and_averaged_like_parameters(scheme: str, tmp_path: Path) -> None:
    kwargs = {**NET, "features_extractor_class": Normalized}
    model = build(scheme, policy_kwargs=kwargs, batch_size=None, n_epochs=1)
    learn(model)
    observations = torch.as_tensor(model.rollout_buffer.observations).view(AGENTS, STEPS, 4)
    means = 0.1 * observations.mean(1)  # torch's momentum
    buffers = dict(model.policy.named_buffers())
    name = "features_extractor.norm.running_mean"
    torch.testing.assert_close(buffers[name], means.mean(0))
    assert buffers["features_extractor.norm.num_batches_tracked"] == 1
    own = own_state(model.get_parameters())["buffers"][name]
    torch.testing.assert_close(own, means if scheme == "actor_sum" else means.mean(0).expand(AGENTS, -1))
    model.save(tmp_path / "model")
    loaded = AggPPO.load(tmp_path / "model", env=cartpoles(AGENTS), device="cpu")
    assert torch.equal(own_state(loaded.get_parameters())["buffers"][name], own)


def test_buffers_of_an_agent_that_has_stopped_stay_as_they_are() -> None:
    kwargs = {"interval": 9, "local_epochs": [0, 1, 2]}
    own = {**NET, "features_extractor_class": Normalized}
    model = learn(build(aggregation_kwargs=kwargs, policy_kwargs=own, batch_size=None))
    counts = own_state(model.get_parameters())["buffers"]["features_extractor.norm.num_batches_tracked"]
    assert counts.tolist() == [0, 1, 2]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_worlds_of_all_kinds(scheme: str) -> None:
    settings = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "device": "cpu", "aggregation": scheme}
    dictionary = make_vec_env(lambda: SimpleMultiObsEnv(random_start=False, channel_last=False), n_envs=2)
    normalized = VecNormalize(make_vec_env("Pendulum-v1", 2))
    for policy, env in (("MultiInputPolicy", dictionary), ("MlpPolicy", normalized)):
        model = AggPPO(policy, env, policy_kwargs=NET, min_episodes=0, **settings).learn(32)
        assert np.isfinite(model.logger.name_to_value["agg/divergence"])


def test_waiting_for_episodes() -> None:
    env = walks({"length": 5}, {"length": 30})
    model = AggPPO("MlpPolicy", env, aggregation="actor_sum", n_steps=8, batch_size=None, min_episodes=1, device="cpu")
    model.learn(120)
    assert model.rollout_buffer.buffer_size == 30


# The ledger -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["fedavg", "fedprox"])
@pytest.mark.parametrize("interval", [1, 2])
def test_parameters_are_sent_once_a_merge(scheme: str, interval: int) -> None:
    model = build(scheme, aggregation_kwargs={"interval": interval})
    learn(model, 5)
    merges, size = 5 // interval, len(flat(model.policy))
    assert model.ledger.messages_per_agent.tolist() == [merges] * AGENTS
    assert model.ledger.bytes_of("parameters") == model.ledger.bytes_down == 4 * merges * AGENTS * size
    assert model.ledger.bytes_of("scalars") == 4 * merges * AGENTS  # numbers of samples
    log = model.logger.name_to_value
    assert (log["agg/messages"], log["agg/bytes"]) == (model.ledger.messages, model.ledger.bytes)
    assert log["agg/bytes_down"] == model.ledger.bytes_down
    assert (log["agg/masked_agents"], log["agg/skipped_updates"]) == (0, 0)


def test_merged_moments_are_sent_along() -> None:
    model = build("fedavg", aggregation_kwargs={"moments": "merge"})
    learn(model)
    size = len(flat(model.policy))
    assert model.ledger.bytes_of("parameters") == 4 * AGENTS * (3 * size + 1)  # Adam's two moments, and its number of steps


@pytest.mark.parametrize("scheme", ["actor_sum", "actor_mean"])
def test_gradients_are_sent_every_step(scheme: str) -> None:
    model = build(scheme)
    learn(model, 2)
    steps, size = 2 * 2 * 4, len(flat(model.policy))
    assert model.ledger.messages_per_agent.tolist() == [steps] * AGENTS
    assert model.ledger.bytes_of("gradients") == model.ledger.bytes == model.ledger.bytes_down == 4 * steps * AGENTS * size


@pytest.mark.parametrize(("scheme", "messages"), [("fedavg", [1, 0, 1]), ("actor_sum", [8, 0, 8])])
@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
def test_a_masked_agent_sends_nothing(scheme: str, messages: list[int]) -> None:
    broken = {"length": 4, "broken": np.nan, "broken_steps": range(99)}
    model = build(scheme, env=walks({"length": 4}, broken, {"length": 4}))
    with pytest.warns(UserWarning, match="agent 1 had"):
        learn(model)
    assert model.ledger.messages_per_agent.tolist() == messages
    size = len(flat(model.policy))
    assert model.ledger.bytes_down == 4 * size * AGENTS * (1 if scheme == "fedavg" else 8)


def test_an_actor_that_does_not_send_steps_with_the_answer() -> None:
    gate = {"communication": "random", "communication_kwargs": {"expected_messages": 1}}
    model = build("actor_mean", n_epochs=1, batch_size=STEPS * AGENTS, **gate)
    start = model._local_models.copies.clone()
    learn(model)
    assert model.ledger.messages < AGENTS
    assert bool((model._local_models.copies != start).any(1).all())
    assert model.logger.name_to_value["agg/masked_agents"] == 0


def test_weights_of_a_merge_are_logged_for_those_who_sent() -> None:
    gate = {"communication": "random", "communication_kwargs": {"expected_messages": 2}}
    model = build("mean", payload="parameters", num_agents=4, **gate)
    for _ in range(6):
        before = model.ledger.messages
        learn(model, reset_num_timesteps=False)
        sent = model.ledger.messages - before
        if sent:
            assert model.logger.name_to_value["agg/weight_min"] == pytest.approx(1 / sent)


@pytest.mark.parametrize("target_kl", [1e-4, -1e-9])
def test_losses_of_a_merge_are_those_of_steps_that_were_taken(target_kl: float) -> None:
    weights = []
    for closed_form in (True, False):
        own = {"n_steps": 32, "batch_size": 24, "n_epochs": 5, "target_kl": target_kl, "closed_form": closed_form}
        model = build("l_weighted", payload="parameters", env="Pendulum-v1", **own)
        model.target_kl = target_kl  # SB3 has no objection, and the first minibatch is the last
        weights.append(learn(model).agent_weights)
    np.testing.assert_allclose(*weights, rtol=1e-5)
    if target_kl < 0:
        np.testing.assert_allclose(weights[0], 1 / AGENTS)
