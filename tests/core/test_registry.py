"""Members that users add to an axis."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

import rl_agg
from rl_agg import Codec, Combiner, Exchange, Gate, Payload, Schedule, Scheme, Signals, registered
from rl_agg.codecs import Encoded
from rl_agg.gates import Offer, VectorGate
from rl_agg.payloads import Gradients, Parameters
from rl_agg.registry import _REGISTRIES


class FirstAgent(VectorGate):
    def decide(self, offer: Offer) -> torch.Tensor:
        return torch.arange(self.num_agents) == 0


class Signs(Codec):
    def __call__(self, rows: torch.Tensor) -> Encoded:
        return Encoded(rows.sign(), torch.full((len(rows),), rows.shape[1]))


class Largest(Combiner):
    def merge(self, gradients: torch.Tensor, *, num_masked: int, step: int) -> torch.Tensor:
        return gradients.max(0).values


class Doubled(Gradients):
    def outgoing(self, vectors: torch.Tensor, reference: torch.Tensor | None) -> torch.Tensor:
        return 2 * vectors


class Thirds(Schedule):
    def due(self, num_steps: int, since_last: int) -> bool:
        return num_steps % 3 == 0


def first_only(signals: Signals) -> list[float]:
    return [1.0] + [0.0] * (signals.num_agents - 1)


REGISTER: dict[str, tuple[Callable[..., None], Any, Any]] = {
    "gate": (rl_agg.register_gate, FirstAgent, {**rl_agg.GATES}),
    "codec": (rl_agg.register_codec, Signs, {**rl_agg.CODECS}),
    "rule": (rl_agg.register_rule, first_only, {**rl_agg.RULES}),
    "combiner": (rl_agg.register_combiner, Largest, {**rl_agg.COMBINERS}),
    "payload": (rl_agg.register_payload, Doubled, {**rl_agg.PAYLOADS}),
    "schedule": (rl_agg.register_schedule, Thirds, {**rl_agg.SCHEDULES}),
}


def test_members_of_ones_own_are_used_by_name() -> None:
    for axis, (register, member, _) in REGISTER.items():
        register(f"my_{axis}", member)
        register(f"my_{axis}", member)  # again, as when a notebook's cell is run twice
    signals = Signals(returns=[1.0, 2.0])
    rows = torch.tensor([[1.0, -4.0], [3.0, 2.0]])
    weighed = Exchange(Scheme(rule="my_rule", rule_kwargs={"normalize": True}), 2)
    assert weighed.merge(rows.clone(), signals).vector.tolist() == [1.0, -4.0]
    one = Exchange(Scheme("my_gate", "my_codec", "my_combiner", "my_payload", "my_schedule", error_feedback=False), 2)
    one.check()
    assert not one.weights_only
    assert one.scheme.described == {axis: f"my_{axis}" for axis in ("gate", "codec", "payload", "schedule")} | {
        "rule": "my_combiner",
        "broadcast": "identity",
    }
    outcomes = [one.step(rows, signals) for _ in range(3)]
    assert outcomes[:2] == [None, None]
    assert outcomes[2] is not None
    assert outcomes[2].sends.tolist() == [True, False]
    assert outcomes[2].vector.tolist() == [1.0, 0.0]  # the larger of (1, -1) and of what agent 1 has never sent
    assert Exchange(Scheme(payload="my_payload"), 2).merge(rows, signals).vector.tolist() == [4.0, -2.0]
    assert not Exchange(Scheme(payload="my_payload"), 2).weights_only


@pytest.mark.parametrize("axis", REGISTER)
def test_names_are_identifiers_and_not_taken(axis: str) -> None:
    register, member, members = REGISTER[axis]
    for name in ("no name", "1st", "", "a-b", 3, None):
        with pytest.raises(ValueError, match=f"the name of a {axis} must be an identifier, got"):
            register(name, member)
    for name in members:
        with pytest.raises(ValueError, match=f"{axis} {name!r} comes with rl-agg; choose another name"):
            register(name, member)
    assert axis not in registered()


@pytest.mark.parametrize(
    ("axis", "taken"), [("rule", "krum"), ("rule", "fedavg"), ("combiner", "mean"), ("combiner", "rs_pps")]
)
def test_names_of_an_aggregation_are_unique_among_rules_combiners_and_local_schemes(axis: str, taken: str) -> None:
    register, member, _ = REGISTER[axis]
    with pytest.raises(ValueError, match=f"{taken!r} comes with rl-agg; choose another name"):
        register(taken, member)
    register("mine", member)
    other, its, _ = REGISTER["combiner" if axis == "rule" else "rule"]
    with pytest.raises(ValueError, match=f"{axis} 'mine' was registered before; choose another name"):
        other("mine", its)


@pytest.mark.parametrize(
    ("axis", "member", "message"),
    [
        ("gate", 3, "a gate must be a concrete subclass of rl_agg.Gate, got 3"),
        ("gate", VectorGate, "a gate must be a concrete subclass of rl_agg.Gate, got <class"),
        ("gate", FirstAgent(2), "a gate must be a concrete subclass of rl_agg.Gate, got <tests"),
        ("gate", Gate, "a gate must have payloads, as VectorGate, ScoreGate and TransitionGate of rl_agg.gates have"),
        ("codec", Largest, "a codec must be a concrete subclass of rl_agg.Codec, got"),
        ("codec", Codec, "a codec must be a concrete subclass of rl_agg.Codec, got"),
        ("rule", "mean", "a rule must be a function of signals, got 'mean'"),
        ("rule", Largest, "a rule must be a function of signals, got <class"),
        ("combiner", Combiner, "a combiner must be a concrete subclass of rl_agg.Combiner, got"),
        ("combiner", first_only, "a combiner must be a concrete subclass of rl_agg.Combiner, got"),
        ("payload", Gradients(), "a payload must be a concrete subclass of rl_agg.Payload, got"),
        ("payload", type("Odd", (Payload,), {}), "unknown content of a payload None; choose from gradients"),
        ("payload", type("Odd", (Payload,), {"content": "gradient"}), "unknown content of a payload 'gradient' .did you mean"),
        ("schedule", Schedule, "a schedule must be a concrete subclass of rl_agg.Schedule, got"),
    ],
)
def test_members_of_the_wrong_kind(axis: str, member: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        REGISTER[axis][0]("mine", member)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"needs": ["return"]}, "unknown signal 'return' .did you mean 'returns'"),
        ({"payloads": ["score"]}, "unknown content of a payload 'score' .did you mean 'scores'"),
    ],
)
def test_what_a_rule_says_of_itself_is_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rl_agg.register_rule("mine", first_only, **settings)


def test_a_rule_is_charged_for_what_it_reads_and_weighs_what_it_may() -> None:
    rl_agg.register_rule("mine", first_only, needs=["returns"], payloads=["gradients"])
    one = Exchange(Scheme("lag", rule="mine"), 2)
    one.merge(torch.ones(2, 5), Signals(returns=[1.0, 2.0]))
    assert one.ledger.bytes_of("scalars") == 2 * 4
    with pytest.raises(ValueError, match="rule 'mine' merges gradients, but payload 'parameters' exchanges parameters"):
        Scheme(rule="mine", payload="parameters")
    rl_agg.register_rule("wrong", lambda signals: [1.0])
    with pytest.raises(ValueError, match="wrong must return one weight for each agent"):
        Scheme(rule="wrong")


def test_there_is_one_registry_in_a_process() -> None:
    for registry in _REGISTRIES.values():
        assert pickle.loads(pickle.dumps(registry)) is registry
        assert copy.deepcopy(registry) is registry


def test_members_are_carried_to_another_process() -> None:
    for axis, (register, member, _) in REGISTER.items():
        if axis not in ("rule", "combiner"):
            register(f"my_{axis}", member)
    rl_agg.register_rule("my_rule", torch.nn.functional.relu)  # importable there
    members = registered()
    assert {axis: list(added) for axis, added in members.items()} == {
        axis: [f"my_{axis}"] for axis in ("rule", "gate", "codec", "payload", "schedule")
    }
    script = """
import pickle, sys
import rl_agg
assert "my_gate" not in rl_agg.GATES
rl_agg.register_all(pickle.load(sys.stdin.buffer))
print(sorted(f"{axis}:{name}" for axis, added in rl_agg.registered().items() for name in added))
print(rl_agg.Scheme("my_gate", "my_codec", payload="my_payload", schedule="my_schedule").described)
"""
    run = subprocess.run([sys.executable, "-c", script], input=pickle.dumps(members), capture_output=True, check=True)
    names, described = run.stdout.decode().splitlines()
    assert names == str(sorted(f"{axis}:my_{axis}" for axis in members))
    assert "'gate': 'my_gate'" in described


def test_a_payload_of_ones_own_may_be_parameters() -> None:
    class Rounded(Parameters):
        def incoming(self, merged: torch.Tensor, reference: torch.Tensor | None) -> torch.Tensor:
            return merged.round()

    one = Exchange(Scheme(payload=Rounded()), 2)
    assert one.merge(torch.tensor([[1.0], [1.8]]), Signals(returns=[0.0, 0.0])).vector.tolist() == [1.0]
