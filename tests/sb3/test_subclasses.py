"""Classes of a user's own around an algorithm: their methods pass on to the aggregation, or the class is not made."""

from __future__ import annotations

import functools
import inspect
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_agg import AggA2C, AggDQN, AggMaskablePPO, AggPPO, AggRecurrentPPO, AggregationMixin
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


def through(method: Any) -> Callable[..., Any]:
    """Calls a stock method by its class, past ours."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return method(self, *args, **kwargs)

    call.__code__ = call.__code__.replace(co_names=(*call.__code__.co_names, method.__name__))
    return call


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


@pytest.mark.parametrize("method", [PPO.save, PPO.get_parameters, PPO.set_parameters], ids=lambda item: item.__name__)
@pytest.mark.parametrize("algorithm", [AggPPO, AggDQN])
def test_a_method_pasted_over_what_files_hold_is_refused_when_the_class_is_made(algorithm: Any, method: Any) -> None:
    with pytest.raises(TypeError, match=rf"My.{method.__name__}\(\).*so a file would lack what the agents remember"):
        type("My", (algorithm,), {method.__name__: pasted(method)})


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


def test_going_round_learn_as_well_is_refused_at_the_next_rollout() -> None:
    kind = type("Bypassing", (Bypassing,), {"learn": through(PPO.learn)})
    with pytest.raises(RuntimeError, match=r"Bypassing.train\(\) did not call AggregationMixin.train\(\)"):
        kind("MlpPolicy", cartpoles(AGENTS), **SETTINGS).learn(2 * ROLLOUT)


def test_updates_of_ones_own_after_the_aggregated_are_no_bypass() -> None:
    class Twice(AggPPO):
        def train(self) -> None:
            super().train()
            self._n_updates += 1

    Twice("MlpPolicy", cartpoles(AGENTS), **SETTINGS).learn(3 * ROLLOUT)


def test_a_method_replaced_on_the_model_is_refused() -> None:
    model = AggPPO("MlpPolicy", cartpoles(AGENTS), **SETTINGS)
    model.train = functools.partial(PPO.train, model)
    with pytest.raises(RuntimeError, match="did not call"):
        model.learn(ROLLOUT)


PAST = [("collect_rollouts", "r_weighted"), ("collect_rollouts", "fedavg"), ("_update_info_buffer", "r_weighted")]


@pytest.mark.parametrize(("name", "aggregation"), PAST)
@pytest.mark.parametrize("on_the_model", [False, True])
def test_a_rollout_that_goes_round_the_aggregation_is_refused(name: str, aggregation: str, on_the_model: bool) -> None:
    method = getattr(OnPolicyAlgorithm, name)
    kind = AggPPO if on_the_model else type("Past", (AggPPO,), {name: through(method)})
    model = kind("MlpPolicy", cartpoles(AGENTS), aggregation=aggregation, **SETTINGS)
    if on_the_model:
        setattr(model, name, functools.partial(method, model))
    with pytest.raises(RuntimeError, match=rf"\.{name}\(\) did not call AggregationMixin\.{name}\(\)"):
        model.learn(ROLLOUT)


@pytest.mark.parametrize(("name", "aggregation"), [("collect_rollouts", "median"), ("_update_info_buffer", "fedavg")])
def test_a_rollout_may_go_round_what_the_rule_does_not_read(name: str, aggregation: str) -> None:
    kind = type("Past", (AggPPO,), {name: through(getattr(OnPolicyAlgorithm, name))})
    assert kind("MlpPolicy", cartpoles(AGENTS), aggregation=aggregation, **SETTINGS).learn(ROLLOUT).ledger.messages


def test_a_set_up_that_goes_round_the_aggregation_is_refused() -> None:
    kind = type("Past", (AggPPO,), {"_setup_model": through(PPO._setup_model)})
    with pytest.raises(TypeError, match=r"Past\._setup_model\(\) went round the aggregation's; call super"):
        kind("MlpPolicy", cartpoles(AGENTS), **SETTINGS)


def test_what_a_subclass_excludes_from_files_is_excluded_besides_ours(tmp_path: Path) -> None:
    def excluded(self: Any) -> list[str]:
        return [*BaseAlgorithm._excluded_save_params(self), "rollout_buffer", "tag"]

    kind = type("Own", (AggPPO,), {"_excluded_save_params": excluded})
    model = kind("MlpPolicy", cartpoles(AGENTS), communication="lag", **SETTINGS).learn(ROLLOUT)
    model.tag = 3
    model.save(tmp_path / "model")
    data = zipfile.ZipFile(tmp_path / "model.zip").read("data")
    assert not any(word in data for word in (b"rl_agg", b"sb3_agg", b'"tag"'))
    kind.load(tmp_path / "model", env=cartpoles(AGENTS)).learn(ROLLOUT)


def test_rollouts_collected_by_hand_need_no_train() -> None:
    model = AggPPO("MlpPolicy", cartpoles(AGENTS), **SETTINGS)
    _, callback = model._setup_learn(ROLLOUT)
    for _ in range(2):
        assert model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    model.train()
    assert model.ledger.messages


class WithPolicy(AggPPO):
    def __init__(self, env: Any, width: int = 8, **kwargs: Any) -> None:
        super().__init__("MlpPolicy", env, policy_kwargs={"net_arch": [width]}, **kwargs)


def test_a_signature_has_what_the_algorithm_takes() -> None:
    """Scripts filter their settings by it."""
    stock, ours = (list(inspect.signature(kind).parameters) for kind in (PPO, AggPPO))
    assert ours[: len(stock)] == stock
    assert {"aggregation", "compression", "closed_form"} <= set(ours[len(stock) :])
    own = inspect.signature(WithPolicy).parameters
    assert list(own)[:2] == ["env", "width"]
    assert "policy" not in own
    assert {"aggregation", "n_steps"} <= own.keys()
