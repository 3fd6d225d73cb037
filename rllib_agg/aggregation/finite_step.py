"""Optimiser steps that are taken only if the gradient is finite.

Ray 2.60's ``torch_skip_nan_gradients`` does the opposite of its name: it steps with NaN when it is set, and zeroes the NaN
and steps when it is not. Its check also costs two passes per parameter; this one is a single fused norm over all of them,
taken after the all-reduce, so that all learners decide alike.
"""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import torch
from ray.util import log_once

from rl_agg.optimizers import fuse
from rllib_agg.aggregation._compat import HookedLearner

logger = logging.getLogger(__name__)

SKIPPED_UPDATES = "skipped_updates"


class FiniteSteps(HookedLearner):
    """Skips the step of every module whose gradient is not finite, and counts it."""

    fuses_optimizers: ClassVar[bool] = True
    """Whether Adam steps by torch's fused kernel, which rounds otherwise than the one that RLlib uses."""

    def build(self) -> None:
        """Start with nothing skipped."""
        super().build()
        self.unfit_modules: set[str] = set()
        """Modules whose next step is skipped and counted, as they have no finite gradient."""
        self.waiting_modules: set[str] = set()
        """Modules that do not step in this minibatch because it is not their turn."""
        self.num_skipped: dict[str, int] = {}
        """Skipped steps since the last report, by module."""

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """RLlib's, with torch's fused kernel where the optimizer is Adam."""
        super().configure_optimizers_for_module(module_id=module_id, config=config)
        for _, optimizer in self.get_optimizers_for_module(module_id) if self.fuses_optimizers else ():
            fuse(optimizer)

    def modules_with_corrupt_gradient(self, gradients: dict[Any, torch.Tensor | None]) -> set[str]:
        """Find the modules whose gradient, the same on all learners, has NaN, infinity, or a norm that overflows."""
        given = {ref: gradient for ref, gradient in gradients.items() if gradient is not None}
        if self.has_grad_scaler or not given or is_finite(list(given.values())):
            return set()
        return {
            module_id
            for module_id, optimizer in self.optimizers()
            if not is_finite(list(self.filter_param_dict_for_optimizer(given, optimizer).values()))
        }

    def postprocess_gradients_for_module(self, *, module_id: str, **kwargs: Any) -> dict[Any, torch.Tensor]:
        """RLlib's clipping and logging, of modules that step."""
        if module_id in self.waiting_modules:
            return {}
        gradients: dict[Any, torch.Tensor] = super().postprocess_gradients_for_module(module_id=module_id, **kwargs)
        return gradients

    def apply_gradients(self, gradients_dict: dict[Any, torch.Tensor | None]) -> None:
        """Step the optimizers, except those of unfit and waiting modules."""
        for module_id in self.unfit_modules:
            self.num_skipped[module_id] = self.num_skipped.get(module_id, 0) + 1
            if log_once(f"agg_skipped_update_{module_id}"):
                logger.warning("A non-finite gradient of %s was not applied; later ones are only counted.", module_id)
        held = self.unfit_modules | self.waiting_modules
        if self.has_own_stepping and not held:
            super().apply_gradients(gradients_dict)
        else:
            parameters = self.parameters_by_ref
            for ref, gradient in gradients_dict.items():
                parameters[ref].grad = gradient
            for module_id, optimizer in self.optimizers():
                if module_id not in held:
                    self.step_optimizer(module_id, optimizer)
        self.unfit_modules, self.waiting_modules = set(), set()


def is_finite(gradients: list[torch.Tensor]) -> bool:
    """Whether gradients have no NaN, no infinity, and a norm that does not overflow."""
    # What torch.nn.utils.get_total_norm calls, without its grouping by device, which costs as much as the norm itself.
    return not gradients or bool(torch.stack(torch._foreach_norm(gradients)).sum().isfinite())
