"""Combiners: properties over the registry, errors, and their use."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rl_agg import COMBINERS, Combiner, combine
from rl_agg.combiners import GeometricMedian, Krum, Median, MixTailor, TorchJD, TrimmedMean, make_combiner
from tests.core.gradients import NAMES, anything, matrices, normal, numbers


@pytest.mark.parametrize("name", NAMES)
@given(gradients=matrices(), data=st.data())
def test_relabelling_agents_changes_nothing(name: str, gradients: torch.Tensor, data: st.DataObject) -> None:
    gradients += normal(*gradients.shape)  # no ties: among gradients that are equally near to others, Krum may take any
    order = torch.tensor(data.draw(st.permutations(range(len(gradients)))))
    torch.testing.assert_close(combine(name, gradients[order]), combine(name, gradients), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@given(gradients=matrices(), scale=st.floats(0.01, 100), data=st.data())
def test_scaled_and_shifted_gradients_combine_to_the_same_scaled_and_shifted(
    name: str, gradients: torch.Tensor, scale: float, data: st.DataObject
) -> None:
    gradients += normal(*gradients.shape)
    shift = torch.from_numpy(data.draw(arrays(np.float64, gradients.shape[1], elements=numbers)))
    torch.testing.assert_close(
        combine(name, gradients * scale + shift), combine(name, gradients) * scale + shift, rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("scale", [1e-25, 1e-15, 1e15, 1e25])
@pytest.mark.parametrize("name", NAMES)
def test_no_scale_is_special(name: str, scale: float) -> None:
    """float32 holds none of these numbers' squares."""
    gradients = normal(7, 30)
    torch.testing.assert_close(combine(name, gradients * scale) / scale, combine(name, gradients), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@given(gradient=arrays(np.float32, st.integers(1, 5), elements=anything), num_agents=st.integers(5, 70))
def test_identical_gradients_combine_to_themselves(name: str, gradient: np.ndarray, num_agents: int) -> None:
    combined = combine(name, torch.from_numpy(gradient).expand(num_agents, -1))
    torch.testing.assert_close(combined, torch.from_numpy(gradient), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", NAMES)
@given(gradients=matrices())
def test_the_outcome_lies_among_the_gradients(name: str, gradients: torch.Tensor) -> None:
    combined = combine(name, gradients)
    assert (combined >= gradients.min(0).values - 1e-9).all()
    assert (combined <= gradients.max(0).values + 1e-9).all()


@pytest.mark.parametrize("present", [[True] * 9, [True, True, False, True, True, False, True, True, True]])
@pytest.mark.parametrize("name", NAMES)
def test_rows_of_the_absent_are_not_read(name: str, present: list[bool]) -> None:
    mask = torch.tensor(present)
    gradients = torch.where(mask[:, None], normal(9, 20), torch.nan)
    settings = {"seed": 4} if name == "mixtailor" else {}
    if name in ("krum", "trimmed_mean"):
        settings = {"num_byzantine": 2}
    combined = make_combiner(name, settings)(gradients, present=mask)
    if name in ("krum", "trimmed_mean"):  # who is masked has already been found out
        settings = {"num_byzantine": 2 - present.count(False)}
    torch.testing.assert_close(combined, make_combiner(name, settings)(gradients[mask]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_present", range(6))
def test_any_number_may_be_left(name: str, num_present: int) -> None:
    """Which agents are masked is not known beforehand; with none left there is no gradient."""
    gradients, present = normal(6, 3), torch.arange(6) < num_present
    combined = make_combiner(name, {})(gradients, present=present)
    assert combined.isfinite().all()
    if num_present == 0:
        assert (combined == 0).all()
    if num_present == 1:
        torch.testing.assert_close(combined, gradients[0])


def test_rows_that_are_not_finite_are_left_out() -> None:
    gradients = torch.tensor([[1.0, 1.0], [2.0, 5.0], [torch.nan, 0.0], [4.0, torch.inf], [9.0, 9.0]])
    assert combine("median", gradients).tolist() == [2.0, 5.0]
    assert combine("median", gradients[2:4]).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_agents", [9, 40])
def test_gradients_are_left_as_they_are(name: str, num_agents: int) -> None:
    gradients = normal(num_agents, 4)
    gradients[0] = 1e30
    before = gradients.clone()
    combined = combine(name, gradients.requires_grad_())
    assert torch.equal(gradients, before)
    assert not combined.requires_grad
    for step in range(4):  # whatever it draws
        make_combiner(name, {})(gradients, step=step)
    assert torch.equal(gradients, before)
    overwritten = make_combiner(name, {})(before, overwrite=True)
    torch.testing.assert_close(overwritten, combined)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_agents", [5, 8, 16, 17, 40])
def test_memory_layout_and_precision_do_not_matter(name: str, num_agents: int) -> None:
    gradients = normal(num_agents, 50)
    expected = combine(name, gradients)
    assert expected.dtype == torch.float32
    torch.testing.assert_close(combine(name, gradients.T.contiguous().T), expected)
    double = combine(name, gradients.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), expected, rtol=1e-4, atol=1e-5)
    coarse = combine(name, gradients.bfloat16())
    assert coarse.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("krumm", {}, "unknown combiner 'krumm' (did you mean 'krum'?); choose from geometric_median, krum, median"),
        (3, {}, "unknown combiner 3; choose from"),
        ("median", {"num_byzantine": 1}, "median has no setting 'num_byzantine'; it has none"),
        ("krum", {"f": 1}, "krum has no setting 'f'; choose from num_byzantine, num_selected"),
        ("krum", {"num_byzantine": 2}, "krum with num_byzantine=2 needs more than 6 agents, which allow at most 1"),
        ("krum", {"num_byzantine": -1}, "num_byzantine must be an integer >= 0, got -1"),
        ("krum", {"num_byzantine": 0.5}, "num_byzantine must be an integer >= 0, got 0.5"),
        ("krum", {"num_byzantine": True}, "num_byzantine must be an integer >= 0, got True"),
        ("krum", {"num_selected": 0}, "num_selected must be an integer >= 1, got 0"),
        ("krum", {"num_selected": 7}, "krum cannot select num_selected=7 of 6 agents"),
        ("trimmed_mean", {"num_byzantine": 3}, "trimmed_mean with num_byzantine=3 needs more than 6 agents, which allow at"),
        ("geometric_median", {"num_iterations": 0}, "num_iterations must be an integer >= 1, got 0"),
        ("geometric_median", {"smoothing": 0}, "smoothing must be a finite number > 0, got 0"),
        ("geometric_median", {"smoothing": "1"}, "smoothing must be a finite number > 0, got '1'"),
        ("geometric_median", {"smoothing": float("nan")}, "smoothing must be a finite number > 0, got nan"),
        ("mixtailor", {"combiners": "krum"}, "combiners must be several names, or a mapping of names to settings, got 'krum'"),
        ("mixtailor", {"combiners": []}, "combiners must be several names"),
        ("mixtailor", {"combiners": 3}, "combiners must be several names"),
        ("mixtailor", {"combiners": ["mean"]}, "unknown combiner 'mean'"),
        ("mixtailor", {"combiners": {"krum": {"num_byzantine": 2}}}, "krum with num_byzantine=2 needs more than 6 agents"),
        ("mixtailor", {"seed": -1}, "seed must be an integer >= 0, got -1"),
    ],
)
def test_settings_are_refused(name: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        combine(name, normal(6, 2), **settings)


def test_too_few_agents_for_any_faulty_one() -> None:
    with pytest.raises(ValueError, match="needs more than 2 agents, which allow none"):
        combine("krum", normal(2, 2), num_byzantine=0)


@pytest.mark.parametrize("gradients", [[], [1.0, 2.0], [[], []], 3.0, [[[1.0]]]])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_matrix_is_refused(name: str, gradients: Any) -> None:
    with pytest.raises(ValueError, match=re.escape("gradients must be [A, P] with A, P >= 1, got shape")):
        combine(name, gradients)
    with pytest.raises(ValueError, match=re.escape("gradients must be [A, P] with A, P >= 1, got shape")):
        make_combiner(name, {})(torch.tensor(gradients))


def test_whole_numbers_will_do() -> None:
    assert combine("median", [[0, 1], [1, 1], [7, 9]]).tolist() == [1.0, 1.0]


def test_a_combiner_of_ones_own() -> None:
    class First(Combiner):
        def merge(self, gradients: torch.Tensor, *, num_masked: int, step: int) -> torch.Tensor:
            return gradients[0] * (step + 1) + num_masked

    first = First()
    first.check(1)
    assert first(torch.tensor([[9.0], [2.0]]), present=torch.tensor([False, True]), step=2).tolist() == [7.0]


@pytest.mark.parametrize("kind", [Median(), TrimmedMean(2), Krum(1, 2), GeometricMedian(5), MixTailor(seed=3)])
def test_equal_settings_make_equal_combiners(kind: Combiner) -> None:
    name = next(name for name, known in COMBINERS.items() if known is type(kind))
    settings = {key: getattr(kind, key) for key in vars(kind) if not key.startswith("_")}
    assert make_combiner(name, settings) == kind
    assert not isinstance(kind, TorchJD)
