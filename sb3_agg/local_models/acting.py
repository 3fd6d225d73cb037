"""Rollouts in which each agent acts by parameters of its own. Axis A: agents, one sub-environment each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sb3_agg.local_models.stacked_policy import Named, StackedPolicy
from sb3_agg.patching import temporarily
from sb3_agg.rollouts.truncation import truncated_agents
from sb3_agg.samples import num_rows


class LocalActing:
    """Replace the policy's methods while SB3 collects: batches of A rows go to the agents' networks, others to the policy's.

    All agents share one distribution object, which draws from torch's generator as SB3 does.

    :param policy: SB3's actor-critic policy.
    :param stacked_policy: Calls it with other parameters.
    :param stacked: Parameters and buffers of the agents, ``[A, ...]`` each, by name.
    """

    def __init__(self, policy: Any, stacked_policy: StackedPolicy, stacked: Named) -> None:
        self._policy = policy
        self._stacked = stacked
        self._num_agents = len(next(iter(stacked.values())))
        self._stacked_policy = stacked_policy
        self._forward: Callable[..., Any] = policy.forward
        self._predict_values: Callable[..., Tensor] = policy.predict_values
        self._truncated: deque[int] = deque()

    def __reduce__(self) -> Any:
        """A copy of the policy acts by its own methods, whose parameters are its own."""
        return _released, (type(self), self._policy)

    def note_step(self, infos: list[dict[str, Any]], dones: NDArray[np.bool_]) -> None:
        """Record one step of all agents; SB3 then asks for the value of each last state that a time limit cut off, in order.

        :param infos: A dictionaries.
        :param dones: ``[A]``.
        """
        self._truncated = deque(truncated_agents(infos, dones))

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Replace the policy's methods inside."""
        with temporarily(self._policy, forward=self.forward, predict_values=self.predict_values):
            yield

    def forward(
        self, observations: Any, deterministic: bool = False, action_masks: NDArray[Any] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Actions ``[A, ...]``, values ``[A, 1]`` and log-probabilities ``[A]``, as the policy's own ``forward``."""
        masks = {} if action_masks is None else {"action_masks": action_masks}
        if num_rows(observations) != self._num_agents:
            outputs: tuple[Tensor, Tensor, Tensor] = self._forward(observations, deterministic, **masks)
            return outputs
        values, *parameters = self._stacked_policy(self._run_networks, self._stacked, observations)
        distribution = self._policy.action_dist.proba_distribution(*parameters)
        if action_masks is not None:
            distribution.apply_masking(action_masks)
        actions = distribution.get_actions(deterministic=deterministic)
        log_prob = distribution.log_prob(actions)
        assert values is not None
        return actions.reshape(-1, *self._policy.action_space.shape), values, log_prob

    def _run_networks(self, observations: Any) -> tuple[Tensor, ...]:
        """Values, and the parameters that the policy passes to its distribution."""
        policy, parameters = self._policy, list[Tensor]()

        def record(*args: Tensor, **kwargs: Tensor) -> Any:
            parameters.extend([*args, *kwargs.values()])
            return policy.action_dist

        nothing = torch.zeros(1, *policy.action_space.shape, device=policy.device)
        with temporarily(
            policy.action_dist, proba_distribution=record, get_actions=lambda **_: nothing, log_prob=lambda _: nothing
        ):
            _, values, _ = self._forward(observations)
        return values, *[parameter.expand_as(parameters[0]) for parameter in parameters]

    def predict_values(self, observations: Any, *args: Any) -> Tensor:
        """Values of each agent's observation ``[A, 1]``, or ``[1, 1]`` of one that its time limit cut off."""
        rows = num_rows(observations)
        if rows == 1 and self._truncated:
            agent = self._truncated.popleft()
            stacked = {name: tensor[agent : agent + 1] for name, tensor in self._stacked.items()}
        elif rows == self._num_agents:
            stacked = self._stacked
        else:
            return self._predict_values(observations, *args)
        (values,) = self._stacked_policy(self._predict_values, stacked, observations, *args)
        assert values is not None
        return values


class LoopedActing(LocalActing):
    """The same for policies that are called for one agent after the other, with whatever arguments and results they have."""

    def forward(self, observations: Any, *args: Any, **kwargs: Any) -> Any:
        """As the policy's own ``forward``."""
        if num_rows(observations) != self._num_agents:
            return self._forward(observations, *args, **kwargs)
        return tuple(self._act_by_agent(observations, *args, **kwargs))

    def _act_by_agent(self, observations: Any, *args: Any, **kwargs: Any) -> list[Tensor | None]:
        return self._stacked_policy(self._forward, self._stacked, observations, *args, **kwargs)


class ExploringActing(LoopedActing):
    """The same for gSDE, whose noise is drawn ahead: each agent's matrix by its own deviations."""

    _matrices: Tensor | None  # [A, F, D]

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._reset_noise: Callable[..., None] = self._policy.reset_noise

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Replace the policy's methods inside."""
        with super().hooked(), temporarily(self._policy, reset_noise=self.reset_noise):
            yield

    def reset_noise(self, n_envs: int = 1) -> None:
        """Draw the agents' matrices, then the policy's own: its distribution keeps what was drawn last."""
        if self._num_agents:
            (self._matrices,) = self._stacked_policy(self._draw, self._stacked, torch.empty(self._num_agents))
        self._reset_noise(n_envs)

    @torch.no_grad()
    def _draw(self, _: Tensor) -> Tensor:
        """One agent's matrix ``[1, F, D]``."""
        self._policy.action_dist.sample_weights(self._policy.log_std)
        matrices: Tensor = self._policy.action_dist.exploration_matrices
        return matrices

    def _act_by_agent(self, observations: Any, *args: Any, **kwargs: Any) -> list[Tensor | None]:
        return self._stacked_policy(self._act, self._stacked, observations, self._matrices, *args, **kwargs)

    def _act(self, observations: Any, matrices: Tensor, *args: Any, **kwargs: Any) -> Any:
        with temporarily(self._policy.action_dist, exploration_mat=matrices[0]):
            return self._forward(observations, *args, **kwargs)


def _released(kind: type[LocalActing], policy: Any) -> LocalActing:
    """What acts for a copy of a policy: no batch is of any agents."""
    acting = kind.__new__(kind)
    acting._policy, acting._num_agents, acting._truncated = policy, 0, deque()
    acting._forward, acting._predict_values = policy.forward, policy.predict_values
    if isinstance(acting, ExploringActing):
        acting._reset_noise = policy.reset_noise
    return acting
