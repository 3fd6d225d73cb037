"""Which updates take the closed form."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from rl_agg.closed_form.modules import NoClosedFormError
from sb3_agg.closed_form.training import OBJECTIVES, ClosedForm, closed_form_of
from sb3_agg.patching import is_stock


class ClosedFormMixin:
    """The part of :class:`~sb3_agg.mixin.AggregationMixin` that concerns updates without a graph."""

    closed_form: bool
    policy: Any
    logger: Any
    why_no_closed_form: str | None
    """Why the last rollout or update took torch's graph; ``None`` if it did not."""

    def _set_up_closed_form(self) -> None:
        self._closed_form: ClosedForm | None = None
        self.why_no_closed_form = None if self.closed_form else "closed_form=False"
        self._logged_reasons: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Without the closed form, which is made again where a model is unpickled: its functions cannot be pickled."""
        return {**vars(self), "_closed_form": None}

    @property
    @abstractmethod
    def _stock_train(self) -> Callable[..., None]:
        """The algorithm's own ``train()``."""

    def _find_closed_form(self, *, steps: bool) -> ClosedForm | None:
        """The closed form of the policy as it is now; ``None`` if there is none, which the log says once.

        :param steps: Whether the policy's optimiser is about to step.
        """
        if not self.closed_form:
            self.why_no_closed_form = "closed_form=False"
            return None
        try:
            train = self._stock_train
            if train not in OBJECTIVES or not is_stock(train):
                raise NoClosedFormError(f"{train.__qualname__}() is not the train() of SB3's PPO, MaskablePPO or A2C")
            self._closed_form = form = closed_form_of(self.policy, self._closed_form)
            if steps and not form.optimizer.adopt():
                raise NoClosedFormError("the optimiser has stepped parameters unequally often")
        except NoClosedFormError as error:
            self.why_no_closed_form = str(error)
            if str(error) not in self._logged_reasons:
                self._logged_reasons.add(str(error))
                self.logger.info(f"closed form not used: {error}")
            return None
        self.why_no_closed_form = None
        return form
