"""The server of a team: the replay, the number of gradient steps, and when the agents merge. Axis n: agents."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

from rl_agg.ledger import Ledger
from rl_agg.seeding import stream
from rllib_agg.envs.team.interface import Bools, TeamSpec
from rllib_agg.qmix.episodes import TeamEpisodes
from rllib_agg.qmix.learner import QMIXLearner
from rllib_agg.qmix.losses import Q_TAKEN_MEAN
from rllib_agg.qmix.merging import NetworkMerging
from rllib_agg.qmix.normalization import TeamNormalizer
from rllib_agg.qmix.overestimation import ValueCheck, best_return
from rllib_agg.qmix.replay import EpisodeReplay
from rllib_agg.qmix.rollout import TeamBroadcast, TeamReport, torch_threads

COUNTS = ("num_updates", "num_skipped", "num_steps", "num_rounds", "num_merges", "num_lost")


class TeamServer:
    """Learns from whole episodes, with a fixed number of gradient steps per episode.

    :param run: What all random numbers come from.
    """

    def __init__(self, config: Any, spec: TeamSpec, learner: QMIXLearner, run: int) -> None:
        self.config, self.learner, self.run = config, learner, run
        self.replay = EpisodeReplay(spec, config.replay_settings)
        self.ledger = Ledger(spec.num_agents)
        scheme, groups = config.sharing, config.groups(spec)
        merging = {"targets": config.merge_targets, "seed": run}
        self._merging = NetworkMerging(scheme, learner, groups, self.ledger, **merging) if scheme else None
        self.credits: deque[NDArray[np.float64]] = deque(maxlen=config.reward_buffer_size)
        """What each agent earned in the last episodes, each ``[n]``."""
        self.normalizer = TeamNormalizer(
            spec.state_size,
            rewards=config.reward_normalization,
            reward_scale=config.reward_scale,
            states=config.normalize_states,
            horizon=self.replay.capacity,
        )
        self._bootstrap = config.bootstrap_at_time_limit
        if self._bootstrap is None:
            self._bootstrap = not spec.limit_is_end
        self.value_check = ValueCheck(self._best_return)
        self.measures: dict[str, float] = {}
        self.num_updates = self.num_skipped = 0
        self.num_steps = self.num_rounds = self.num_merges = self.num_lost = 0
        self._due = 0.0
        self.num_trained = 0
        """Environment steps of the batches that the last round learned from."""

    @property
    def epsilon(self) -> float:
        """The share of random actions now."""
        steps, values = zip(*self.config.epsilon_schedule, strict=True)
        return float(np.interp(self.num_steps, steps, values))

    @property
    def earned(self) -> NDArray[np.float64]:
        """R, the sum of what each agent earned in the last episodes ``[n]``."""
        total: NDArray[np.float64] = np.sum(self.credits, axis=0)
        return total

    def broadcast(self) -> TeamBroadcast:
        """The current networks, and the share of random actions."""
        return TeamBroadcast(self.run, self.num_rounds, self.epsilon, self.learner.team.weights())

    def receive(self, report: TeamReport) -> None:
        """Store the episodes, and learn."""
        for played in report.played:
            self.replay.add(played.episodes)
            self.normalizer.observe(played.episodes)
            self.credits.extend(played.credits)
            self.num_steps += played.num_steps
            self.num_lost += played.num_lost
        self.num_rounds += 1
        self.num_trained = 0
        config = self.config
        enough = len(self.replay) >= config.train_batch_size_per_learner
        if enough and self.num_steps >= config.num_steps_sampled_before_learning_starts:
            self._due += config.updates_per_episode * sum(len(played.episodes) for played in report.played)
            with torch_threads(config.num_torch_threads):
                self._learn(int(self._due))
            self._due %= 1
        self.measures = {
            "merges": self.num_merges,
            "epsilon": self.epsilon,
            "replay_episodes": len(self.replay),
            "lost_episodes": self.num_lost,
            **(self._merging.followed if self._merging is not None else {}),
        }

    def _learn(self, num_updates: int) -> None:
        config, learner = self.config, self.learner
        measured: list[dict[str, torch.Tensor]] = []
        for _ in range(num_updates):
            drawn = self.replay.sample(stream("replay", self.run, self.num_updates), config.train_batch_size_per_learner)
            measured.append(learner.learn(self._as_learned(drawn)))
            self.num_trained += int(drawn.lengths.sum())
            self.num_updates += 1
            if self._merging is not None:
                self.num_merges += self._merging.step(self.earned, self.num_steps)
            if self.num_updates % config.target_network_update_freq == 0:
                learner.team.update_targets(config.tau)
        self.num_skipped += learner.num_skipped.pop(DEFAULT_MODULE_ID, 0)
        for name in measured[0] if measured else ():
            mean = float(torch.stack([measures[name] for measures in measured]).mean())
            learner.metrics.log_value((DEFAULT_MODULE_ID, name), mean, window=1)
            if name == Q_TAKEN_MEAN:
                self.value_check.check(mean)
        # Advances a schedule of learning rates.
        learner.after_gradient_based_update(timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: self.num_steps})

    def _as_learned(self, episodes: TeamEpisodes) -> TeamEpisodes:
        """Episodes with normalised rewards and states, and without a value after a time limit that counts as an end."""
        return dataclasses.replace(self.normalizer.apply(episodes), terminated=self._ended(episodes))

    def _ended(self, episodes: TeamEpisodes) -> Bools:
        return episodes.terminated if self._bootstrap else np.ones_like(episodes.terminated)

    def _best_return(self) -> float:
        stored = self.replay.stored
        return best_return(self.normalizer.rewards(stored.rewards), stored.lengths, self._ended(stored), self.config.gamma)

    def state_dict(self) -> dict[str, Any]:
        """All that later rounds depend on, except the learner; without the replay where the config says so."""
        return {
            **{name: getattr(self, name) for name in COUNTS},
            "run": self.run,
            "due": self._due,
            "credits": np.array(self.credits).reshape(-1, len(self.ledger.messages_per_agent)),
            "measures": dict(self.measures),
            "ledger": self.ledger.state_dict(),
            "normalizer": self.normalizer.state_dict(),
            "value_check": self.value_check.state_dict(),
            "merging": None if self._merging is None else self._merging.state_dict(),
            "replay": self.replay.state_dict() if self.config.store_buffer_in_checkpoints else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`; where the replay does not fit, raise ``ValueError`` before anything changes."""
        if state["replay"] is not None and self.config.store_buffer_in_checkpoints:
            self.replay.load_state_dict(state["replay"])
        else:
            self.replay.num_added = 0
        for name in COUNTS:
            setattr(self, name, state[name])
        self.run, self._due, self.measures = state["run"], state["due"], dict(state["measures"])
        self.credits.clear()
        self.credits.extend(state["credits"])
        self.normalizer.load_state_dict(state["normalizer"])
        self.value_check.load_state_dict(state["value_check"])
        self.ledger.load_state_dict(state["ledger"])
        if self._merging is not None:
            self._merging.load_state_dict(state["merging"])
