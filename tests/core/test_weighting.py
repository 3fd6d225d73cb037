"""Weighting rules: properties over the registry, and numbers worked by hand."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from rl_agg import RULES, Signals, Weighting, weights
from rl_agg.rules import has_mixed_signs
from rl_agg.rules.loss import MIXED_SIGN_CHOICES
from rl_agg.signals import MEASURED

NAN, INF = math.nan, math.inf
COUNTS = ("num_samples", "norms")  # which are not negative
WEIGHTED = {"r_weighted": "returns", "l_weighted": "losses"}
REMEMBERED = {"e_weighted": "explained_variance", "agreement": "agreement", "snr_weighted": "noise", "equal_norms": "norms"}
WEIGHING = ["l_weighted", "mean", "r_weighted", "reward_shares", "samples", "sum", "guarded", *REMEMBERED]  # vectors
SCORING = ["centered", "ranks", "raw"]  # scores

agents = st.integers(1, 12)
numbers = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 3))


@st.composite
def signals(draw: Any, num_agents: st.SearchStrategy[int] = agents) -> Signals:
    count = draw(num_agents)
    values = arrays(np.float64, count, elements=numbers)
    drawn = {name: draw(values) for name in MEASURED}
    return Signals(**{name: np.abs(value) if name in COUNTS else value for name, value in drawn.items()})


def reorder(given_signals: Signals, order: torch.Tensor) -> Signals:
    return Signals(**{name: getattr(given_signals, name)[order] for name in MEASURED})


def alike(values: list[float]) -> dict[str, list[float]]:
    """All signals."""
    return {name: [abs(value) for value in values] if name in COUNTS else list(values) for name in MEASURED}


def by_hand(rule: str, values: list[float], h: float | None = None) -> list[float]:
    """Algorithms 2 and 3 line by line, on plain floats; NaN-free, not all equal."""
    if rule == "r_weighted":
        lowest = min(values)
        values = [value - lowest for value in values]
    total = sum(values)
    return [value / total + 1 / (h or len(values)) for value in values]


# Properties ---------------------------------------------------------------------------------------------------------------


def test_the_rules_above_are_all() -> None:
    assert sorted([*WEIGHING, *SCORING]) == sorted(RULES.keys() - RULES.added.keys())


@pytest.mark.parametrize("rule", [*WEIGHING, *SCORING])
@given(given_signals=signals(), data=st.data())
def test_relabelling_agents_relabels_weights(rule: str, given_signals: Signals, data: st.DataObject) -> None:
    order = torch.tensor(data.draw(st.permutations(range(given_signals.num_agents))))
    torch.testing.assert_close(weights(rule, reorder(given_signals, order)), weights(rule, given_signals)[order])


@pytest.mark.parametrize(
    ("rule", "total"),
    [
        *((rule, 1.0) for rule in ("mean", "samples", "reward_shares", "e_weighted", "agreement", "snr_weighted", "guarded")),
        *((rule, 2.0) for rule in ("r_weighted", "l_weighted")),
    ],
)
@given(given_signals=signals())
def test_totals(rule: str, total: float, given_signals: Signals) -> None:
    assert weights(rule, given_signals).sum().item() == pytest.approx(total)


@given(given_signals=signals())
def test_sum_counts_everyone_once(given_signals: Signals) -> None:
    assert weights("sum", given_signals).tolist() == [1.0] * given_signals.num_agents


@pytest.mark.parametrize("rule", WEIGHTED)
@given(given_signals=signals(), h=st.floats(0.1, 100))
def test_everyone_keeps_the_floor(rule: str, given_signals: Signals, h: float) -> None:
    found = weights(rule, given_signals, h=h)
    assert found.min().item() >= 1 / h * (1 - 1e-12)
    assert found.max().item() <= 1 + 1 / h + 1e-9
    assert found.sum().item() == pytest.approx(1 + given_signals.num_agents / h)


@pytest.mark.parametrize("rule", WEIGHING)
@given(given_signals=signals())
def test_normalized_weights_sum_to_one_in_the_same_proportions(rule: str, given_signals: Signals) -> None:
    plain, normalized = weights(rule, given_signals), weights(rule, given_signals, normalize=True)
    assert normalized.sum().item() == pytest.approx(1)
    torch.testing.assert_close(normalized * plain.sum(), plain)


@pytest.mark.parametrize("rule", WEIGHTED)
@given(given_signals=signals())
def test_normalized_is_the_papers_halved_weights(rule: str, given_signals: Signals) -> None:
    """With h = A the weights sum to 2, so that dividing by 2 (section 4.1.6) and by their sum are the same."""
    torch.testing.assert_close(weights(rule, given_signals, normalize=True), weights(rule, given_signals) / 2)


@given(values=arrays(np.float64, st.integers(2, 8), elements=numbers), scale=st.floats(0.1, 1e3), shift=numbers)
def test_reward_weights_ignore_scale_and_shift(values: np.ndarray, scale: float, shift: float) -> None:
    assume(np.ptp(values) > 1)
    torch.testing.assert_close(
        weights("r_weighted", Signals(returns=values * scale + shift)),
        weights("r_weighted", Signals(returns=values)),
        rtol=1e-5,
        atol=1e-5,
    )


@given(values=arrays(np.float64, st.integers(2, 8), elements=st.floats(0.01, 1e6)), scale=st.floats(0.1, 1e3))
def test_loss_weights_ignore_scale_but_not_shift(values: np.ndarray, scale: float) -> None:
    found = weights("l_weighted", Signals(losses=values))
    torch.testing.assert_close(weights("l_weighted", Signals(losses=values * scale)), found)
    assume(values.max() > 1.5 * values.min())
    assert not torch.allclose(weights("l_weighted", Signals(losses=values + values.max())), found, rtol=1e-6)


@given(
    values=st.lists(st.integers(-1000, 1000).map(float), min_size=2, max_size=8),
    scale=st.sampled_from([0.25, 2.0, 64.0]),
    shift=st.integers(-500, 500),
)
def test_guards_keep_what_they_are_named_after(values: list[float], scale: float, shift: int) -> None:
    """Integers and powers of two, so that nothing is rounded: shift ignores a shift, the others only a scale."""
    losses = torch.tensor(values, dtype=torch.float64)
    assume(losses.min() < 0)

    def share(losses: torch.Tensor, mixed_sign: str) -> torch.Tensor:
        return weights("l_weighted", Signals(losses=losses), mixed_sign=mixed_sign)

    for mixed_sign in MIXED_SIGN_CHOICES:
        torch.testing.assert_close(share(losses * scale, mixed_sign), share(losses, mixed_sign))
    moved = losses + shift
    if moved.min() < 0:
        torch.testing.assert_close(share(moved, "shift"), share(losses, "shift"))
    torch.testing.assert_close(share(-losses, "abs"), share(losses, "abs"))
    torch.testing.assert_close(share(losses, "clip"), share(losses.clamp(min=0), "clip"))


@pytest.mark.parametrize("rule", WEIGHTED)
@given(values=st.lists(st.integers(0, 1000).map(float), min_size=2, max_size=8, unique=True), h=st.none() | st.floats(0.5, 50))
def test_weighted_rules_follow_the_algorithms(rule: str, values: list[float], h: float | None) -> None:
    found = weights(rule, Signals(**{WEIGHTED[rule]: values}), h=h)
    np.testing.assert_allclose(found, by_hand(rule, values, h))


@given(counts=st.lists(st.integers(0, 10_000), min_size=1, max_size=8))
def test_samples_count_alike(counts: list[int]) -> None:
    assume(sum(counts))
    np.testing.assert_allclose(weights("samples", Signals(num_samples=counts)), [count / sum(counts) for count in counts])


@pytest.mark.parametrize("rule", WEIGHING)
@given(given_signals=signals(), data=st.data())
def test_masked_agents_get_nothing_and_the_rest_what_they_would_alone(
    rule: str, given_signals: Signals, data: st.DataObject
) -> None:
    count = given_signals.num_agents
    present = torch.tensor(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    everyone = dataclasses.replace(given_signals, present=present)
    found = weights(rule, everyone)
    assert (found[~present] == 0).all()
    if present.any():
        order = torch.arange(count)[present]
        torch.testing.assert_close(found[present], weights(rule, reorder(given_signals, order)))


@pytest.mark.parametrize("signal", ["returns", "losses", "num_samples"])
@pytest.mark.parametrize("rule", WEIGHING)
@pytest.mark.parametrize("infinite", [INF, -INF])
def test_an_infinite_signal_masks_its_agent_whatever_the_rule(rule: str, signal: str, infinite: float) -> None:
    if signal == "num_samples" and infinite < 0:
        with pytest.raises(ValueError, match="must not be negative"):
            Signals(num_samples=[infinite])
        return
    values = alike([1.0, 2.0, 4.0])
    values[signal][1] = infinite
    found = weights(rule, Signals(**values))
    others = Signals(**{name: [row[0], row[2]] for name, row in values.items()})
    assert found[1] == 0
    torch.testing.assert_close(found[[0, 2]], weights(rule, others))


def test_with_nobody_present_nobody_counts() -> None:
    for rule in WEIGHING:
        everything = alike([1.0, 2.0])
        assert weights(rule, Signals(**everything, present=[False, False])).tolist() == [0, 0]
        assert weights(rule, Signals(**everything, present=[False, False]), normalize=True).tolist() == [0, 0]


@pytest.mark.parametrize("rule", [*WEIGHTED, "samples", *REMEMBERED])
@given(values=st.lists(st.integers(0, 1000).map(float), min_size=2, max_size=8), data=st.data())
def test_a_missing_signal_is_the_mean_of_the_known(rule: str, values: list[float], data: st.DataObject) -> None:
    name = {**WEIGHTED, **REMEMBERED, "samples": "num_samples"}[rule]
    missing = data.draw(st.integers(0, len(values) - 1))
    known = [value for index, value in enumerate(values) if index != missing]
    gap, filled = list(values), list(values)
    gap[missing], filled[missing] = NAN, sum(known) / len(known)
    torch.testing.assert_close(weights(rule, Signals(**{name: gap})), weights(rule, Signals(**{name: filled})))


@pytest.mark.parametrize(("rule", "name"), [*WEIGHTED.items(), ("samples", "num_samples"), *REMEMBERED.items()])
def test_when_nobody_reported_everyone_counts_alike(rule: str, name: str) -> None:
    found = weights(rule, Signals(**{name: [NAN, NAN, NAN, NAN]}))
    assert found.tolist() == [0.5 if rule in WEIGHTED else 0.25] * 4


@pytest.mark.parametrize("rule", WEIGHING)
def test_one_agent(rule: str) -> None:
    for value in (-3.0, 0.0, 7.0, NAN):
        found = weights(rule, Signals(**alike([value])))
        assert found.tolist() == [2.0 if rule in WEIGHTED else 1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", [*WEIGHING, *SCORING])
def test_dtype_is_kept_and_nothing_is_differentiated(rule: str, dtype: torch.dtype) -> None:
    value = torch.tensor([1.0, 2.0, 3.0], dtype=dtype, requires_grad=True)
    found = weights(rule, Signals(**dict.fromkeys(MEASURED, value)))
    assert found.dtype == dtype
    assert not found.requires_grad


@pytest.mark.parametrize(("present", "expected"), [([True, True, False], [0.75, 1.25, 0.0]), ([False] * 3, [0.0, 0.0, 0.0])])
def test_masking_keeps_the_dtype_of_the_signal_that_is_weighed(present: list[bool], expected: list[float]) -> None:
    """Returns come from episodes as float64, losses from the network as float32."""
    found = weights("l_weighted", Signals(returns=[1.0, 2.0, 3.0], losses=torch.tensor([1.0, 3.0, 9.0]), present=present))
    assert found.dtype == torch.float32
    assert found.tolist() == expected


def test_a_callable_with_a_graph_is_detached() -> None:
    learned = torch.ones(2, requires_grad=True)
    assert not weights(lambda _: learned, Signals(returns=[1.0, 2.0])).requires_grad


@pytest.mark.gpu
@pytest.mark.parametrize("rule", [*WEIGHING, *SCORING])
def test_on_cuda(rule: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    value = torch.tensor([1.0, -2.0, INF, NAN])
    given_signals = {name: value.abs() if name in COUNTS else value for name in MEASURED}
    expected = weights(rule, Signals(**given_signals))
    on_device = Signals(**{name: own.cuda() for name, own in given_signals.items()})
    torch.testing.assert_close(weights(rule, on_device).cpu(), expected)


# Numbers worked by hand -----------------------------------------------------------------------------------------------------


def test_algorithm_2_by_hand() -> None:
    """Returns 10, 20, 50, 20: less the minimum 0, 10, 40, 10, of 60; and a quarter each."""
    found = weights("r_weighted", Signals(returns=[10.0, 20.0, 50.0, 20.0]))
    np.testing.assert_allclose(found, [0 + 0.25, 1 / 6 + 0.25, 2 / 3 + 0.25, 1 / 6 + 0.25])
    np.testing.assert_allclose(weights("r_weighted", Signals(returns=[-50.0, -20.0]), h=8), [0.125, 1.125])


def test_algorithm_3_by_hand() -> None:
    """Losses 1, 2, 5, of 8; and a third each."""
    found = weights("l_weighted", Signals(losses=[1.0, 2.0, 5.0]))
    np.testing.assert_allclose(found, [1 / 8 + 1 / 3, 1 / 4 + 1 / 3, 5 / 8 + 1 / 3])


@pytest.mark.parametrize("value", [-3.0, 0.0, 3.0])
def test_equal_signals_give_equal_weights(value: float) -> None:
    for rule, name in WEIGHTED.items():
        assert weights(rule, Signals(**{name: [value] * 4}), h=2).tolist() == [0.75] * 4


@pytest.mark.parametrize(
    ("mixed_sign", "shares"),
    [
        ("shift", [0.0, 3 / 11, 8 / 11]),
        ("abs", [2 / 9, 1 / 9, 6 / 9]),
        ("clip", [0.0, 1 / 7, 6 / 7]),
        ("literal", [-0.4, 0.2, 1.2]),
    ],
)
def test_mixed_signs_by_hand(mixed_sign: str, shares: list[float]) -> None:
    """Losses -2, 1, 6: shifted 0, 3, 8 of 11; magnitudes 2, 1, 6 of 9; clipped 0, 1, 6 of 7; as printed -2, 1, 6 of 5."""
    found = weights("l_weighted", Signals(losses=[-2.0, 1.0, 6.0]), mixed_sign=mixed_sign)
    np.testing.assert_allclose(found, np.array(shares) + 1 / 3)


@pytest.mark.parametrize("mixed_sign", MIXED_SIGN_CHOICES)
def test_losses_of_one_sign_need_no_guard(mixed_sign: str) -> None:
    found = weights("l_weighted", Signals(losses=[1.0, 3.0]), mixed_sign=mixed_sign)
    np.testing.assert_allclose(found, [0.75, 1.25])


@pytest.mark.parametrize(("mixed_sign", "losses"), [("clip", [-1.0, -2.0]), ("abs", [0.0, 0.0]), ("literal", [1.0, -1.0])])
def test_a_sum_of_zero_gives_equal_weights(mixed_sign: str, losses: list[float]) -> None:
    assert weights("l_weighted", Signals(losses=losses), mixed_sign=mixed_sign).tolist() == [1.0, 1.0]


def test_mixed_signs_are_recognised_row_by_row() -> None:
    rows = torch.tensor([[1.0, 2.0], [-1.0, 2.0], [0.0, 0.0], [0.0, 1.0], [NAN, 1.0], [NAN, 0.0], [NAN, -1.0]])
    assert has_mixed_signs(rows).tolist() == [False, True, True, False, False, True, True]


def test_shares_of_the_returns_by_hand() -> None:
    for returns, shares in (
        ([2.0, 6.0], [0.25, 0.75]),
        ([0.0, 0.0], [0.5, 0.5]),
        ([4.0, -2.0, -1.0], [6 / 7, 0, 1 / 7]),
        ([-3.0, -3.0, -3.0], [1 / 3] * 3),
        ([-5.0], [1.0]),
        ([1e308, 1e308], [0.5, 0.5]),
    ):
        np.testing.assert_allclose(weights("reward_shares", Signals(returns=returns)), shares)


def test_explained_weights_by_hand() -> None:
    """0.8, 0.3, 0 and, clipped, 0: with 0.1 each 0.9, 0.4, 0.1 and 0.1, of 1.5."""
    signals = Signals(explained_variance=[0.8, 0.3, 0.0, -7.0])
    np.testing.assert_allclose(weights("e_weighted", signals), [0.9 / 1.5, 0.4 / 1.5, 0.1 / 1.5, 0.1 / 1.5])
    np.testing.assert_allclose(weights("e_weighted", signals, prior=0), [0.8 / 1.1, 0.3 / 1.1, 0, 0])
    np.testing.assert_allclose(weights("e_weighted", Signals(explained_variance=[0.0, -1.0]), prior=0), [0.5, 0.5])
    assert weights("e_weighted", Signals(explained_variance=[1.0, 0.0])).tolist() == pytest.approx([11 / 12, 1 / 12])


def test_agreement_precision_and_norms_by_hand() -> None:
    np.testing.assert_allclose(weights("agreement", Signals(agreement=[0.6, 0.2, -0.9])), [0.75, 0.25, 0])
    np.testing.assert_allclose(weights("agreement", Signals(agreement=[-0.6, 0.0])), [0.5, 0.5])
    # Variances 0.5, 2 and, less than is believed, 0.1: precisions 2, 0.5 and 10
    np.testing.assert_allclose(weights("snr_weighted", Signals(noise=[0.5, 2.0, -0.3])), [2 / 12.5, 0.5 / 12.5, 10 / 12.5])
    # The median of 1, 2, 4 and 8 is 3
    np.testing.assert_allclose(weights("equal_norms", Signals(norms=[1.0, 2.0, 4.0, 8.0])), [3 / 4, 3 / 8, 3 / 16, 3 / 32])
    np.testing.assert_allclose(weights("equal_norms", Signals(norms=[0.0, 2.0, 2.0]), most=6.0), [2, 1 / 3, 1 / 3])
    np.testing.assert_allclose(weights("equal_norms", Signals(norms=[0.0, 0.0])), [0.5, 0.5])
    # 0.9, 0.4 and 0.1 times 0.5, 0 and 0.25
    guarded = weights("guarded", Signals(explained_variance=[0.8, 0.3, 0.0], agreement=[0.5, -1.0, 0.25]))
    np.testing.assert_allclose(guarded, [0.45 / 0.475, 0, 0.025 / 0.475])


@pytest.mark.parametrize(("rule", "signal"), [("agreement", "agreement"), ("equal_norms", "norms")])
@given(values=arrays(np.float64, st.integers(1, 8), elements=st.floats(0.01, 1.0)), scale=st.floats(1e-3, 1e3))
def test_the_unit_of_a_comparison_does_not_matter(rule: str, signal: str, values: np.ndarray, scale: float) -> None:
    found = weights(rule, Signals(**{signal: values}))
    torch.testing.assert_close(weights(rule, Signals(**{signal: values * scale})), found)


@pytest.mark.parametrize("rule", ["e_weighted", "agreement", "snr_weighted", "guarded"])
@given(given_signals=signals())
def test_no_agent_counts_less_than_nothing(rule: str, given_signals: Signals) -> None:
    assert (weights(rule, given_signals) >= 0).all()


@pytest.mark.parametrize("rule", [*REMEMBERED, "guarded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_comparisons_of_any_size_give_finite_weights(rule: str, dtype: torch.dtype) -> None:
    for values in ([1e-30, 1.0, 1e12], [3e38, 3e38, 3e38], [1e-30, 1e-30, 1e-30], [0.0, 3e38, 1e-30]):
        rows = torch.tensor(values, dtype=dtype)
        found = weights(rule, Signals(**dict.fromkeys(MEASURED, rows)))
        assert found.isfinite().all()
        assert (found * rows).isfinite().all() or rule != "equal_norms"


@given(returns=arrays(np.float64, st.integers(2, 12), elements=st.integers(-5, 5)))
def test_scores_count_by_value_by_difference_and_by_rank(returns: np.ndarray) -> None:
    signals = Signals(returns=returns)
    np.testing.assert_array_equal(weights("raw", signals), returns)
    np.testing.assert_allclose(weights("centered", signals), returns - np.mean(returns), atol=1e-12)
    ranks = (stats.rankdata(returns) - 1) / (len(returns) - 1) - 0.5
    np.testing.assert_allclose(weights("ranks", signals), ranks)
    assert weights("ranks", Signals(returns=returns[:1])).tolist() == [0.0]


# Callables and errors -------------------------------------------------------------------------------------------------------


def test_a_callable_sees_present_agents_without_gaps() -> None:
    def best_only(given_signals: Signals, *, bonus: float) -> torch.Tensor:
        assert given_signals.returns is not None
        assert given_signals.returns.tolist() == [1.0, 5.0, 3.0]
        return torch.nn.functional.one_hot(given_signals.returns.argmax(), 3).double() + bonus

    found = weights(best_only, Signals(returns=[1.0, INF, 5.0, NAN]), bonus=0.5)
    assert found.tolist() == [0.5, 0.0, 1.5, 0.5]


def test_a_weighting_knows_what_it_needs() -> None:
    assert {name: set(Weighting(name).needs) for name in (*WEIGHING, *SCORING)} == {
        "sum": set(),
        "mean": set(),
        "samples": {"num_samples"},
        "r_weighted": {"returns"},
        "l_weighted": {"losses"},
        "reward_shares": {"returns"},
        "guarded": {"explained_variance", "agreement"},
        **{name: {signal} for name, signal in REMEMBERED.items()},
        **{name: {"returns"} for name in SCORING},
    }
    assert Weighting(lambda given_signals: given_signals.losses).needs == {"returns", "losses", "num_samples"}


@pytest.mark.parametrize(
    ("rule", "settings", "message"),
    [
        (
            "r_wieghted",
            {},
            "unknown aggregation 'r_wieghted' (did you mean 'r_weighted'?); choose from agreement, centered, e_weighted",
        ),
        (
            "zzz",
            {},
            "unknown aggregation 'zzz'; choose from agreement, centered, e_weighted, equal_norms, guarded, l_weighted, mean",
        ),
        (3, {}, "a rule is a name or a callable, got 3"),
        ("mean", {"h": 2}, "mean has no setting 'h'; choose from normalize"),
        ("r_weighted", {"mixed_sign": "abs"}, "r_weighted has no setting 'mixed_sign'; choose from h, normalize"),
        ("r_weighted", {"h": 0}, "h must be a positive number or None for the number of agents, got 0"),
        ("l_weighted", {"h": -1.5}, "got -1.5"),
        ("r_weighted", {"h": NAN}, "got nan"),
        ("r_weighted", {"h": "8"}, "got '8'"),
        ("r_weighted", {"h": True}, "got True"),
        ("e_weighted", {"prior": -0.1}, "prior must be a finite number >= 0, got -0.1"),
        ("snr_weighted", {"least": 0}, "least must be a finite number > 0, got 0"),
        ("equal_norms", {"most": NAN}, "most must be a finite number > 0, got nan"),
        ("e_weighted", {"floor": 1}, "e_weighted has no setting 'floor'; choose from guard, normalize, prior, smoothing"),
        ("l_weighted", {"mixed_sign": "shfit"}, "unknown mixed_sign 'shfit' (did you mean 'shift'?); choose from abs, clip"),
    ],
)
def test_bad_rules_and_settings_are_refused(rule: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Weighting(rule, settings)


def test_a_missing_signal_is_named() -> None:
    with pytest.raises(ValueError, match=re.escape("needs Signals.returns, which was not given")):
        weights("r_weighted", Signals(losses=[1.0]))


@pytest.mark.parametrize(
    ("result", "got"),
    [
        (torch.ones(3), "shape (3,)"),
        (torch.ones(2, 1), "shape (2, 1)"),
        (np.ones(3), "shape (3,)"),
        (torch.ones(2, dtype=torch.complex64), "shape (2,), torch.complex64"),
        (np.array([1.0, None]), "shape (2,), object"),
        ([1.0], "[1.0]"),
        ([[1.0], [2.0]], "[[1.0], [2.0]]"),
        ([1.0, [2.0]], "[1.0, [2.0]]"),
        (["1", "2"], "['1', '2']"),
        (1.0, "1.0"),
        (None, "None"),
    ],
)
def test_a_callable_must_return_one_weight_per_agent(result: Any, got: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"mine must return one weight for each agent, [A] = [2], got {got}")):
        weights(named_mine(result), Signals(returns=[1.0, 2.0]))


@pytest.mark.parametrize("returned", [np.array, np.float32, list, tuple, torch.tensor])
def test_a_callable_may_return_an_array_or_a_sequence(returned: Any) -> None:
    expected = [0.5, 0.0, 2.0]
    result = returned([0.5, 2.0])
    found = weights(named_mine(result), Signals(returns=[1.0, INF, 3.0]))
    assert isinstance(found, torch.Tensor)
    assert found.tolist() == expected
    assert weights(named_mine([1, 3]), Signals(returns=[1.0, 3.0]), normalize=True).tolist() == [0.25, 0.75]


def test_an_array_is_copied_so_that_the_rule_may_reuse_it() -> None:
    buffer = np.array([1.0, 2.0])
    found = weights(named_mine(buffer), Signals(returns=[1.0, 2.0]))
    buffer[:] = 0.0
    assert found.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("result", [[1.0, NAN], np.array([INF, 1.0])])
def test_weights_that_are_not_finite(result: Any) -> None:
    with pytest.raises(ValueError, match="mine returned weights that are not finite"):
        weights(named_mine(result), Signals(returns=[1.0, 2.0]))


def test_weights_that_cancel_out_cannot_be_normalized() -> None:
    with pytest.raises(ValueError, match=r"mine returned weights that sum to 0, which cannot be normalized: \[1.0, -1.0\]"):
        weights(named_mine(torch.tensor([1.0, -1.0])), Signals(returns=[1.0, 2.0]), normalize=True)


def named_mine(result: Any) -> Any:
    def mine(given_signals: Signals) -> Any:
        return result

    return mine


HUGE = {torch.float64: 1.7e308, torch.float32: 3.3e38, torch.float16: 65000.0, torch.bfloat16: 3.3e38}


@pytest.mark.parametrize("dtype", list(HUGE), ids=str)
@pytest.mark.parametrize(
    "signs", [(1, -1, 0), (1, 1, 1), (-1, -1, -1), (1, 0.5, -0.25), (1, 1, -1)], ids=lambda signs: str(signs)
)
@pytest.mark.parametrize(
    ("rule", "signal"), [("r_weighted", "returns"), ("l_weighted", "losses"), ("reward_shares", "returns")]
)
def test_finite_signals_of_any_size_give_finite_weights(rule, signal, signs, dtype):
    values = torch.tensor([HUGE[dtype] * sign for sign in signs], dtype=dtype)
    found = weights(rule, Signals(**{signal: values}))
    assert found.isfinite().all()
    assert float(found.double().sum()) == pytest.approx(1.0 if rule == "reward_shares" else 2.0, rel=2e-2)
    order = values.double().argsort()
    assert (found.double()[order].diff() >= 0).all() or rule == "l_weighted"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("rule", ["r_weighted", "l_weighted"])
def test_the_smallest_signals_are_told_apart(rule, dtype):
    smallest = torch.finfo(dtype).smallest_normal
    found = weights(
        rule, Signals(returns=torch.tensor([smallest, 0, 0], dtype=dtype), losses=torch.tensor([smallest, 0, 0], dtype=dtype))
    )
    assert found.tolist() == pytest.approx([4 / 3, 1 / 3, 1 / 3])


@pytest.mark.parametrize("signs", [(1, 1, 1), (1, -1, -1), (1, 1, -0.5)], ids=str)
def test_finite_scores_of_any_size_give_finite_fitness(signs):
    returns = torch.tensor([1.7e308 * sign for sign in signs], dtype=torch.float64)
    for rule in ("raw", "centered", "ranks"):
        assert weights(rule, Signals(returns=returns)).isfinite().all()
    assert float(weights("raw", Signals(returns=returns), normalize=True).sum()) == pytest.approx(1.0)
