"""Combiners compared with TorchJD's, and TorchJD's as combiners."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from rl_agg import combine
from rl_agg.combiners import make_combiner
from tests.core.gradients import normal

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
