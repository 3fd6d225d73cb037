"""What existing scripts do around the one line that changes: it works as under the stock class, or one line says why not."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_agg import AggA2C, AggPPO
from tests.sb3.worlds import Walk, cartpoles

SETTINGS: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu"}


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


@pytest.mark.parametrize("kind", [AggPPO, AggA2C])
@pytest.mark.parametrize("env", ["CartPole-v1", "one of many"])
def test_one_environment_is_told_of_once(env: Any, kind: Any) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = kind("MlpPolicy", env if "-" in env else cartpoles(1), aggregation="r_weighted", n_steps=32, device="cpu")
        for _ in range(2):
            model.learn(64)
    (told,) = [str(warning.message) for warning in caught if "one agent" in str(warning.message)]
    assert "aggregation has no effect" in told
    assert "make_vec_env(..., n_envs=8)" in told


def test_a_file_acts_in_one_environment_without_a_warning(tmp_path: Any) -> None:
    AggPPO("MlpPolicy", cartpoles(4), **SETTINGS).learn(64).save(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = AggPPO.load(tmp_path / "model", env=cartpoles(1))
        model.predict(model.env.reset())
    with pytest.warns(UserWarning, match="one agent"):
        model.learn(16)
