"""Corrections for comparing many things at once."""

from __future__ import annotations

import numpy as np
import pytest

from rl_agg.statistics import holm


def test_holm_by_hand() -> None:
    """0.01, 0.02, 0.03 and 0.005 times 3, 2, 1 and 4, none less than one before it; the third stops it at 0.05 / 2."""
    corrected, levels = holm([0.01, 0.04, 0.03, 0.005])
    assert corrected.tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert levels.tolist() == pytest.approx([0.05 / 3, 0.05 / 2, 0.05 / 2, 0.05 / 4])


def test_what_was_not_tested_is_no_hypothesis() -> None:
    corrected, levels = holm([0.01, np.nan, 0.04])
    assert corrected.tolist() == pytest.approx([0.02, np.nan, 0.04], nan_ok=True)
    assert levels.tolist() == pytest.approx([0.025, np.nan, 0.05], nan_ok=True)
    assert holm([])[0].tolist() == []
    assert holm([0.9, 0.8])[0].tolist() == [1.0, 1.0]


def test_the_family_errs_no_more_often_than_it_should() -> None:
    generator = np.random.default_rng(0)
    errs = [holm(generator.uniform(size=20))[0].min() < 0.05 for _ in range(2000)]
    assert np.mean(errs) == pytest.approx(0.05, abs=0.015)
