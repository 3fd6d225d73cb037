"""Who speaks: LAG against plain loops."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl_agg.gates import GATES, LazyGate, make_gate
from tests.core.gradients import normal

AGENTS, PARAMETERS = 4, 6


class LoopLag:
    """Equation 7a of Chen et al. (2018) with plain numbers, one agent after the other; ``scale`` as an optimiser's."""

    def __init__(self, xi: float, window: int) -> None:
        self.xi, self.window = xi, window
        self.held: dict[int, list[float]] = {}
        self.steps: list[list[float]] = []

    def __call__(self, gradients: list[list[float]], present: list[bool], scale: list[float]) -> list[int]:
        def square(numbers: Iterable[float]) -> float:
            return sum((factor * number) ** 2 for factor, number in zip(scale, numbers, strict=True))

        bound = self.xi * sum(square(step) for step in self.steps[-self.window :])
        sent = []
        for agent, gradient in enumerate(gradients):
            if not present[agent]:
                continue
            held = self.held.get(agent)
            if held is not None and square(new - old for new, old in zip(gradient, held, strict=True)) < bound:
                continue
            self.held[agent] = gradient
            sent.append(agent)
        return sent


@pytest.mark.parametrize("xi", [0.0, 0.05, 0.1, 0.5, 3])
@pytest.mark.parametrize("window", [1, 3, 10])
@pytest.mark.parametrize("scaled", [False, True])
def test_lag_is_the_papers_bound(xi: float, window: int, scaled: bool) -> None:
    gate, loop = LazyGate(AGENTS, xi=xi, window=window), LoopLag(xi, window)
    generator = np.random.default_rng(window)
    drift, spoke = generator.normal(size=(AGENTS, PARAMETERS)), []
    for step in range(40):
        drift += 0.3 * generator.normal(size=(AGENTS, PARAMETERS)) * generator.random((AGENTS, 1))
        present = generator.random(AGENTS) < (0.8 if step else 0.6)
        gradients = torch.as_tensor(drift, dtype=torch.float64)
        scale = np.exp(generator.normal(size=PARAMETERS)) if scaled else np.ones(PARAMETERS)
        sends, held = gate(gradients.clone(), torch.as_tensor(present), torch.as_tensor(scale) if scaled else None)
        spoke.append(loop(drift.tolist(), present.tolist(), scale.tolist()))
        assert sends.nonzero().flatten().tolist() == spoke[-1]
        for agent, gradient in loop.held.items():
            np.testing.assert_allclose(held[agent], gradient)
        merged = held[torch.as_tensor(present)].sum(0) / AGENTS
        gate.note_step(merged)
        loop.steps.append(merged.tolist())
    silent = sum(len(sent) < AGENTS for sent in spoke)
    assert silent > 0


@given(data=st.data())
def test_without_xi_everyone_present_speaks(data: st.DataObject) -> None:
    """Even after a step whose square is beyond float32."""
    gate = LazyGate(3, xi=0)
    for _ in range(4):
        present = torch.tensor(data.draw(st.lists(st.booleans(), min_size=3, max_size=3)))
        gradients = torch.full((3, 2), data.draw(st.sampled_from([0.0, 1.0, 1e-30, 1e30])))
        sends, held = gate(torch.where(present[:, None], gradients, torch.nan), present)
        assert torch.equal(sends, present)
        assert torch.equal(held[present], gradients[present])
        assert held.isfinite().all()
        gate.note_step(torch.full((2,), data.draw(st.sampled_from([0.0, 1.0, 1e30]))))


def test_the_first_word_is_free() -> None:
    """Whatever the bound, what has never been heard is sent."""
    gate = LazyGate(2, xi=100.0)
    gate.note_step(torch.full((3,), 1e3))
    sends, held = gate(torch.zeros(2, 3), torch.tensor([True, False]))
    assert sends.tolist() == [True, False]
    sends, held = gate(torch.ones(2, 3), torch.tensor([True, True]))
    assert sends.tolist() == [False, True]
    assert held.tolist() == [[0.0] * 3, [1.0] * 3]


def test_an_agent_that_says_nothing_new_is_silent() -> None:
    gate = LazyGate(2, xi=0.5, window=2)
    everyone = torch.tensor([True, True])
    gradients = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert gate(gradients, everyone)[0].all()
    gate.note_step(torch.tensor([2.0, 0.0]))  # bound 0.5 * 4
    moved = gradients + torch.tensor([[1.4, 0.0], [1.5, 0.0]])  # 1.96 < 2 <= 2.25
    sends, held = gate(moved, everyone)
    assert sends.tolist() == [False, True]
    assert torch.equal(held[0], gradients[0])
    assert torch.equal(held[1], moved[1])


