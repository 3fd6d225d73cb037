"""What the learner sees of rewards, states and time limits, and the warning where values run away."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rllib_agg import QMIXConfig
from rllib_agg.qmix.episodes import TeamEpisodes
from rllib_agg.qmix.normalization import RunningMoments, TeamNormalizer
from rllib_agg.qmix.overestimation import PATIENCE, ValueCheck, best_return
from tests.rllib.qmix_runs import built, tiny
from tests.rllib.test_qmix_targets import SPEC, episodes


def normalizer(**settings: Any) -> TeamNormalizer:
    plain = {"rewards": None, "reward_scale": 1.0, "states": False, "horizon": 1000}
    return TeamNormalizer(SPEC.state_size, **{**plain, **settings})


def steps_of(made: TeamEpisodes) -> np.ndarray:
    return np.concatenate([row[:length] for row, length in zip(made.rewards, made.lengths, strict=True)])


@given(st.lists(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=5), min_size=1, max_size=6))
def test_moments_without_forgetting_are_numpys(groups: list[list[float]]) -> None:
    moments = RunningMoments(1, 10**12)
    for group in groups:
        moments.add(np.array(group)[:, None], 1)
    everything = np.concatenate(groups)
    assert moments.mean == pytest.approx(everything.mean(), rel=1e-6, abs=1e-6)
    if everything.std() > 1e-2:
        assert moments.deviation == pytest.approx(everything.std(), rel=1e-3)


def test_moments_forget_what_is_older_than_their_horizon() -> None:
    moments = RunningMoments(1, 10)
    moments.add(np.full((100, 1), 50.0), 1)
    for _ in range(200):
        moments.add(np.array([[1.0], [3.0]]), 1)
    assert moments.mean == pytest.approx(2, abs=1e-3)
    assert moments.deviation == pytest.approx(1, abs=1e-2)


def test_numbers_that_do_not_differ_have_deviation_1() -> None:
    moments = RunningMoments(2, 10)
    assert moments.deviation.tolist() == [1, 1]
    moments.add(np.array([[1e6, 0.0]] * 7), 7)
    assert moments.deviation.tolist() == [1, 1]


def test_rewards_by_their_deviation() -> None:
    made = episodes()
    for name, shift in (("scale", 0.0), ("standardize", steps_of(made).mean())):
        own = normalizer(rewards=name, reward_scale=3.0, horizon=10**9)
        own.observe(made)
        wanted = 3 * (made.rewards - shift) / steps_of(made).std()
        np.testing.assert_allclose(own.apply(made).rewards, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(normalizer(reward_scale=10.0).apply(made).rewards, 10 * made.rewards)


def test_states_are_standardised_and_bounded() -> None:
    made = episodes()
    own = normalizer(states=True, horizon=10**9)
    own.observe(made)
    rows = np.concatenate([row[: length + 1] for row, length in zip(made.states, made.lengths, strict=True)])
    wanted = (made.states - rows.mean(0)) / rows.std(0)
    np.testing.assert_allclose(own.apply(made).states, wanted, rtol=1e-4, atol=1e-4)
    made.states[0, 0, 0] = 1e9
    assert own.apply(made).states[0, 0, 0] == 10
    assert normalizer().apply(made).states is made.states


@pytest.mark.parametrize("setting", [{"reward_normalization": "scale"}, {"reward_scale": 10.0}, {"normalize_states": True}])
def test_the_learner_sees_what_is_set(setting: dict[str, Any], ray_session: None) -> None:
    plain, changed = built(tiny(), 1), built(tiny(**setting), 1)
    rewards = [each.server._as_learned(each.server.replay.stored).rewards for each in (plain, changed)]
    states = [each.server._as_learned(each.server.replay.stored).states for each in (plain, changed)]
    assert (rewards[0] == rewards[1]).all() == ("normalize_states" in setting)
    assert (states[0] == states[1]).all() == ("normalize_states" not in setting)
    plain.stop()
    changed.stop()


@pytest.mark.parametrize(
    ("setting", "env", "ended"),
    [
        (None, "lbf/Foraging-8x8-2p-2f-coop-v3", True),
        (None, "vmas/balance", False),
        pytest.param(True, "lbf/Foraging-8x8-2p-2f-coop-v3", False, marks=pytest.mark.slow),
        pytest.param(False, "vmas/balance", True, marks=pytest.mark.slow),
    ],
)
def test_a_time_limit_counts_as_the_environment_says(setting: bool | None, env: str, ended: bool, ray_session: None) -> None:
    config = tiny(env, bootstrap_at_time_limit=setting, train_batch_size_per_learner=8, rollouts_per_iteration=1)
    algorithm = built(config, 1)
    stored = algorithm.server.replay.stored
    cut_off = ~stored.terminated
    assert cut_off.any()
    assert (algorithm.server._as_learned(stored).terminated[cut_off] == ended).all()
    algorithm.stop()


def test_the_best_return_from_any_step_on() -> None:
    made = episodes()
    wanted = []
    for rewards, length, ended in zip(made.rewards, made.lengths, made.terminated, strict=True):
        after = 0.0 if ended else rewards[:length].mean() / (1 - 0.9)
        for reward in rewards[:length][::-1]:
            after = reward + 0.9 * after
            wanted.append(after)
    assert best_return(made.rewards, made.lengths, made.terminated, 0.9) == pytest.approx(max(wanted), rel=1e-6)


def test_values_that_run_away_warn_once() -> None:
    calls = []
    check = ValueCheck(lambda: calls.append(0) or 2.0)  # type: ignore[func-returns-value]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for value in (1.0, 2.0, *[3.0] * (PATIENCE - 1), 1.0, *[3.0] * (PATIENCE - 1)):
            check.check(value)
    with pytest.warns(UserWarning, match="the mean of the values, 3, has been above the best return .* 2, for 10 rounds"):
        check.check(3.0)
    restored = ValueCheck(lambda: 2.0)
    restored.load_state_dict(check.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2 * PATIENCE):
            restored.check(3.0)


def test_presets() -> None:
    config = QMIXConfig().preset("pymarl2")
    assert (config.lr, config.td_lambda, config.reward_normalization) == (1e-3, 0.6, None)
    assert config.model_config["mixer_init_scale"] == 1
    assert QMIXConfig().preset("epymarl").reward_normalization == "standardize"
    paper, table = QMIXConfig().preset("paper"), QMIXConfig().faithful()
    assert paper.to_dict() == table.to_dict()
    with pytest.raises(ValueError, match=r"unknown preset 'pymarl3'.* choose from epymarl, paper, pymarl2"):
        QMIXConfig().preset("pymarl3")
