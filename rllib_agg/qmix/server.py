"""What learns: the replay, how often a step is taken from it, and when the agents merge. Axis n: agents."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

from rl_agg.ledger import Ledger
from rl_agg.payloads import PeriodicSharing
from rl_agg.seeding import stream
from rllib_agg.envs.team.team import TeamSpec
from rllib_agg.qmix.learner import QMIXLearner
from rllib_agg.qmix.replay import EpisodeReplay
from rllib_agg.qmix.rollout import TeamOrder, TeamReport, one_pool


class TeamCentre:
    """Learns from whole episodes, so many steps for each.

    :param config: A QMIXConfig.
    :param spec: The environment's sizes.
    :param learner: Takes the steps.
    :param run: Whose streams of random numbers are drawn from.
    """

    def __init__(self, config: Any, spec: TeamSpec, learner: QMIXLearner, run: int) -> None:
        self.config, self.learner, self.run = config, learner, run
        self.replay = EpisodeReplay(spec, config.replay_settings)
        self.sharing: PeriodicSharing | None = config.sharing_for(spec)
        self.num_agents = spec.num_agents
        self.ledger = Ledger(self.num_agents)
        self.credits: deque[NDArray[np.float64]] = deque(maxlen=config.reward_buffer_size)
        """What each agent earned in the last episodes, each ``[n]``."""
        self.measures: dict[str, float] = {}
        self.num_updates = self.num_skipped = 0
        self.num_steps = self.num_rounds = self.num_merges = self.num_lost = 0
        self._due = 0.0
        self.has_learned = False
        """Whether steps were taken in the last round."""

    @property
    def epsilon(self) -> float:
        """The share of random actions now."""
        steps, values = zip(*self.config.epsilon_schedule, strict=True)
        return float(np.interp(self.num_steps, steps, values))

    def order(self) -> TeamOrder:
        """Play by what was learned so far."""
        return TeamOrder(self.run, self.num_rounds, self.epsilon, self.learner.team.weights())

    def receive(self, report: TeamReport) -> None:
        """Store the episodes, and learn."""
        for played in report.played:
            self.replay.add(played.episodes)
            self.credits.extend(played.credits)
            self.num_steps += played.num_steps
            self.num_lost += played.num_lost
        self.num_rounds += 1
        self.has_learned = False
        if self._can_learn():
            self._due += self.config.updates_per_episode * sum(len(played.episodes) for played in report.played)
            with one_pool(self.config.num_torch_threads):
                self._learn(int(self._due))
            self._due %= 1
        self.measures = {
            "merges": self.num_merges,
            "epsilon": self.epsilon,
            "replay_episodes": len(self.replay),
            "lost_episodes": self.num_lost,
        }

    def _can_learn(self) -> bool:
        config = self.config
        enough = len(self.replay) >= config.train_batch_size_per_learner
        return bool(enough and self.num_steps >= config.num_steps_sampled_before_learning_starts)

    def _learn(self, num_updates: int) -> None:
        config, learner = self.config, self.learner
        seen: list[dict[str, torch.Tensor]] = []
        for _ in range(num_updates):
            drawn = self.replay.sample(stream("replay", self.run, self.num_updates), config.train_batch_size_per_learner)
            seen.append(learner.learn(drawn))
            self.num_updates += 1
            if self.sharing is not None and self.num_updates % self.sharing.interval == 0:
                self._share(self.sharing)
            if self.num_updates % config.target_network_update_freq == 0:
                learner.team.update_targets(config.tau)
        self.num_skipped += learner.num_skipped.pop(DEFAULT_MODULE_ID, 0)
        self.has_learned = bool(seen)
        for name in seen[0] if seen else ():
            mean = float(torch.stack([measures[name] for measures in seen]).mean())
            learner.metrics.log_value((DEFAULT_MODULE_ID, name), mean, window=1)
        # Moves a schedule of learning rates on.
        learner.after_gradient_based_update(timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: self.num_steps})

    def _share(self, sharing: PeriodicSharing) -> None:
        speaks = sharing.speakers(self.num_agents)
        self.learner.share(sharing, torch.from_numpy(self.earned))
        shared = sharing.shared(dict(self.learner.team.networks.named_parameters()))
        copies = 1 + int(sharing.targets) + 2 * int(sharing.moments == "merge")
        numbers = copies * sum(parameter[0].numel() for parameter in shared.values())
        self.ledger.upload(speaks.numpy(), parameters=numbers, scalars=int(sharing.scheme != "a_pps"))
        self.ledger.download(speaks.numpy(), parameters=numbers)
        self.num_merges += 1

    @property
    def earned(self) -> NDArray[np.float64]:
        """R, what each agent earned in the last episodes together ``[n]``."""
        total: NDArray[np.float64] = np.sum(self.credits, axis=0)
        return total

    def state_dict(self) -> dict[str, Any]:
        """All that decides how it goes on, beside the learner; without the replay where the config says so."""
        counts = {name: getattr(self, name) for name in COUNTS}
        return {
            **counts,
            "run": self.run,
            "due": self._due,
            "credits": np.array(self.credits).reshape(-1, self.num_agents),
            "measures": dict(self.measures),
            "ledger": self.ledger.state_dict(),
            "replay": self.replay.state_dict() if self.config.store_buffer_in_checkpoints else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`.

        :raises ValueError: as :meth:`EpisodeReplay.load_state_dict`; all is as it was then.
        """
        if state["replay"] is not None and self.config.store_buffer_in_checkpoints:
            self.replay.load_state_dict(state["replay"])
        else:
            self.replay.num_added = 0
        for name in COUNTS:
            setattr(self, name, state[name])
        self.run, self._due, self.measures = state["run"], state["due"], dict(state["measures"])
        self.credits.clear()
        self.credits.extend(state["credits"])
        self.ledger.load_state_dict(state["ledger"])


COUNTS = (
    "num_updates",
    "num_skipped",
    "num_steps",
    "num_rounds",
    "num_merges",
    "num_lost",
)
