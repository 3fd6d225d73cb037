"""What a combiner is given are the agents' own gradients, on any number of learners, and what it answers is stepped with."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ray import cloudpickle, tune
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule, MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from torch import Tensor

from rl_agg import Combiner, combine
from rllib_agg import AggPPO, AggPPOConfig
from rllib_agg.aggregation.agents import agent_of
from rllib_agg.aggregation.learner_group import AggLearnerGroup
from rllib_agg.aggregation.sums_by_agent import sum_gradients_by_agent
from tests.rllib.groups import MODULE, UPDATE, configure, gradients, on_each, start_group
from tests.rllib.ppo_configs import TINY, tiny_ppo
from tests.rllib.separate_gradients import flat, separate_gradients, spy_on
from tests.rllib.two_players import TwoPlayers, gradients_by_module

cloudpickle.register_pickle_by_value(sys.modules[__name__])

NUM_AGENTS = 5
COMBINERS: dict[str, dict[str, Any]] = {
    "median": {},
    "trimmed_mean": {"num_byzantine": 2},
    "krum": {"num_selected": 2},
    "geometric_median": {},
    "mixtailor": {"seed": 3},
    "torchjd:AlignedMTL": {},
}


@pytest.fixture(
    scope="module",
    params=[0, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 2, 3))],
    ids="learners{}".format,
)
def group(request: pytest.FixtureRequest, spaces: dict[str, Any]) -> Iterator[AggLearnerGroup]:
    group = start_group(spaces, request.param, aggregation="median", advantage_norm="none")
    yield group
    group.shutdown()


@pytest.mark.parametrize("shard_by_agent", [False, True], ids=["sliced", "whole_agents"])
@pytest.mark.parametrize("name", COMBINERS)
def test_gradient_is_the_combined_one_of_separate_backwards(
    name: str, shard_by_agent: bool, group: AggLearnerGroup, sample: Callable[[], list[Any]], spaces: dict[str, Any]
) -> None:
    configure(group, aggregation=name, aggregation_kwargs=COMBINERS[name])
    group.config.shard_by_agent = shard_by_agent
    matrix = separate_gradients(group, sample(), spaces)
    group.update(episodes=sample(), **UPDATE)
    expected = combine(name, matrix, **COMBINERS[name])
    first, *others = gradients(group)
    torch.testing.assert_close(flat(first), expected, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(flat(first), flat(other)) for other in others)


@dataclass
class Loudest(Combiner):
    """A user's own, without a hash, as dataclasses are."""

    def merge(self, gradients: Tensor, *, num_masked: int, step: int) -> Tensor:
        return gradients[gradients.norm(dim=1).argmax()]


def test_combiner_of_ones_own(group: AggLearnerGroup, sample: Callable[[], list[Any]], spaces: dict[str, Any]) -> None:
    configure(group, aggregation=Loudest(), aggregation_kwargs={})
    matrix = separate_gradients(group, sample(), spaces)
    group.update(episodes=sample(), **UPDATE)
    torch.testing.assert_close(flat(gradients(group)[0]), matrix[matrix.norm(dim=1).argmax()], rtol=1e-5, atol=1e-5)


def test_learners_stay_identical_to_the_bit(group: AggLearnerGroup, sample: Callable[[], list[Any]]) -> None:
    """Even by a combiner that draws at random, and learners with other random states."""
    if len(group) < 2:
        pytest.skip("one learner has none to be identical to")
    on_each(group, lambda learner: torch.seed())
    for name in ("torchjd:GradDrop", "krum"):
        configure(group, aggregation=name, aggregation_kwargs={})
        for _ in range(3):
            group.update(episodes=sample(), num_epochs=2, minibatch_size=32, shuffle_batch_per_epoch=True, timesteps={})
    first, *others = on_each(group, lambda learner: learner.module[MODULE].unwrapped().get_state())
    for parameters in others:
        assert all((parameters[name] == value).all() for name, value in first.items())


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("num_samples", [40, 4000])
def test_vectorised_and_separate_backwards_agree(recurrent: bool, num_samples: int) -> None:
    torch.manual_seed(0)
    module = torch.nn.GRU(3, 4) if recurrent else torch.nn.Linear(3, 4)
    module.register_parameter("unused", torch.nn.Parameter(torch.ones(2)))
    outputs = module(torch.randn(num_samples, 3))
    losses = (outputs[0] if recurrent else outputs).square().sum(1)
    agents, valid = torch.randint(0, 4, (num_samples,)), torch.rand(num_samples) < 0.8
    agents[agents == 2] = 0  # agent 2 has no samples
    matrix = sum_gradients_by_agent(losses, agents, valid, module, 4, num_learners=0)
    for agent in range(4):
        own = losses[(agents == agent) & valid].sum()
        parts = torch.autograd.grad(own, list(module.parameters()), retain_graph=True, allow_unused=True)
        expected = [torch.zeros(2) if part is None else part.flatten() for part in parts]
        torch.testing.assert_close(matrix[agent], torch.cat(expected), rtol=1e-4, atol=1e-4)


