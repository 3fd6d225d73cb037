"""What existing pipelines bring along: learners, modules, episodes and callbacks of their own."""

from __future__ import annotations

import copy
import pickle
import socket
import threading
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.learner.add_next_observations_from_episodes_to_train_batch import (
    AddNextObservationsFromEpisodesToTrainBatch as NextObservations,
)
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.external.env_runner_server_for_external_inference import EnvRunnerServerForExternalInference
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.examples.envs.classes.utils.dummy_external_client import _dummy_external_client
from ray.rllib.examples.learners.classes.intrinsic_curiosity_learners import ICM_MODULE_ID, PPOTorchLearnerWithCuriosity
from ray.rllib.examples.rl_modules.classes.intrinsic_curiosity_model_rlm import IntrinsicCuriosityModel

from rllib_agg import AggPPOConfig, AggPPOTorchLearner
from rllib_agg.aggregation.agents import AGENT, RETURN, agent_of
from tests.rllib.groups import MODULE
from tests.rllib.ppo_configs import TINY, tiny_ppo

Sample = Callable[[], list[Any]]


def weights(learner: Any, module_id: str = MODULE) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in learner.module[module_id].parameters()]).clone()


def updated(config: AggPPOConfig, spaces: dict[str, Any], episodes: list[Any]) -> Any:
    config.validate()
    torch.manual_seed(0)
    learner = config.build_learner(spaces=spaces)
    learner.update(episodes=episodes, timesteps={}, num_epochs=1)
    return learner


# Learners of a user's own -----------------------------------------------------------------------------------------------