def test_a_broken_agent_does_not_disturb_what_it_said_before() -> None:
    gate = LazyGate(2, xi=0.1)
    gate(torch.ones(2, 3), torch.tensor([True, True]))
    broken = torch.tensor([[torch.nan] * 3, [2.0] * 3])
    sends, held = gate(broken, torch.tensor([False, True]))
    assert sends.tolist() == [False, True]
    assert held.tolist() == [[1.0] * 3, [2.0] * 3]
    assert gate(torch.ones(2, 3) * 5, torch.tensor([True, True]))[0].tolist() == [True, True]


def test_gradients_are_left_as_they_are() -> None:
    gate, gradients = LazyGate(AGENTS), normal(AGENTS, PARAMETERS)
    before = gradients.clone()
    everyone = torch.ones(AGENTS, dtype=torch.bool)
    gate(gradients, everyone)
    gate.note_step(gradients[0] * 10)
    gate(gradients + 1, everyone)
    assert torch.equal(gradients, before)


def test_the_caller_may_use_its_memory_again() -> None:
    gate, gradients, everyone = LazyGate(AGENTS, xi=100.0), normal(AGENTS, PARAMETERS), torch.ones(AGENTS, dtype=torch.bool)
    first = gradients.clone()
    gate(gradients, everyone)
    gate.note_step(gradients[0])
    gradients += 0.1
    sends, held = gate(gradients, everyone)
    assert not sends.any()
    assert torch.equal(held, first)
    state = gate.state_dict()
    gate(gradients + 1e6, everyone)
    assert torch.equal(state["sent"], first)


# State --------------------------------------------------------------------------------------------------------------------


def advance(gate: LazyGate, steps: range) -> list[list[bool]]:
    spoken = []
    for step in steps:
        sends, held = gate(normal(AGENTS, PARAMETERS, seed=step // 2), torch.tensor([True, True, step % 3 > 0, step > 4]))
        gate.note_step(held.mean(0))
        spoken.append(sends.tolist())
    return spoken


@pytest.mark.parametrize("through", ["state_dict", "pickle"])
def test_a_gate_goes_on_where_it_was(through: str) -> None:
    gate, uninterrupted = LazyGate(AGENTS, window=3), LazyGate(AGENTS, window=3)
    advance(gate, range(5))
    if through == "pickle":
        resumed = pickle.loads(pickle.dumps(gate))
    else:
        resumed = LazyGate(AGENTS, window=3)
        advance(resumed, range(7))  # what it knew is gone
        resumed.load_state_dict(gate.state_dict())
    assert advance(resumed, range(5, 12)) == advance(uninterrupted, range(12))[5:]


def test_of_another_number_of_agents_it_starts_afresh() -> None:
    gate = LazyGate(AGENTS)
    advance(gate, range(5))
    other = LazyGate(2, xi=10.0)
    other.load_state_dict(gate.state_dict())
    assert other(torch.zeros(2, PARAMETERS), torch.tensor([True, True]))[0].all()


def test_of_other_parameters_everyone_speaks_again() -> None:
    gate = LazyGate(AGENTS, xi=10.0)
    advance(gate, range(5))
    sends, held = gate(torch.zeros(AGENTS, PARAMETERS + 1), torch.ones(AGENTS, dtype=torch.bool))
    assert sends.all()
    assert held.shape == (AGENTS, PARAMETERS + 1)


# By name ------------------------------------------------------------------------------------------------------------------


def test_gates_by_name() -> None:
    assert set(GATES) == {"every", "lag"}
    assert make_gate("every", 3, {}) is None
    gate = make_gate("lag", 3, {"xi": 0.2, "window": 4})
    assert isinstance(gate, LazyGate)
    assert gate.xi == 0.2


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("lagg", {}, "unknown communication 'lagg' (did you mean 'lag'?); choose from every, lag"),
        (None, {}, "unknown communication None; choose from every, lag"),
        ("every", {"xi": 1}, "every has no setting 'xi'; it has none"),
        ("lag", {"num_agents": 2}, "lag has no setting 'num_agents'; choose from window, xi"),
        ("lag", {"xi": -1}, "xi must be a finite number >= 0, got -1"),
        ("lag", {"xi": float("nan")}, "xi must be a finite number >= 0, got nan"),
        ("lag", {"xi": True}, "xi must be a finite number >= 0, got True"),
        ("lag", {"xi": "1"}, "xi must be a finite number >= 0, got '1'"),
        ("lag", {"window": 0}, "window must be an integer >= 1, got 0"),
        ("lag", {"window": 2.0}, "window must be an integer >= 1, got 2.0"),
    ],
)
def test_settings_are_refused(name: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make_gate(name, 3, settings)
