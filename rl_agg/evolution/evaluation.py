"""One episode for each of many parameter vectors. Axes: B episodes, k active ones, P parameters, D observation numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rl_agg.evolution.behaviours import Recorder
from rl_agg.evolution.mlp import MLP
from rl_agg.evolution.normalization import normalized
from rl_agg.population.environments import Environments, most_steps
from rl_agg.population.spaces import ActionDecoder, ObservationEncoder
from rl_agg.validation import check_number

STEPS_AT_ONCE = 64
"""Number of steps for which action noise is drawn ahead."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Results of the episodes.

    :param returns: Undiscounted ``[B]``; NaN if an observation or a parameter is not finite, which ends an episode.
    :param discounted: Discounted returns ``[B]``.
    :param lengths: Steps ``[B]``.
    :param statistics: For :mod:`rl_agg.evolution.normalization` ``[B, 2D + 1]``; 0 rows without a scale.
    :param behaviours: For :mod:`rl_agg.evolution.novelty` ``[B, N]``, if they were asked for.
    """

    returns: NDArray[np.float64]
    discounted: NDArray[np.float64]
    lengths: NDArray[np.int64]
    statistics: NDArray[np.float32]
    behaviours: NDArray[np.float32] | None = None


class PopulationEvaluator:
    """Runs episodes in parallel, with all networks in one matrix product per layer.

    :param environments: Copies of the environment.
    :param hidden: Sizes of the hidden layers.
    :param activation: Of the hidden layers.
    :param gamma: Discount in [0, 1].
    :param max_episode_steps: Time limit; ``None``: the environment's own.
    :param normalize_actions: See :class:`~rl_agg.population.spaces.ActionDecoder`.
    :param action_noise_stdev: As ``noise_stdev`` there.
    :raises ValueError: if episodes have no limit, a space is not supported, or a setting is out of range.
    """

    def __init__(
        self,
        environments: Environments,
        *,
        hidden: Sequence[int],
        activation: str = "tanh",
        gamma: float = 1.0,
        max_episode_steps: int | None = None,
        normalize_actions: bool = True,
        action_noise_stdev: float = 0.1,
    ) -> None:
        check_number("gamma", gamma, least=0, most=1)
        self.environments = environments
        self.encoder = ObservationEncoder(environments.observation_space)
        self.decoder = ActionDecoder(environments.action_space, normalize=normalize_actions, noise_stdev=action_noise_stdev)
        self.network = MLP((self.encoder.size, *hidden, self.decoder.size), activation)
        self.gamma = gamma
        self.max_steps = most_steps(environments, max_episode_steps)

    def __call__(
        self,
        parameters: NDArray[np.float32],
        seeds: NDArray[np.int64],
        *,
        samplers: Sequence[np.random.Generator] | None = None,
        scale: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
        record: Callable[[int], Recorder] | None = None,
    ) -> Outcomes:
        """Run one episode for each parameter vector.

        :param parameters: ``[B, P]``.
        :param seeds: Of the environments ``[B]``.
        :param samplers: One generator for each episode, to sample its actions; ``None``: the best actions.
        :param scale: Mean and standard deviation ``[D]`` to normalise observations by; their statistics are returned.
        :param record: Makes what records the behaviour of B episodes.
        """
        size = len(parameters)
        returns, discounted = np.zeros(size), np.zeros(size)
        lengths = np.zeros(size, dtype=np.int64)
        statistics = np.zeros((size if scale else 0, 2 * self.encoder.size + 1))
        active = np.arange(size)
        stacked, rows = self.network.stack(parameters), active  # rows: those of the active episodes in the stack
        inputs = self.encoder(self.environments.reset(seeds))
        recorder = None if record is None else record(size)
        if recorder is not None:
            recorder.add(active, inputs)
        discount, noise = 1.0, np.empty((size, 0, 0), dtype=np.float32)
        for step in range(self.max_steps):
            if scale:
                self._observe(statistics, active, inputs, scale[0])
                inputs = normalized(inputs, *scale)
            outputs = self._forward(stacked, rows, inputs)
            if not np.isfinite(outputs.sum()):
                finite = np.isfinite(outputs).all(axis=1)
                returns[active[~finite]] = discounted[active[~finite]] = np.nan
                active, rows, outputs = active[finite], rows[finite], outputs[finite]
                if not active.size:
                    break
            if samplers is not None:
                if step % STEPS_AT_ONCE == 0:
                    noise = np.stack([self.decoder.noise(sampler, STEPS_AT_ONCE) for sampler in samplers])
                outputs = outputs + noise[active, step % STEPS_AT_ONCE]
            observed, rewards, terminated, truncated = self.environments.step(active, self.decoder(outputs))
            inputs = self.encoder(observed)
            if recorder is not None:
                recorder.add(active, inputs)
            returns[active] += rewards
            discounted[active] += discount * rewards
            lengths[active] += 1
            discount *= self.gamma
            ended = terminated | truncated
            if ended.any():
                stay = ~ended
                active, rows, inputs = active[stay], rows[stay], inputs[stay]
                if not active.size:
                    break
                if 2 * len(active) <= len(stacked[0][0]):  # copying weights at each end would be slow
                    stacked, rows = [(weights[rows], biases[rows]) for weights, biases in stacked], np.arange(len(active))
        behaviours = None if recorder is None else recorder.behaviours()
        if behaviours is not None:  # an episode without one is masked, as one without a return
            returns[~np.isfinite(behaviours).all(axis=1)] = discounted[~np.isfinite(behaviours).all(axis=1)] = np.nan
        return Outcomes(returns, discounted, lengths, statistics.astype(np.float32), behaviours)

    def _forward(
        self,
        stacked: list[tuple[NDArray[np.float32], NDArray[np.float32]]],
        rows: NDArray[np.int64],
        inputs: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        size = len(stacked[0][0])
        if len(rows) == size:
            return self.network.forward(stacked, inputs)
        padded = np.zeros((size, inputs.shape[1]), dtype=np.float32)
        padded[rows] = inputs
        return self.network.forward(stacked, padded)[rows]

    @staticmethod
    def _observe(
        statistics: NDArray[np.float64], active: NDArray[np.int64], inputs: NDArray[np.float32], mean: NDArray[np.float32]
    ) -> None:
        size = inputs.shape[1]
        differences = (inputs - mean).astype(np.float64)
        statistics[active, 0] += 1
        statistics[active, 1 : size + 1] += differences
        statistics[active, size + 1 :] += differences**2