def test_module_without_a_vectorised_backward_pass(caplog: pytest.LogCaptureFixture) -> None:
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            assert gradient.abs().sum().item() >= 0  # a number, which no vectorised tensor has
            return 2 * gradient

    module = torch.nn.Linear(2, 1)
    losses = Twice.apply(module(torch.ones(6, 2))[:, 0])
    matrix = sum_gradients_by_agent(losses, torch.arange(6) % 2, torch.ones(6) > 0, module, 2, num_learners=0)
    assert matrix.tolist() == [[6.0, 6.0, 6.0]] * 2


def test_recurrent_module(ray_session: None) -> None:
    config = tiny_ppo(aggregation="median").rl_module(model_config={"use_lstm": True, "lstm_cell_size": 8, "max_seq_len": 5})
    algorithm = config.build_algo()
    assert algorithm.train()["learners"][MODULE]["agg"]["messages"] == NUM_AGENTS
    algorithm.stop()


def test_agents_without_samples_are_not_taken_for_faulty_ones(group: AggLearnerGroup, sample: Callable[[], list[Any]]) -> None:
    """Three agents by chance in a minibatch, of which a trimmed mean still leaves one out at each end."""
    configure(group, aggregation="trimmed_mean", aggregation_kwargs={"num_byzantine": 1})
    group.config.shard_by_agent = True
    episodes = [episode for episode in sample() if agent_of(episode) < 3]
    on_each(group, lambda learner: spy_on(learner.aggregator(MODULE).exchange))
    group.update(episodes=episodes, **UPDATE)
    seen = on_each(group, lambda learner: learner.aggregator(MODULE).exchange.seen)
    for matrix, present, idle in seen:
        assert (present.tolist(), idle.tolist()) == ([True] * 5, [False] * 3 + [True] * 2)
        expected = matrix[:3].sort(0).values[1]
        torch.testing.assert_close(flat(gradients(group)[0]), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_tune_searches_over_everything_that_has_a_name(ray_session: None, tmp_path: Path) -> None:
    names = ["mean", "r_weighted", *COMBINERS, "fedavg", "fedprox"]
    config = tiny_ppo(aggregation=tune.grid_search(names), train_batch_size_per_learner=50)
    config.num_learners = tune.sample_from(lambda spec: 2 if spec.config.aggregation.startswith("fed") else 0)
    run_config = tune.RunConfig(stop={"training_iteration": 2}, storage_path=str(tmp_path))
    results = tune.Tuner(AggPPO, param_space=config, run_config=run_config).fit()
    assert not results.errors
    assert {result.config["aggregation"] for result in results} == set(names)
    assert {result.metrics["training_iteration"] for result in results} == {2}


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"aggregation": "krum", "aggregation_kwargs": {"num_byzantine": 2}}, "krum with num_byzantine=2 needs more than 5"),
        (
            {"aggregation": "trimmed_mean", "aggregation_kwargs": {"num_byzantine": 3}},
            "needs more than 5 agents, which allow at",
        ),
        ({"aggregation": "medain"}, r"unknown aggregation 'medain' \(did you mean 'median'"),
        ({"aggregation": "torchjd:UpGrad"}, r"unknown TorchJD aggregator 'UpGrad' \(did you mean 'UPGrad'"),
        ({"aggregation": "median", "aggregation_kwargs": {"trim": 1}}, "median has no setting 'trim'; it has none"),
        ({"aggregation": "mixtailor", "aggregation_kwargs": {"combiners": []}}, "combiners must be several names"),
        (
            {"aggregation": "actor_mean"},
            "keeps parameters for each agent, but RLlib's learners have one set for all; it is available in sb3_agg",
        ),
    ],
)
def test_bad_combiners(training: dict[str, Any], message: str, ray_session: None) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_ppo(**training).build_algo()


def test_combiner_for_fewer_runners_in_evaluation() -> None:
    config = tiny_ppo(aggregation="krum", num_envs=1).env_runners(num_env_runners=5)
    config.evaluation(evaluation_interval=1, evaluation_num_env_runners=1)
    config.validate()
    config.get_evaluation_config_object().validate()


def test_gradient_scaler_is_refused() -> None:
    config = tiny_ppo(aggregation="median").experimental(_torch_grad_scaler_class=torch.amp.GradScaler)
    with pytest.raises(ValueError, match="switch the gradient scaler of mixed precision off"):
        config.validate()


def two_players(num_learners: int, num_envs: int = 3) -> AggPPOConfig:
    """A policy that is combined, one that is weighed, and one learner or two."""
    config = (
        tiny_ppo(num_envs, aggregation="median", advantage_norm="agent")
        .environment(TwoPlayers)
        .multi_agent(
            policies={"p_one", "p_ten"},
            policy_mapping_fn=lambda agent, *args, **kwargs: f"p_{agent}",
            algorithm_config_overrides_per_module={"p_ten": {"aggregation": "l_weighted"}},
        )
        .rl_module(model_config=TINY)
        .learners(num_learners=num_learners)
    )
    config.validate()
    return config


