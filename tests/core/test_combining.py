"""Combiners: properties over the registry, and every one against another way to compute it."""

from __future__ import annotations

import itertools
import re
import sys
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rl_agg import COMBINERS, Combiner, combine
from rl_agg.combining import GeometricMedian, Krum, Median, MixTailor, TorchJD, TrimmedMean, make_combiner

NAMES = sorted(COMBINERS)
AGENTS = st.integers(5, 9)  # krum bears one faulty agent among five

numbers = st.floats(-100, 100, allow_nan=False).map(lambda value: round(value, 3))
LARGE = float(np.float32(1e30))
anything = st.floats(-LARGE, LARGE, allow_nan=False, width=32)


@st.composite
def matrices(draw: Any, num_agents: st.SearchStrategy[int] = AGENTS, elements: Any = numbers) -> torch.Tensor:
    shape = draw(num_agents), draw(st.integers(1, 5))
    return torch.from_numpy(draw(arrays(np.float64, shape, elements=elements)))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Properties ---------------------------------------------------------------------------------------------------------------


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
    """Nobody knows beforehand who will be masked; with nobody left there is no gradient."""
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


# Faulty agents ------------------------------------------------------------------------------------------------------------


@st.composite
def attacked(draw: Any) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Honest gradients, faulty ones of any size, and the largest f that krum allows for so many."""
    num_faulty = draw(st.integers(1, 4))
    num_honest = draw(st.integers(num_faulty + 3, num_faulty + 8))
    num_parameters = draw(st.integers(1, 4))
    honest = draw(arrays(np.float32, (num_honest, num_parameters), elements=st.floats(-10, 10, width=32)))
    faulty = draw(arrays(np.float32, (num_faulty, num_parameters), elements=anything))
    return torch.from_numpy(honest), torch.from_numpy(faulty), num_faulty


def settings_of(name: str, num_byzantine: int) -> dict[str, Any]:
    if name in ("krum", "trimmed_mean"):
        return {"num_byzantine": num_byzantine}
    if name == "mixtailor":
        own = {other: settings_of(other, num_byzantine) for other in NAMES if other != "mixtailor"}
        return {"combiners": own}
    return {}


def reach(name: str, num_agents: int, num_byzantine: int) -> float:
    """How far the outcome may be from the honest gradients, in units of the largest distance between two of them."""
    if name in ("median", "trimmed_mean"):
        return 0.0
    krum = float(num_agents - num_byzantine - 2) ** 0.5  # an honest one has at most this score
    share = num_byzantine / num_agents
    median = 2 * (1 - share) / (1 - 2 * share)  # Minsker (2015), lemma 2.1
    return {"krum": krum, "geometric_median": median, "mixtailor": max(krum, median)}[name]


@pytest.mark.parametrize("name", NAMES)
@given(case=attacked(), step=st.integers(0, 9), data=st.data())
def test_whatever_a_few_send_the_outcome_stays_near_the_honest(
    name: str, case: tuple[torch.Tensor, torch.Tensor, int], step: int, data: st.DataObject
) -> None:
    honest, faulty, num_faulty = case
    gradients = torch.cat([honest, faulty])
    gradients = gradients[torch.tensor(data.draw(st.permutations(range(len(gradients)))))]
    combined = make_combiner(name, settings_of(name, num_faulty))(gradients, step=step)
    diameter = torch.cdist(honest.double(), honest.double()).max()
    below = honest.min(0).values - combined
    above = combined - honest.max(0).values
    outside = torch.maximum(below, above).clamp(min=0).double().norm()
    assert outside <= reach(name, len(gradients), num_faulty) * diameter * 1.01 + 1e-4


@pytest.mark.parametrize("size", [1e3, 1e8, 1e15, 1e22, 1e30])
def test_the_geometric_median_does_not_care_how_far_away_the_faulty_are(size: float) -> None:
    """Only their direction counts: beyond some distance the outcome no longer changes."""
    honest, faulty = normal(7, 20), torch.nn.functional.normalize(normal(3, 20, seed=1), dim=1)
    near = combine("geometric_median", torch.cat([honest, 1e3 * faulty]), num_iterations=200)
    far = combine("geometric_median", torch.cat([honest, size * faulty]), num_iterations=200)
    assert (far - near).norm() <= 0.01 * honest.norm(dim=1).mean()
    early = combine("geometric_median", torch.cat([honest, size * faulty]))
    assert (early - near).norm() <= 0.1 * honest.norm(dim=1).mean()


@pytest.mark.parametrize("size", [1.0, 1e30])
def test_faulty_agents_that_agree_with_each_other_are_still_too_few(size: float) -> None:
    honest = normal(8, 10)
    for name in ("krum", "geometric_median", "median", "trimmed_mean"):
        faulty = torch.full((3, 10), 50.0 * size)
        combined = combine(name, torch.cat([faulty, honest]), **settings_of(name, 3))
        assert combined.norm() <= 2 * honest.norm(dim=1).max(), name


@pytest.mark.parametrize("num_agents", [5, 64])
def test_a_majority_that_agrees_decides(num_agents: int) -> None:
    """Most gradients are the same: the geometric median is theirs, the others send what they like."""
    gradients = torch.ones(num_agents, 3)
    gradients[: (num_agents - 1) // 2] = normal((num_agents - 1) // 2, 3) * 1e30
    torch.testing.assert_close(combine("geometric_median", gradients), torch.ones(3))


# Another way to compute it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_agents", [1, 2, 3, 4, 7, 8, 16, 17, 33, 64])
def test_median(num_agents: int) -> None:
    gradients = normal(num_agents, 101)
    np.testing.assert_allclose(combine("median", gradients), np.median(gradients, axis=0), rtol=1e-6)


@pytest.mark.parametrize("num_agents", [3, 4, 5, 8, 15, 16, 17, 64])
def test_trimmed_mean(num_agents: int) -> None:
    gradients = normal(num_agents, 101)
    for trim in {0, 1, (num_agents - 1) // 2}:
        expected = scipy.stats.trim_mean(gradients.numpy(), (trim + 0.5) / num_agents, axis=0)
        np.testing.assert_allclose(
            combine("trimmed_mean", gradients, num_byzantine=trim), expected, rtol=1e-5, atol=1e-6, err_msg=str(trim)
        )


@pytest.mark.parametrize("num_agents", range(1, 14))
def test_every_order_of_the_agents_is_sorted(num_agents: int) -> None:
    """Comparisons that sort all sequences of zeros and ones sort everything (Knuth, theorem 5.3.4Z)."""
    gradients = torch.tensor(list(itertools.product([0.0, 1.0], repeat=num_agents))).T
    ones = gradients.sum(0)
    for trim in range((num_agents + 1) // 2):
        kept = num_agents - 2 * trim
        expected = (ones - trim).clamp(0, kept) / kept
        torch.testing.assert_close(combine("trimmed_mean", gradients, num_byzantine=trim), expected)


def krum_by_definition(gradients: np.ndarray, num_byzantine: int, num_selected: int) -> np.ndarray:
    """Blanchard et al. (2017), section 4, one agent after the other."""
    num_agents, scores = len(gradients), []
    for agent in range(num_agents):
        others = [other for other in range(num_agents) if other != agent]
        squared = sorted(sum((gradients[agent] - gradients[other]) ** 2) for other in others)
        scores.append(sum(squared[: num_agents - num_byzantine - 2]))
    return gradients[np.argsort(scores)[:num_selected]].mean(0)


@pytest.mark.parametrize(("num_agents", "num_byzantine"), [(3, 0), (5, 1), (8, 2), (9, 3), (20, 5)])
@pytest.mark.parametrize("num_selected", [1, 3])
def test_krum(num_agents: int, num_byzantine: int, num_selected: int) -> None:
    for seed in range(10):
        gradients = normal(num_agents, 6, seed=seed).double()
        expected = krum_by_definition(gradients.numpy(), num_byzantine, num_selected)
        found = combine("krum", gradients, num_byzantine=num_byzantine, num_selected=num_selected)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_krum_sees_small_differences_between_large_gradients() -> None:
    """Relative to zero their squares differ by less than float32 can tell."""
    gradients = 1000 + 0.01 * normal(9, 50)
    expected = krum_by_definition(gradients.double().numpy(), 2, 1)
    np.testing.assert_allclose(combine("krum", gradients, num_byzantine=2), expected, rtol=1e-7)


def sum_of_distances(point: np.ndarray, gradients: np.ndarray) -> float:
    return float(np.linalg.norm(gradients - point, axis=1).sum())


@pytest.mark.parametrize(("num_agents", "num_parameters"), [(3, 2), (4, 3), (8, 10), (15, 4)])
def test_geometric_median(num_agents: int, num_parameters: int) -> None:
    for seed in range(5):
        gradients = normal(num_agents, num_parameters, seed=seed).double()
        gradients[0] *= 20
        start = np.median(gradients, axis=0)
        smooth = scipy.optimize.minimize(sum_of_distances, start, gradients.numpy(), method="BFGS", options={"gtol": 1e-9})
        kinks = min(sum_of_distances(gradient, gradients.numpy()) for gradient in gradients.numpy())  # BFGS may miss them
        least = min(smooth.fun, kinks)
        found = combine("geometric_median", gradients, num_iterations=500, smoothing=1e-9).numpy()
        assert sum_of_distances(found, gradients.numpy()) <= least * (1 + 1e-6)
        soon = combine("geometric_median", gradients).numpy()
        assert sum_of_distances(soon, gradients.numpy()) <= least * 1.001


def test_mixtailor_draws_by_seed_and_step() -> None:
    gradients, members = normal(9, 5), ("median", "krum", "geometric_median")
    outcomes = [combine(name, gradients) for name in members]

    def drawn(seed: int, step: int) -> int:
        combined = MixTailor(combiners=members, seed=seed)(gradients, step=step)
        return [torch.equal(combined, outcome) for outcome in outcomes].index(True)

    steps = [drawn(0, step) for step in range(60)]
    assert set(steps) == {0, 1, 2}
    assert steps == [drawn(0, step) for step in range(60)]
    assert steps != [drawn(1, step) for step in range(60)]


def test_mixtailor_takes_settings_for_each() -> None:
    gradients = normal(9, 5)
    mix = MixTailor(combiners={"krum": {"num_byzantine": 3, "num_selected": 2}})
    assert torch.equal(mix(gradients), combine("krum", gradients, num_byzantine=3, num_selected=2))
    assert torch.equal(MixTailor(combiners={"median": None})(gradients), combine("median", gradients))


# TorchJD ------------------------------------------------------------------------------------------------------------------

torchjd = pytest.mark.skipif(find_spec("torchjd") is None, reason="TorchJD is not installed: pip install 'rl-agg[torchjd]'")


@torchjd
@pytest.mark.parametrize("num_agents", [5, 9, 20])
def test_trimmed_mean_is_torchjds(num_agents: int) -> None:
    gradients = normal(num_agents, 30)
    torch.testing.assert_close(
        combine("trimmed_mean", gradients, num_byzantine=2), combine("torchjd:TrimmedMean", gradients, trim_number=2)
    )


@torchjd
def test_krum_is_torchjds_where_there_is_one_neighbour() -> None:
    """TorchJD adds distances where the paper adds their squares, which is the same for one. Two are nearest to each other."""
    for seed in range(10):
        gradients = normal(3, 30, seed=seed)
        ours = combine("krum", gradients, num_byzantine=0, num_selected=2)
        torch.testing.assert_close(ours, combine("torchjd:Krum", gradients, n_byzantine=0, n_selected=2))


@torchjd
def test_torchjd_sees_those_who_are_present() -> None:
    gradients = torch.tensor([[1.0, 2.0], [torch.nan, 0.0], [3.0, 4.0]])
    assert combine("torchjd:Mean", gradients).tolist() == [2.0, 3.0]


@torchjd
def test_looking_whether_torchjd_will_do_draws_no_random_numbers() -> None:
    state = torch.get_rng_state()
    make_combiner("torchjd:Random", {}).check(4)
    assert torch.equal(torch.get_rng_state(), state)


@torchjd
@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("torchjd:UPgrad", {}, "unknown TorchJD aggregator 'UPgrad' (did you mean 'UPGrad'?); choose from AlignedMTL, CAGrad"),
        ("torchjd:WeightedAggregator", {}, "unknown TorchJD aggregator 'WeightedAggregator'"),
        ("torchjd:Krum", {"num_byzantine": 1}, "torchjd:Krum has no setting 'num_byzantine'; choose from n_byzantine"),
        ("torchjd:Krum", {}, "torchjd:Krum refuses {}: "),
        ("torchjd:Krum", {"n_byzantine": -1}, "torchjd:Krum refuses {'n_byzantine': -1}: n_byzantine must be non-negative"),
        ("torchjd:Krum", {"n_byzantine": 3}, "torchjd:Krum with {'n_byzantine': 3} cannot combine 5 agents: "),
        ("torchjd:Constant", {"weights": torch.ones(4)}, "cannot combine 5 agents: "),
    ],
)
def test_torchjd_refuses(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        combine(name, normal(5, 3), **settings)


@torchjd
def test_a_masked_agent_too_many_for_torchjd_is_named() -> None:
    combiner = make_combiner("torchjd:Krum", {"n_byzantine": 2})
    combiner.check(5)
    with pytest.raises(ValueError, match=r"torchjd:Krum cannot combine 4 agents, 1 masked: .*at least 5 rows"):
        combiner(normal(5, 3), present=torch.arange(5) > 0)


def test_without_torchjd_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(ImportError, match=re.escape("torchjd:UPGrad needs TorchJD: pip install 'rl-agg[torchjd]'")):
        make_combiner("torchjd:UPGrad", {})


@torchjd
@pytest.mark.skipif(find_spec("quadprog") is not None, reason="the solver is installed")
def test_an_aggregator_without_its_solver_says_what_to_install() -> None:
    begin, end = "torchjd:UPGrad needs a package that rl-agg does not install: ", 'pip install "torchjd[quadprog_projector]"'
    with pytest.raises(ImportError, match=f"{re.escape(begin)}.*{re.escape(end)}"):
        combine("torchjd:UPGrad", normal(4, 3))


# Errors -------------------------------------------------------------------------------------------------------------------


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


# Use ----------------------------------------------------------------------------------------------------------------------


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
