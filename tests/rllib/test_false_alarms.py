"""RLlib's messages about what it does by itself are not printed; all others are."""

from __future__ import annotations

import logging

import gymnasium as gym
from ray.rllib.core.rl_module import rl_module

import rllib_agg.aggregation.false_alarms as false_alarms


def test_only_false_alarms_are_left_out(monkeypatch) -> None:
    logger = logging.getLogger(rl_module.deprecation_warning.__module__)
    monkeypatch.setattr(logger, "isEnabledFor", lambda level: True)  # whatever an earlier test has set
    monkeypatch.setattr(logger, "disabled", False)
    printed: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: printed.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    rl_module.deprecation_warning(old=false_alarms.OWN_DOING, new="another", error=False)
    rl_module.deprecation_warning(old="sgd_minibatch_size", new="minibatch_size", error=False)
    logger.removeHandler(handler)
    assert [message.split("`")[1] for message in printed] == ["sgd_minibatch_size"]


def test_it_is_what_rllib_prints_for_every_module(monkeypatch) -> None:
    """If Ray stops doing so, the filter is no longer needed."""
    seen: list[str] = []
    deprecated = rl_module.RLModuleConfig.__init__.__globals__
    monkeypatch.setitem(deprecated, "log_once", lambda key: True)
    monkeypatch.setitem(deprecated, "deprecation_warning", lambda **said: seen.append(said["old"]))
    space = gym.spaces.Discrete(2)
    rl_module.RLModuleConfig(observation_space=space, action_space=space)
    assert seen == [false_alarms.OWN_DOING]
