"""RLlib's MultiAgentEnv as a team, with agents that die, join or take turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rllib_agg.envs.team.by_agent import AgentSpaces, ByAgent, NamedTeam
from rllib_agg.envs.team.listed import Outcome, Seen


class MultiAgentTeam(NamedTeam):
    """One copy of a ``MultiAgentEnv``.

    :param env: The environment; those who may ever be there are its ``possible_agents``.
    :param max_episode_steps: T.
    :param settings: As of :class:`~rllib_agg.envs.team.by_agent.NamedTeam`.
    """

    def __init__(self, env: Any, max_episode_steps: int, **settings: Any) -> None:
        spaces = AgentSpaces(
            {agent: env.get_observation_space(agent) for agent in env.possible_agents},
            {agent: env.get_action_space(agent) for agent in env.possible_agents},
        )
        observations, infos = env.reset(seed=0)
        settings = {"state": None, **settings}
        super().__init__(env, spaces, max_episode_steps, ByAgent(observations, {}, infos), **settings)

    def reset(self, seed: int) -> Seen:
        """Begin an episode."""
        observations, infos = self.env.reset(seed=seed)
        return self.look(ByAgent(observations, {}, infos))

    def step(self, actions: Sequence[int]) -> Outcome:
        """Step on. Who is in the observations acts next, unless it has just ended; the others do nothing."""
        observations, rewards, terminateds, truncateds, infos = self.env.step(self.chosen(actions))
        terminated, truncated = bool(terminateds.get("__all__")), bool(truncateds.get("__all__"))
        if not (terminated or truncated):
            observations = {
                agent: seen for agent, seen in observations.items() if not (terminateds.get(agent) or truncateds.get(agent))
            }
        return self.outcome(ByAgent(observations, rewards, infos), terminated=terminated, truncated=truncated)
