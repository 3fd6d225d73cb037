"""Models that learn in several threads of one process, as those of a search do."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

from sb3_agg.hooks.base import _unvalidated_distributions
from sb3_agg.off_policy.losses import noted


def test_each_thread_notes_its_own_losses() -> None:
    module = ModuleType("losses")
    module.loss = plain = torch.nn.functional.mse_loss  # type: ignore[attr-defined]
    both_inside, first_has_left = threading.Barrier(2, timeout=20), threading.Event()
    seen: dict[int, list[Tensor]] = {0: [], 1: []}

    def learn(agent: int) -> None:
        with noted(module, "loss", seen[agent].append):
            both_inside.wait()
            if agent:
                first_has_left.wait(20)
            module.loss(torch.full((2, 1), float(agent), requires_grad=True), torch.zeros(2, 1))
        first_has_left.set()

    threads = [threading.Thread(target=learn, args=(agent,)) for agent in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {agent: [losses.tolist() for losses in noted_] for agent, noted_ in seen.items()} == {
        0: [[0.0, 0.0]],
        1: [[1.0, 1.0]],
    }
    assert module.loss is plain


def test_a_thread_without_a_note_gets_the_plain_function() -> None:
    module = ModuleType("losses")
    module.loss = torch.nn.functional.mse_loss  # type: ignore[attr-defined]
    seen: list[Tensor] = []
    ones, zeros = torch.ones(2, 1, requires_grad=True), torch.zeros(2, 1)
    with noted(module, "loss", seen.append):
        thread = threading.Thread(target=lambda: module.loss(ones, zeros))
        thread.start()
        thread.join()
        assert seen == []
        assert float(module.loss(ones, zeros).detach()) == 1.0
    assert len(seen) == 1


def test_distributions_are_checked_again_when_the_last_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Distribution, "_validate_args", True)
    with ExitStack() as last:
        with _unvalidated_distributions:
            last.enter_context(_unvalidated_distributions)
            assert not Distribution._validate_args
        assert not Distribution._validate_args
    assert Distribution._validate_args is True
