"""Rules that remember signals, on RLlib's learners."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from rllib_agg import A3CConfig, AggAPPOConfig, AggIMPALAConfig, QMIXConfig
from tests.rllib.groups import MODULE
from tests.rllib.ppo_configs import tiny_ppo


@pytest.mark.parametrize("rule", ["e_weighted", "agreement", "snr_weighted", "guarded"])
def test_a_restored_learner_remembers(rule: str, spaces: dict[str, Any], sample: Callable[[], list[Any]]) -> None:
    config = tiny_ppo(aggregation=rule, vf_clip_param=1e9)
    first, second = (config.copy(copy_frozen=False).build_learner(spaces=spaces) for _ in range(2))
    for _ in range(3):
        first.update(episodes=sample(), num_epochs=70, timesteps={})  # in which the critic learns something
    second.set_state(first.get_state())
    memories = []
    for learner in (first, second):
        learner.update(episodes=sample(), num_epochs=2, timesteps={})
        memories.append(learner.aggregator(MODULE).exchange.state_dict()["memory"])
    signal = "explained_variance" if rule in ("e_weighted", "guarded") else {"snr_weighted": "noise"}.get(rule, rule)
    means = memories[0][signal]["means"]
    assert means.isfinite().all()
    assert means.std() > 0
    torch.testing.assert_close(memories[1][signal]["means"], means, rtol=0, atol=0)
    for name, value in first.module[MODULE].get_state().items():
        assert (second.module[MODULE].get_state()[name] == value).all()


def test_a_batch_without_predictions_is_refused(spaces: dict[str, Any], sample: Callable[[], list[Any]]) -> None:
    learner = tiny_ppo(aggregation="e_weighted").build_learner(spaces=spaces)
    batch = learner._learner_connector(
        rl_module=learner.module, batch={}, episodes=sample(), shared_data={}, metrics=learner.metrics
    )[MODULE]
    del batch["agg_raw_advantages"]
    with pytest.raises(ValueError, match="explained variance needs episodes: a batch does not hold what the critic predicted"):
        learner.aggregator(MODULE).begin_update(batch)


REPORTS = "rule '{}' reads explained_variance, which this algorithm does not report"


@pytest.mark.parametrize("rule", ["e_weighted", "guarded"])
@pytest.mark.parametrize("config_class", [AggIMPALAConfig, AggAPPOConfig])
def test_asynchronous_learners_do_not_report_what_is_explained(config_class: type, rule: str) -> None:
    config = config_class().environment("CartPole-v1").training(aggregation=rule)
    with pytest.raises(ValueError, match=REPORTS.format(rule)):
        config.validate()
    config.training(aggregation="agreement").validate()


def test_agents_that_exchange_alone_are_not_compared() -> None:
    with pytest.raises(ValueError, match="rule 'agreement' reads agreement, by which agents that exchange together are"):
        A3CConfig().environment("CartPole-v1").training(aggregation="agreement").validate()


def test_clients_and_policies_without_critic_do_not_report() -> None:
    with pytest.raises(ValueError, match=REPORTS.format("e_weighted")):
        tiny_ppo(aggregation="e_weighted", payload="parameters").learners(num_learners=3).validate()
    with pytest.raises(ValueError, match=REPORTS.format("e_weighted")):
        tiny_ppo(aggregation="e_weighted", use_critic=False).validate()
    tiny_ppo(aggregation="agreement", payload="parameters").learners(num_learners=3).validate()


def test_teams_compare_networks_and_report_no_explained_variance(ray_session: None) -> None:
    config = QMIXConfig().environment("lbf/Foraging-5x5-2p-3f-v3").env_runners(num_env_runners=0)
    with pytest.raises(ValueError, match="parameter_sharing='e_weighted' reads explained_variance, which agents that merge"):
        config.copy().training(parameter_sharing="e_weighted").validate()
    config.training(parameter_sharing="agreement").validate()
