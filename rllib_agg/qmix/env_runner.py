"""Env runners for environments that a team steps together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from rl_agg.seeding import stream
from rllib_agg.envs.team.interface import TeamSpec
from rllib_agg.qmix.metrics import log_played, smoothing
from rllib_agg.qmix.module import spaces_of
from rllib_agg.server_loop.env_runner import EpisodicEnvRunner
from rllib_agg.server_loop.metrics import log_sampled

MOST_FRUITLESS = 3
"""Groups in a row without a valid episode after which an evaluation fails."""


class TeamSpaces:
    """The attributes that RLlib reads from an environment, for one that this package steps itself."""

    def __init__(self, spec: TeamSpec, num_envs: int) -> None:
        self.observation_space, self.action_space = spaces_of(spec)
        self.single_observation_space, self.single_action_space = self.observation_space, self.action_space
        self.num_envs = num_envs
        self.unwrapped = self

    def close(self) -> None:
        """There is nothing to close."""


@dataclass(frozen=True, slots=True)
class EvaluatedEpisode:
    """The counts of an episode that RLlib reads."""

    steps: int
    agents: int

    def env_steps(self) -> int:
        """Steps of the team."""
        return self.steps

    def agent_steps(self) -> int:
        """Steps of its agents."""
        return self.steps * self.agents


class TeamEnvRunner(EpisodicEnvRunner):
    """Plays groups of episodes on request, and evaluates."""

    env: Any
    worker_index: Any
    metrics: Any
    module: Any

    def make_env(self) -> None:
        """Make copies of the environment."""
        self.num_envs = self.agents.env.num_envs
        self.env = TeamSpaces(self.agents.env.spec, self.num_envs)
        self._run = self.config.draw_run()
        self._weights_number = self._num_groups = 0

    def set_state(self, state: Any) -> None:
        """RLlib's; the next evaluation's random numbers depend on the weights' number alone."""
        super().set_state(state)
        number = state.get(WEIGHTS_SEQ_NO, 0)
        if number and self.env is not None:
            self._weights_number, self._num_groups = number, 0

    def sample(  # type: ignore[override]
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool | None = None,
        random_actions: bool = False,
        force_reset: bool = False,
    ) -> list[EvaluatedEpisode]:
        """Evaluate: play whole episodes by the module's networks, in groups of ``num_envs``, each from a reset.

        :param num_timesteps: The least number of steps.
        :param num_episodes: The least number of episodes.
        :param random_actions: Draw all actions.
        :raises ValueError: if ``explore`` is set: training explores by :meth:`run_agents`.
        :raises RuntimeError: if no episode of several groups in a row is valid.
        """
        if explore or self.config.explore:
            raise ValueError("evaluation is without exploration; leave explore=False")
        spec = self.agents.env.spec
        found: list[EvaluatedEpisode] = []
        fruitless = lost = 0
        window = max(smoothing(self.config), (num_episodes or 0) + self.num_envs)  # all, and the rest of the last group
        while sum(episode.steps for episode in found) < (num_timesteps or 0) or len(found) < (num_episodes or 1):
            wanted = -(-max(1, (num_episodes or 1) - len(found)) // self.num_envs)
            first = ((self.worker_index or 0) << 32) + self._num_groups
            places = range(first, first + wanted)
            streams = [stream("evaluation", self._run, self._weights_number, place) for place in places]
            self._num_groups += wanted
            for played in self.agents.play_groups(self.module.networks, float(random_actions), streams):
                log_played(self.metrics.log_value, played, window=window, prefix=(), credits=False)
                found += [EvaluatedEpisode(length, spec.num_agents) for length in played.episodes.lengths.tolist()]
                lost += played.num_lost
                fruitless = 0 if len(played.episodes) else fruitless + 1
                if fruitless == MOST_FRUITLESS:
                    raise RuntimeError(
                        f"{lost} episodes broke down, or had rewards, observations or states that are not finite, the last "
                        f"{fruitless * self.num_envs} in a row: there is nothing to evaluate"
                    )
        log_sampled(self.metrics.log_value, sum(episode.steps for episode in found), len(found), prefix=())
        return found