def test_a_module_next_to_a_skipped_one_steps_without_the_scale(ray_session: None) -> None:
    """Of mixed precision, whose scaler takes it off the gradients."""
    config = two_players(0).training(aggregation="mean")
    config.experimental(_torch_grad_scaler_class=partial(torch.amp.GradScaler, device="cpu"))
    learner = config.build_learner(spaces=MultiAgentEnvRunner(config=two_players(0)).get_spaces())
    scaler = learner._grad_scalers["p_ten"]
    scale = scaler.scale(torch.ones(())).item()
    before = {name: copy.deepcopy(learner.module[name].state_dict()) for name in ("p_one", "p_ten")}
    learner.unfit_modules = {"p_one"}
    learner.apply_gradients({ref: torch.full_like(own, scale) for ref, own in learner.parameters_by_ref.items()})
    assert all(own.grad.eq(1).all() for own in learner.module["p_ten"].parameters())
    for name, changes in (("p_one", False), ("p_ten", True)):
        after = learner.module[name].state_dict()
        assert any(not torch.equal(value, after[key]) for key, value in before[name].items()) == changes


@pytest.mark.slow
def test_each_module_has_its_own(ray_session: None) -> None:
    runner = MultiAgentEnvRunner(config=two_players(0))
    alone = two_players(0).build_learner(spaces=runner.get_spaces())
    group = two_players(2).build_learner_group(spaces=runner.get_spaces())
    alone.module.set_state(group.get_weights())
    for _ in range(2):  # the second time on weights that have moved
        episodes = runner.sample(num_timesteps=33)
        results = alone.update(episodes=copy.deepcopy(episodes), timesteps={})
        group.update(episodes=episodes, **UPDATE)
        expected = gradients_by_module(alone)
        for found in on_each(group, gradients_by_module):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert "weight_max" in results["p_ten"]["agg"]
    assert "weight_max" not in results["p_one"]["agg"]
    group.shutdown()


def test_each_module_is_checked() -> None:
    config = two_players(0)
    overrides = {"p_one": {"aggregation": "krum", "aggregation_kwargs": {"num_byzantine": 9}}}
    config.multi_agent(algorithm_config_overrides_per_module=overrides)
    with pytest.raises(ValueError, match="in the overrides for module 'p_one': krum with num_byzantine=9 needs more"):
        config.validate()


@pytest.mark.parametrize(
    "training",
    [{"aggregation": "median"}, {"aggregation": "mean", "communication": "lag"}, {"aggregation": "mean", "interval": 2}],
)
def test_a_module_that_is_removed_and_added_again_learns(training: dict[str, Any]) -> None:
    config = two_players(0).training(**training)
    runner = MultiAgentEnvRunner(config=config)
    learner = config.build_learner(spaces=runner.get_spaces())
    learner.update(episodes=runner.sample(num_timesteps=33), timesteps={})
    spec = RLModuleSpec.from_module(learner.module["p_one"])
    learner.remove_module("p_one")
    learner.add_module(module_id="p_one", module_spec=spec)
    before = copy.deepcopy(learner.module["p_one"].state_dict())
    for _ in range(2):
        learner.update(episodes=runner.sample(num_timesteps=33), timesteps={})
    after = learner.module["p_one"].state_dict()
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


def test_a_weighed_module_that_is_added_with_anothers_parameters_is_refused() -> None:
    config = two_players(0)
    config.multi_agent(algorithm_config_overrides_per_module={"p_ten": config.overrides(aggregation="median")})
    runner = MultiAgentEnvRunner(config=config)
    learner = config.build_learner(spaces=runner.get_spaces())
    learner.update(episodes=runner.sample(num_timesteps=33), timesteps={})
    spec = RLModuleSpec.from_module(learner.module["p_one"])
    learner.remove_module("p_one")
    learner.add_module(module_id="p_one", module_spec=spec)
    learner.module["p_one"].pi = learner.module["p_ten"].pi
    with pytest.raises(ValueError, match=r"aggregation='median'.* but 'p_one' shares parameters with 'p_ten'"):
        learner.update(episodes=runner.sample(num_timesteps=33), timesteps={})


class OneHead(MultiRLModule):
    """Two modules that act by the same layer."""

    def setup(self) -> None:
        super().setup()
        self["p_ten"].pi = self["p_one"].pi


def test_modules_that_share_parameters_are_weighed_or_refused() -> None:
    spec = MultiRLModuleSpec(multi_rl_module_class=OneHead, rl_module_specs={"p_one": RLModuleSpec(), "p_ten": RLModuleSpec()})
    runner = MultiAgentEnvRunner(config=two_players(0))
    expected = "aggregation='median'.* each agent's gradient in one module, but 'p_one' shares parameters with 'p_ten'"
    for rule, refused in (("mean", nullcontext()), ("median", pytest.raises(ValueError, match=expected))):
        config = two_players(0).training(aggregation=rule).rl_module(rl_module_spec=spec)
        learner = config.build_learner(spaces=runner.get_spaces())
        with refused:
            learner.update(episodes=runner.sample(num_timesteps=33), timesteps={})
