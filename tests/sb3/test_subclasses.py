"""Classes of a user's own around an algorithm: their methods pass on to the aggregation, or the class is not made."""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_agg import AggA2C, AggMaskablePPO, AggPPO, AggRecurrentPPO, AggregationMixin
from tests.sb3.flattened import parameters
from tests.sb3.worlds import cartpoles

SETTINGS: dict[str, Any] = {"n_steps": 16, "batch_size": 32, "n_epochs": 1, "seed": 0, "device": "cpu"}
AGENTS = 4
ROLLOUT = AGENTS * 16


def pasted(method: Any) -> Callable[..., Any]:
    """A copy of a method's text, as users paste it into a class."""
    namespace = dict(vars(inspect.getmodule(method)))
    exec(textwrap.dedent(inspect.getsource(method)), namespace)
    return namespace[method.__name__]


COPIES: list[tuple[Any, Any]] = [
    (AggPPO, PPO.train),
    (AggA2C, A2C.train),
    (AggMaskablePPO, MaskablePPO.train),
    (AggRecurrentPPO, RecurrentPPO.train),
    (AggPPO, OnPolicyAlgorithm.collect_rollouts),
    (AggMaskablePPO, MaskablePPO.collect_rollouts),
    (AggPPO, OnPolicyAlgorithm._update_info_buffer),
]


@pytest.mark.parametrize(("algorithm", "method"), COPIES, ids=lambda item: item.__qualname__)
def test_a_method_pasted_over_the_aggregation_is_refused_when_the_class_is_made(algorithm: Any, method: Any) -> None:
    name, stock = method.__name__, algorithm.__name__.removeprefix("Agg")
    with pytest.raises(TypeError, match=rf"My.{name}\(\) would be called in place of AggregationMixin.{name}\(\)") as caught:
        type("My", (algorithm,), {name: pasted(method)})
    assert f"class My(AggregationMixin, My{stock})" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pasted_loop_with_a_learn_that_calls_it_is_refused_too() -> None:
    def learn(self: Any, total_timesteps: int) -> None:
        self.train()

    with pytest.raises(TypeError, match="nothing would be aggregated"):
        type("My", (AggPPO,), {"train": pasted(PPO.train), "learn": learn})


@pytest.mark.parametrize("method", [PPO.train, OnPolicyAlgorithm.collect_rollouts])
@pytest.mark.parametrize("aggregation", ["r_weighted", "median", "fedavg"])
def test_a_method_pasted_into_the_algorithm_is_aggregated(method: Any, aggregation: str) -> None:
    """What the error advises."""
    own = type("MyPPO", (PPO,), {method.__name__: pasted(method)})
    kind = type("My", (AggregationMixin, own), {})
    found, expected = (
        cls("MlpPolicy", cartpoles(AGENTS), aggregation=aggregation, closed_form=False, **SETTINGS).learn(2 * ROLLOUT)
        for cls in (kind, AggPPO)
    )
    assert torch.equal(parameters(found), parameters(expected))
    assert found.ledger.messages == expected.ledger.messages > 0


class Copied(PPO):
    train = pasted(PPO.train)


@pytest.mark.parametrize(
    "bases",
    [(PPO, AggregationMixin), (Copied, AggregationMixin), (Copied, AggPPO)],
    ids=lambda pair: f"{pair[0].__name__}-{pair[1].__name__}",
)
def test_a_mixin_that_comes_too_late_is_refused(bases: Any) -> None:
    with pytest.raises(TypeError, match=rf"name the mixin first: class My\(AggregationMixin, {bases[0].__name__}\)"):
        type("My", bases, {})


# What passes on ---------------------------------------------------------------------------------------------------------


def timed(method: Callable[..., Any]) -> Callable[..., Any]:
    def around(*args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs)

    return around


class Direct(AggPPO):
    def train(self) -> None:
        super().train()


class ByName(AggPPO):
    def train(self) -> None:
        AggPPO.train(self)


class ByHelper(AggPPO):
    def train(self) -> None:
        self.update()

    def update(self) -> None:
        super().train()


class Inside(AggPPO):
    def train(self) -> None:
        def run() -> None:
            super(Inside, self).train()

        run()


class Timed(AggPPO):
    @timed
    def train(self) -> None:
        super().train()


class Cached(AggPPO):
    @functools.wraps(AggPPO.train)
    @timed
    def train(self) -> None:
        super().train()


class Around:
    """A mixin of the user's, before ours."""

    def train(self) -> None:
        super().train()  # type: ignore[misc]

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> Any:
        return super().collect_rollouts(*args, **kwargs)  # type: ignore[misc]


class Mixed(Around, AggPPO):
    pass


@pytest.mark.parametrize("kind", [Direct, ByName, ByHelper, Inside, Timed, Cached, Mixed])
def test_a_method_that_passes_on_is_aggregated(kind: Any) -> None:
    found, expected = (
        cls("MlpPolicy", cartpoles(AGENTS), aggregation="r_weighted", **SETTINGS).learn(ROLLOUT) for cls in (kind, AggPPO)
    )
    assert torch.equal(parameters(found), parameters(expected))


# What only shows when it runs -------------------------------------------------------------------------------------------


class Bypassing(AggPPO):
    def train(self) -> None:
        PPO.train(self)


@pytest.mark.parametrize("rollouts", [1, 3])
def test_a_train_that_goes_round_the_aggregation_is_refused(rollouts: int) -> None:
    with pytest.raises(RuntimeError, match=r"Bypassing.train\(\) did not call AggregationMixin.train\(\)"):
        Bypassing("MlpPolicy", cartpoles(AGENTS), **SETTINGS).learn(rollouts * ROLLOUT)


def test_a_method_replaced_on_the_model_is_refused() -> None:
    model = AggPPO("MlpPolicy", cartpoles(AGENTS), **SETTINGS)
    model.train = functools.partial(PPO.train, model)
    with pytest.raises(RuntimeError, match="did not call"):
        model.learn(ROLLOUT)


def test_rollouts_collected_by_hand_need_no_train() -> None:
    model = AggPPO("MlpPolicy", cartpoles(AGENTS), **SETTINGS)
    _, callback = model._setup_learn(ROLLOUT)
    for _ in range(2):
        assert model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    model.train()
    assert model.ledger.messages