class UsersLearner(PPOTorchLearner):
    """RLlib's documented way to add a term."""

    def compute_loss_for_module(self, *, module_id: str, config: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().compute_loss_for_module(module_id=module_id, config=config, **kwargs)
        norm = sum(parameter.square().sum() for parameter in self.module[module_id].parameters())
        return loss + config.learner_config_dict["coefficient"] * norm


class Combined(UsersLearner, AggPPOTorchLearner):
    """As the page says."""


@pytest.mark.parametrize("aggregation", ["mean", "r_weighted", "l_weighted"])
def test_a_term_that_a_learner_adds_acts(aggregation: str, spaces: dict[str, Any], sample: Sample) -> None:
    found = {}
    for coefficient in (0.0, 1000.0):
        config = tiny_ppo(aggregation=aggregation, learner_config_dict={"coefficient": coefficient})
        found[coefficient] = updated(config.learners(learner_class=Combined), spaces, sample())
    assert not torch.allclose(weights(found[0.0]), weights(found[1000.0]))
    assert "compute_loss_for_module" in found[0.0].why_no_closed_form


@pytest.mark.parametrize("settings", [{"aggregation": "median"}, {"communication": "lag"}, {"interval": 2}], ids=str)
def test_a_term_that_could_not_act_is_refused_at_build(settings: dict[str, Any]) -> None:
    config = tiny_ppo(**settings).learners(learner_class=Combined)
    with pytest.raises(ValueError, match=r"Combined.compute_loss_for_module\(\) would not act; put its terms into losses_per"):
        config.validate()


class OwnLoss(AggPPOTorchLearner):
    def compute_loss_for_module(self, *, fwd_out: dict[str, Any], **kwargs: Any) -> torch.Tensor:
        return fwd_out["action_dist_inputs"].square().mean()


class OwnLosses(AggPPOTorchLearner):
    def compute_losses(self, *, fwd_out: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        return {id_: self.own(out) for id_, out in fwd_out.items()}

    def own(self, out: dict[str, Any]) -> torch.Tensor:
        return out["action_dist_inputs"].square().mean()


class OwnGradients(AggPPOTorchLearner):
    def compute_gradients(self, loss_per_module: dict[str, Any], **kwargs: Any) -> dict[Any, Any]:
        sum(loss_per_module.values()).backward()
        return {ref: parameter.grad for ref, parameter in self._params.items()}


class OwnSteps(AggPPOTorchLearner):
    def apply_gradients(self, gradients_dict: dict[Any, Any]) -> None:
        for _, optimizer in self.optimizers():
            optimizer.step()


class StockFirst(PPOTorchLearner):
    def compute_loss_for_module(self, *, fwd_out: dict[str, Any], **kwargs: Any) -> torch.Tensor:
        return fwd_out["action_dist_inputs"].square().mean()


class StockLoss(AggPPOTorchLearner):
    """Calls RLlib's method by its class, past ours."""

    def compute_loss_for_module(self, **kwargs: Any) -> torch.Tensor:
        return PPOTorchLearner.compute_loss_for_module(self, **kwargs)


class StockGradients(AggPPOTorchLearner):
    def compute_gradients(self, loss_per_module: dict[str, Any], **kwargs: Any) -> dict[Any, Any]:
        return PPOTorchLearner.compute_gradients(self, loss_per_module, **kwargs)


@pytest.mark.parametrize(
    ("learner", "aggregation", "message"),
    [
        (StockLoss, "mean", r"StockLoss.compute_loss_for_module\(\) did not call .* for 'default_policy'"),
        (StockGradients, "median", r"compute_gradients\(\) did not call AggLearnerMixin.compute_gradients\(\)"),
    ],
)
def test_a_learner_that_goes_round_the_aggregation_is_refused(
    learner: type, aggregation: str, message: str, spaces: dict[str, Any], sample: Sample
) -> None:
    with pytest.raises(ValueError, match=message):
        updated(tiny_ppo(aggregation=aggregation).learners(learner_class=learner), spaces, sample())


class Doubled(ConnectorV2):
    """Changes the advantages after their estimation."""

    def __call__(self, *, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        batch[MODULE]["advantages"] *= 2.0
        return batch


class ChangesAdvantages(AggPPOTorchLearner):
    def build(self) -> None:
        super().build()
        self.connector_pipeline.append(Doubled())


@pytest.mark.parametrize("norm", ["agent", "none"])
def test_advantages_that_a_connector_changed_are_not_replaced_silently(
    norm: str, spaces: dict[str, Any], sample: Sample
) -> None:
    found, stock = (
        updated(tiny_ppo(lr=1e-4).learners(learner_class=kind), spaces, sample())
        for kind in (ChangesAdvantages, AggPPOTorchLearner)
    )
    assert not torch.equal(weights(found), weights(stock))
    with pytest.raises(ValueError, match=f"advantage_norm='{norm}' replaces RLlib's advantages"):
        updated(tiny_ppo(advantage_norm=norm).learners(learner_class=ChangesAdvantages), spaces, sample())


@pytest.mark.parametrize(
    ("learner", "method", "remedy"),
    [
        (OwnLoss, "compute_loss_for_module", "override losses_per_sample"),
        (OwnLosses, "compute_losses", "override losses_per_sample"),
        (OwnGradients, "compute_gradients", "call it"),
        (OwnSteps, "apply_gradients", "call it"),
        (type("Both", (StockFirst, AggPPOTorchLearner), {}), "compute_loss_for_module", "override losses_per_sample"),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
@pytest.mark.parametrize("aggregation", ["mean", "r_weighted"])
def test_a_learner_that_takes_the_loss_over_is_refused_at_build(
    learner: type, method: str, remedy: str, aggregation: str
) -> None:
    config = tiny_ppo(aggregation=aggregation).learners(learner_class=learner)
    with pytest.raises(ValueError, match=rf"\.{method}\(\) does not call super\(\).{method}\(\).*{remedy}") as caught:
        config.validate()
    assert "\n" not in str(caught.value)


# Modules with losses of their own ---------------------------------------------------------------------------------------


class Curious(PPOTorchLearnerWithCuriosity, AggPPOTorchLearner):
    """RLlib's example, combined as the page says."""


class OwnColumns(NextObservations):
    """Gives the curiosity module a batch of its own, without the columns that env runners tag."""

    def __call__(self, *, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        batch[ICM_MODULE_ID] = {name: batch[MODULE][name].clone() for name in ("obs", "new_obs", "actions")}
        return batch


class CuriousApart(AggPPOTorchLearner):
    """Its curiosity module learns from copies of some columns."""

    def build(self) -> None:
        super().build()
        from ray.rllib.connectors.common.add_observations_from_episodes_to_batch import AddObservationsFromEpisodesToBatch
        from ray.rllib.connectors.common.numpy_to_tensor import NumpyToTensor

        self.connector_pipeline.insert_after(AddObservationsFromEpisodesToBatch, NextObservations())
        self.connector_pipeline.insert_after(NumpyToTensor, OwnColumns())


def curious(config: Any) -> Any:
    small = {"feature_dim": 4, "feature_net_hiddens": (8,), "inverse_net_hiddens": (8,), "forward_net_hiddens": (8,)}
    specs = {
        MODULE: RLModuleSpec(model_config=TINY),
        ICM_MODULE_ID: RLModuleSpec(module_class=IntrinsicCuriosityModel, learner_only=True, model_config=small),
    }
    config.rl_module(rl_module_spec=MultiRLModuleSpec(rl_module_specs=specs))
    overrides = {ICM_MODULE_ID: PPOConfig.overrides(lr=0.0005)}
    config.multi_agent(algorithm_config_overrides_per_module=overrides)
    return config.training(learner_config_dict={"forward_loss_weight": 0.2, "intrinsic_reward_coeff": 0.05})


@pytest.fixture
def two_modules(spaces: dict[str, Any]) -> dict[str, Any]:
    return dict.fromkeys((MODULE, ICM_MODULE_ID), spaces[MODULE])


@pytest.mark.parametrize("settings", [{"aggregation": "r_weighted"}, {"aggregation": "median"}, {"interval": 2}], ids=str)
def test_a_module_with_a_loss_of_its_own_learns_as_under_stock(
    settings: dict[str, Any], two_modules: dict[str, Any], sample: Sample
) -> None:
    config = curious(tiny_ppo(**settings)).learners(learner_class=Curious)
    learner = updated(config, two_modules, sample())
    stock = curious(PPOConfig().environment("CartPole-v1").training(num_epochs=1, lr=0.01))
    stock.learners(learner_class=PPOTorchLearnerWithCuriosity)
    expected = updated(stock, two_modules, sample())
    assert torch.allclose(weights(learner, ICM_MODULE_ID), weights(expected, ICM_MODULE_ID), rtol=0, atol=1e-6)
    torch.manual_seed(0)
    start = config.build_learner(spaces=two_modules)
    assert not torch.allclose(weights(learner, ICM_MODULE_ID), weights(start, ICM_MODULE_ID))
    moved = not torch.allclose(weights(learner), weights(start))
    assert moved != ("interval" in settings)  # the second minibatch is not there
    logged = learner.metrics.reduce()
    assert "agg" in logged[MODULE]
    assert "agg" not in logged[ICM_MODULE_ID]
    assert "inverse_loss" in logged[ICM_MODULE_ID]


@pytest.mark.parametrize("aggregation", ["r_weighted", "krum"])
def test_a_batch_of_a_modules_own_needs_no_agents(aggregation: str, two_modules: dict[str, Any], sample: Sample) -> None:
    config = curious(tiny_ppo(aggregation=aggregation)).learners(learner_class=CuriousApart)
    learner = updated(config, two_modules, sample())
    torch.manual_seed(0)
    start = config.build_learner(spaces=two_modules)
    for name in two_modules:
        assert not torch.allclose(weights(learner, name), weights(start, name))


def test_a_module_with_a_loss_of_its_own_has_no_place_where_learners_step_alone(two_modules: dict[str, Any]) -> None:
    config = curious(tiny_ppo(aggregation="fedavg")).learners(learner_class=Curious, num_learners=2)
    config.validate()
    with pytest.raises(ValueError, match=r"'_intrinsic_curiosity_model' \(IntrinsicCuriosityModel\) has a loss of its own"):
        config.build_learner_group(spaces=two_modules)


# Samples from elsewhere -------------------------------------------------------------------------------------------------


def untagged(episodes: list[Any]) -> list[Any]:
    for episode in episodes:
        for name in (AGENT, RETURN):
            del episode.extra_model_outputs[name]
    return episodes


def tagged_as_one(episodes: list[Any]) -> list[Any]:
    for episode in episodes:
        episode.extra_model_outputs[AGENT].data[:] = 0
    return episodes


@pytest.mark.parametrize("settings", [{"aggregation": "r_weighted"}, {"aggregation": "median"}, {"advantage_norm": "agent"}])
def test_untagged_episodes_are_one_agents(settings: dict[str, Any], spaces: dict[str, Any], sample: Sample) -> None:
    found = updated(tiny_ppo(**settings), spaces, untagged(sample()))
    expected = updated(tiny_ppo(**settings), spaces, tagged_as_one(sample()))
    assert torch.equal(weights(found), weights(expected))
    assert found.aggregator(MODULE).exchange.ledger.messages == 1


def test_untagged_episodes_reach_a_learner_group(spaces: dict[str, Any], sample: Sample) -> None:
    config = tiny_ppo(aggregation="r_weighted")
    config.validate()
    group = config.build_learner_group(spaces=spaces)
    before = copy.deepcopy(group.get_weights())
    group.update(episodes=untagged(sample()), timesteps={}, num_epochs=1)
    after = group.get_weights()
    assert any((after[MODULE][name] != value).any() for name, value in before[MODULE].items())


def test_the_learner_api_by_hand_takes_batches(spaces: dict[str, Any], sample: Sample) -> None:
    """RLlib's page on learners: connectors are run outside, and what they made is given as a batch."""
    config = tiny_ppo(aggregation="r_weighted")
    config.validate()
    torch.manual_seed(0)
    learner = config.build_learner(spaces=spaces)
    maker = config.build_learner(spaces=spaces)
    maker.module.set_state(learner.module.get_state())
    batch = maker._make_batch_if_necessary(_data(untagged(sample())))
    for name in (AGENT, RETURN, "agg_raw_advantages"):
        batch.policy_batches[MODULE].pop(name)
    learner.update(batch=batch, timesteps={}, num_epochs=1)
    expected = updated(tiny_ppo(aggregation="r_weighted"), spaces, tagged_as_one(sample()))
    assert torch.allclose(weights(learner), weights(expected), rtol=0, atol=1e-6)

    other = tiny_ppo(advantage_norm="agent").build_learner(spaces=spaces)
    with pytest.raises(ValueError, match="advantage_norm='agent' needs episodes"):
        other.update(batch=batch, timesteps={}, num_epochs=1)


def _data(episodes: list[Any]) -> Any:
    from ray.rllib.core.learner.training_data import TrainingData

    return TrainingData(episodes=episodes)


def test_an_external_environment_is_the_agent_of_its_env_runner(ray_session: None) -> None:
    """RLlib's own server and client."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    env = gym.make("CartPole-v1")
    config = (
        AggPPOConfig()
        .environment(observation_space=env.observation_space, action_space=env.action_space, env_config={"port": port})
        .env_runners(env_runner_cls=EnvRunnerServerForExternalInference, num_env_runners=0)
        .training(aggregation="r_weighted", train_batch_size_per_learner=30, minibatch_size=None, num_epochs=1)
        .rl_module(model_config=TINY)
    )
    threading.Thread(target=_client, args=(port,), daemon=True).start()
    algorithm = config.build_algo()
    assert isinstance(algorithm.env_runner, EnvRunnerServerForExternalInference)
    for _ in range(6):
        agg = algorithm.train()["learners"][MODULE]["agg"]
    assert agg["messages"] == 6
    aggregator = algorithm.learner_group._learner.aggregator(MODULE)
    assert aggregator.returns.isfinite().all()  # episodes of several samples
    assert pickle.loads(pickle.dumps(algorithm.config.env_runner_cls)).__bases__[1] is EnvRunnerServerForExternalInference
    algorithm.stop()


def _client(port: int) -> None:
    try:
        _dummy_external_client(port)
    except (ConnectionError, OSError):
        return  # the server has stopped


class ByHand(SingleAgentEnvRunner):
    """Plays without RLlib's callbacks."""

    def sample(self, **kwargs: Any) -> list[Any]:
        env = gym.make("CartPole-v1")
        observation, _ = env.reset(seed=0)
        episode = SingleAgentEpisode(observations=[observation])
        while not episode.is_done:
            observation, reward, terminated, truncated, _ = env.step(0)
            outputs = {"action_logp": -0.7, "action_dist_inputs": np.zeros(2, np.float32)}
            episode.add_env_step(
                observation, 0, reward, terminated=terminated, truncated=truncated, extra_model_outputs=outputs
            )
        return [episode.to_numpy()]


def test_an_env_runner_that_samples_without_callbacks_is_an_agent() -> None:
    config = tiny_ppo(num_envs=2).env_runners(env_runner_cls=ByHand)
    config.validate()
    config.validate()
    (episode,) = config.env_runner_cls(config=config, worker_index=2).sample()
    assert agent_of(episode) == 2  # the first of the second runner's
    assert episode.get_extra_model_outputs(RETURN)[-1] == episode.get_return()
    stock = tiny_ppo().env_runners(env_runner_cls=SingleAgentEnvRunner)
    stock.validate()
    assert stock.env_runner_cls is SingleAgentEnvRunner


class Augmenting(RLlibCallback):
    """Adds a copy of every episode, mirrored, as documented for data augmentation."""

    def on_sample_end(self, *, samples: list[Any], **kwargs: Any) -> None:
        samples.extend([mirrored(episode) for episode in samples])


class Doubling(RLlibCallback):
    def on_sample_end(self, *, samples: list[Any], **kwargs: Any) -> None:
        samples += copy.deepcopy(samples)


def mirrored(episode: SingleAgentEpisode) -> SingleAgentEpisode:
    extra = {name: list(episode.get_extra_model_outputs(name)) for name in ("action_logp", "action_dist_inputs")}
    return SingleAgentEpisode(
        observations=[-observation for observation in episode.get_observations()],
        actions=[1 - action for action in episode.get_actions()],
        rewards=list(episode.get_rewards()),
        infos=list(episode.get_infos()),
        terminated=episode.is_terminated,
        truncated=episode.is_truncated,
        extra_model_outputs=extra,
        observation_space=episode.observation_space,
        action_space=episode.action_space,
        len_lookback_buffer=0,
    ).to_numpy()


def added(*, samples: list[Any], **kwargs: Any) -> None:
    samples.extend([mirrored(episode) for episode in samples])


@pytest.mark.parametrize(
    "callbacks",
    [{"callbacks_class": Augmenting}, {"callbacks_class": Doubling}, {"on_sample_end": added}],
    ids=["class", "copies", "function"],
)
def test_episodes_that_a_callback_adds_belong_to_the_sampled_ones_agents(callbacks: dict[str, Any], ray_session: None) -> None:
    config = tiny_ppo(num_envs=3).callbacks(**callbacks)
    config.validate()
    runner = SingleAgentEnvRunner(config=config)
    totals: dict[int, float] = {}
    for _ in range(6):
        episodes = runner.sample(num_timesteps=60)
        half = len(episodes) // 2
        assert [agent_of(episode) for episode in episodes[:half]] == [agent_of(episode) for episode in episodes[half:]]
        for episode in episodes[:half]:
            agent = agent_of(episode)
            totals[agent] = totals.get(agent, 0.0) + float(episode.get_return())
            if episode.is_done:
                assert episode.get_extra_model_outputs(RETURN)[-1] == totals.pop(agent)  # not counted twice
        for episode in episodes[half:]:
            assert len(episode.get_extra_model_outputs(AGENT)) == len(episode)
