"""EnvPool's environments under Stable-Baselines3."""

import sys

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from sb3_agg import AggPPO, EnvPoolVecEnv

pytest.importorskip("envpool", reason="the extra envpool is not installed")


def test_every_transition_is_gymnasiums():
    """Each of 2000 steps leads where Gymnasium's CartPole leads from the same state, across the ends of episodes too."""
    num_agents, rng = 4, np.random.default_rng(0)
    env, reference = EnvPoolVecEnv("CartPole-v1", num_agents, seed=0), gym.make("CartPole-v1").unwrapped
    reference.reset(seed=0)
    before, returns = env.reset(), np.zeros(num_agents)
    num_over = 0
    for _ in range(500):
        actions = rng.integers(2, size=num_agents)
        after, rewards, over, infos = env.step(actions)
        returns += rewards
        for agent in range(num_agents):
            reference.state, reference.steps_beyond_terminated = before[agent].astype(np.float64), None
            expected, _, terminated, _, _ = reference.step(int(actions[agent]))
            reached = infos[agent]["terminal_observation"] if over[agent] else after[agent]
            np.testing.assert_allclose(reached, expected, atol=1e-5)
            assert bool(over[agent]) == terminated
            if over[agent]:
                assert infos[agent]["episode"]["r"] == returns[agent] == infos[agent]["episode"]["l"]
                assert infos[agent]["TimeLimit.truncated"] is False
                assert np.abs(after[agent]).max() <= 0.05  # where CartPole begins
                returns[agent] = 0
                num_over += 1
        before = after
    assert num_over > 50


def test_truncation_is_reported():
    env = EnvPoolVecEnv("CartPole-v1", 2, seed=0, env_kwargs={"max_episode_steps": 5})
    env.reset()
    for _ in range(4):
        assert not env.step(np.array([0, 1]))[2].any()
    _, _, over, infos = env.step(np.array([0, 1]))
    assert over.all()
    assert [info["TimeLimit.truncated"] for info in infos] == [True, True]


def play(env: EnvPoolVecEnv, num_steps: int = 50) -> np.ndarray:
    """Observations under the same actions ``[T, A, d]``."""
    seen = [env.reset()]
    rng = np.random.default_rng(0)
    actions = rng.integers(2, size=num_steps)
    return np.array(seen + [env.step(np.full(env.num_envs, action))[0] for action in actions])


def test_an_agents_seed_is_the_first_and_its_number():
    one, other = play(EnvPoolVecEnv("CartPole-v1", 2, seed=3)), play(EnvPoolVecEnv("CartPole-v1", 2, seed=4))
    np.testing.assert_array_equal(one[:, 1], other[:, 0])
    assert (one[:, 0] != one[:, 1]).any()


def test_seeding_takes_effect_at_the_next_reset_and_once():
    env = EnvPoolVecEnv("CartPole-v1", 2)
    env.seed(3)
    first, second = play(env), play(env)
    np.testing.assert_array_equal(first, play(EnvPoolVecEnv("CartPole-v1", 2, seed=3)))
    assert (first[0] != second[0]).any()


@pytest.mark.parametrize("seed", [None, 2**31 - 2, 2**32 - 1])
def test_any_seed_that_sb3_takes(seed):
    env = EnvPoolVecEnv("CartPole-v1", 3)
    for _ in range(5):
        env.seed(seed)
        assert len(np.unique(env.reset()[:, 0])) == 3


@pytest.mark.parametrize("seed", [1.5, True, -1])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(ValueError, match=f"seed must be an integer >= 0, got {seed}"):
        EnvPoolVecEnv("CartPole-v1", 2, seed=seed)


def test_options_are_refused():
    env = EnvPoolVecEnv("CartPole-v1", 2)
    env.set_options({"low": -1})
    with pytest.raises(ValueError, match="take no options"):
        env.reset()


def test_training_is_reproducible_and_knows_every_return():
    def train() -> AggPPO:
        env = EnvPoolVecEnv("LunarLanderContinuous-v3", 4)
        model = AggPPO(
            "MlpPolicy", env, aggregation="r_weighted", n_steps=128, min_episodes=1, batch_size=None, n_epochs=2, seed=1
        )
        return model.learn(2000)

    one, other = train(), train()
    for own, same in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
        np.testing.assert_array_equal(own.detach().numpy(), same.detach().numpy())
    assert len(one.ep_info_buffer) >= 4
    mean, _ = evaluate_policy(one, EnvPoolVecEnv("LunarLanderContinuous-v3", 4, seed=0), n_eval_episodes=4)
    assert np.isfinite(mean)


def test_spaces_are_open_where_envpool_leaves_out_half_of_them():
    space = EnvPoolVecEnv("LunarLanderContinuous-v3", 1).observation_space
    assert space.contains(np.full(8, -1.0, dtype=np.float32))
    PPO("MlpPolicy", EnvPoolVecEnv("HalfCheetah-v5", 2), n_steps=8, batch_size=16, n_epochs=1).learn(16)


@pytest.mark.parametrize(
    ("env_id", "num_agents", "settings", "words"),
    [
        ("LunarLanderContinous-v3", 2, {}, ["'LunarLanderContinous-v3'", "did you mean 'LunarLanderContinuous-v3'"]),
        ("CartPole-v1", 0, {}, ["n_envs", "0"]),
        ("CartPole-v1", 2, {"num_envs": 3}, ["'num_envs' is not a setting"]),
        ("CartPole-v1", 2, {"gravity": 3}, ["CartPole-v1", "gravity"]),
        ("CartPole-v1", 2, {"render_mode": "rgb_array"}, ["'render_mode' is not supported"]),
    ],
)
def test_bad_input_is_refused_with_its_name(env_id, num_agents, settings, words):
    with pytest.raises(ValueError, match=words[0]) as caught:
        EnvPoolVecEnv(env_id, num_agents, env_kwargs=settings)
    assert all(word in str(caught.value) for word in words)


def test_python_cannot_reach_inside():
    env = EnvPoolVecEnv("CartPole-v1", 2)
    assert env.env_is_wrapped(Monitor) == [True, True]
    assert env.env_is_wrapped(gym.Wrapper, [0]) == [False]
    for reach in (lambda: env.get_attr("state"), lambda: env.set_attr("state", 0), lambda: env.env_method("render")):
        with pytest.raises(AttributeError, match="in Python"):
            reach()


def test_without_envpool_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(ImportError, match=r"pip install 'rl-agg\[envpool\]'"):
        EnvPoolVecEnv("CartPole-v1", 2)
