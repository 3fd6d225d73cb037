"""Signals that the server finds in the agents' vectors: by hand, by loops, and what does not change them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from rl_agg.comparisons import COMPARISONS, compare
from tests.core.gradients import matrices, normal


def compared(rows: torch.Tensor) -> dict[str, torch.Tensor]:
    return compare(rows, torch.ones(len(rows), dtype=torch.bool), COMPARISONS.keys())


def test_by_hand() -> None:
    """Directions (1, 0), (0, 1) and (-1, 0), of lengths 3, 1 and 10."""
    found = compared(torch.tensor([[3.0, 0.0], [0.0, 1.0], [-10.0, 0.0]]))
    np.testing.assert_allclose(found["norms"], [3, 1, 10])
    # The others' directions add up to (-1, 1), nothing and (1, 1)
    np.testing.assert_allclose(found["agreement"], [-1 / math.sqrt(2), math.nan, -1 / math.sqrt(2)])
    # Squared distances 10, 169 and 101: rows add up to 179, 111 and 270, of 560; variances 179 - 140, 111 - 140 and 270 - 140
    np.testing.assert_allclose(found["noise"], np.array([39, -29, 130]) * 3 / 140)


@pytest.mark.parametrize("seed", range(5))
def test_by_a_loop_over_agents(seed: int) -> None:
    rows = normal(7, 40, seed=seed).double().numpy() + 0.3
    found = compared(torch.from_numpy(rows))
    for agent, row in enumerate(rows):
        others = np.delete(rows, agent, axis=0)
        direction = sum(other / np.linalg.norm(other) for other in others)
        cosine = row @ direction / np.linalg.norm(row) / np.linalg.norm(direction)
        assert float(found["agreement"][agent]) == pytest.approx(cosine)
        assert float(found["norms"][agent]) == pytest.approx(np.linalg.norm(row))
    assert float(found["noise"].mean()) == pytest.approx(1)


def test_noise_is_unbiased() -> None:
    """Variances 1, 4, 9, 16 and 0.25 around one expectation, whose mean is 6.05."""
    spreads = torch.tensor([1.0, 2.0, 3.0, 4.0, 0.5])
    rows = 5 + spreads[:, None] * normal(5, 200_000)
    expected = spreads.square() / spreads.square().mean()
    torch.testing.assert_close(compared(rows)["noise"], expected.double(), atol=0.03, rtol=0.02)


@given(rows=matrices(), data=st.data())
def test_relabelling_agents_relabels_signals(rows: torch.Tensor, data: st.DataObject) -> None:
    order = torch.tensor(data.draw(st.permutations(range(len(rows)))))
    one, other = compared(rows), compared(rows[order])
    for name in COMPARISONS:
        torch.testing.assert_close(other[name], one[name][order], equal_nan=True, rtol=1e-6, atol=1e-6)


@given(rows=matrices(elements=st.integers(-20, 20).map(float)), scale=st.sampled_from([0.25, 8.0, -2.0]))
def test_units_do_not_matter(rows: torch.Tensor, scale: float) -> None:
    one, other = compared(rows), compared(rows * scale)
    for name in ("agreement", "noise"):
        torch.testing.assert_close(other[name], one[name], equal_nan=True)
    torch.testing.assert_close(other["norms"], one["norms"] * abs(scale))


@given(rows=matrices(elements=st.integers(-20, 20).map(float)), shift=st.integers(-9, 9))
def test_noise_is_around_whatever_is_common(rows: torch.Tensor, shift: int) -> None:
    assume(len(rows.unique(dim=0)) > 1)
    torch.testing.assert_close(compared(rows + shift)["noise"], compared(rows)["noise"])


def test_agreement_does_not_depend_on_lengths() -> None:
    rows = normal(6, 20)
    lengths = torch.tensor([1.0, 10.0, 0.1, 1e3, 1e-3, 1.0])
    torch.testing.assert_close(compared(rows * lengths[:, None])["agreement"], compared(rows)["agreement"])


def test_vectors_that_do_not_count_are_not_read() -> None:
    rows = normal(5, 8)
    counts = torch.tensor([True, False, True, True, True])
    rows[1] = torch.nan
    found, alone = compare(rows, counts, COMPARISONS.keys()), compared(rows[counts])
    for name in COMPARISONS:
        assert found[name][1].isnan()
        assert torch.equal(found[name][counts], alone[name])
    nobody = compare(rows, torch.zeros(5, dtype=torch.bool), COMPARISONS.keys())
    assert all(bool(values.isnan().all()) for values in nobody.values())


def test_where_there_is_nothing_to_compare_nothing_is_known() -> None:
    same = compared(normal(1, 8).expand(4, 8))
    assert same["noise"].isnan().all()
    torch.testing.assert_close(same["agreement"], torch.ones(4, dtype=torch.float64))
    pair = compared(normal(2, 8))
    assert pair["noise"].isnan().all()
    assert pair["agreement"].isfinite().all()
    assert compared(normal(1, 8))["agreement"].isnan().all()
    zeros = compared(torch.zeros(4, 8))
    assert zeros["agreement"].isnan().all()
    assert zeros["noise"].isnan().all()
    assert zeros["norms"].tolist() == [0.0] * 4
    silent = torch.cat([torch.zeros(1, 8), normal(3, 8)])
    assert compared(silent)["agreement"].isnan().tolist() == [True, False, False, False]
    torch.testing.assert_close(compared(silent)["agreement"][1:], compared(silent[1:])["agreement"])


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e12, 1e30])
def test_any_size_of_float32(size: float) -> None:
    rows = normal(6, 30)
    for name in ("agreement", "noise"):
        torch.testing.assert_close(compared(rows * size)[name], compared(rows)[name], rtol=1e-4, atol=1e-4)
    mixed = rows.clone()
    mixed[0] *= size
    assert compared(mixed)["agreement"].isfinite().all()
    assert compared(mixed)["noise"].isfinite().all()
