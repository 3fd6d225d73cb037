"""QMIX, VDN, QTRAN, Weighted QMIX and independent Q-learning with recurrent networks, each agent's own or one for all.

Source: Rashid et al. (2018, 2020); Sunehag et al. (2018); Son et al. (2019); merges of the agents' networks: Zhang et al.
(2024).
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    LEARNER_RESULTS,
    NUM_NON_TRAINABLE_PARAMETERS,
    NUM_TRAINABLE_PARAMETERS,
)

from rl_agg import Scheme
from rl_agg.seeding import stream
from rllib_agg.aggregation._compat import OwnReplay
from rllib_agg.envs.team.interface import TeamEnv, TeamSpec
from rllib_agg.envs.team.registry import make_team_env
from rllib_agg.qmix.checks import check_config, check_shape
from rllib_agg.qmix.env_runner import TeamEnvRunner
from rllib_agg.qmix.episodes import precision
from rllib_agg.qmix.learner import QMIXLearner
from rllib_agg.qmix.metrics import log_played, smoothing
from rllib_agg.qmix.module import QMIXModule
from rllib_agg.qmix.networks import AgentNetworks
from rllib_agg.qmix.rollout import TeamPlayers, TeamReport, join_team_reports
from rllib_agg.qmix.server import TeamServer
from rllib_agg.qmix.settings import QMIXSettings
from rllib_agg.qmix.sharing import make_sharing, weighs_rewards
from rllib_agg.server_loop.loop import ServerAlgorithm

CREDITS_BY_REWARD = ("contribution", "env", "team")
"""Credits that are tried where merges depend on each agent's reward, the best first."""

ROLLOUTS = 4
"""Groups of episodes that an env runner plays in an iteration unless set: copies then wait less for the longest of them."""


class QMIXConfig(QMIXSettings):
    """Defines QMIX: a team of recurrent networks whose values a monotonic mixer combines.

    >>> config = QMIXConfig().environment("matrix/two_step").training(mixer="vdn", parameter_sharing="a_pps")
    >>> config.sharing.described["rule"], config.sharing.schedule.interval
    ('mean', 300)
    """

    default_learner = QMIXLearner
    old_names: ClassVar[dict[str, str]] = {
        **QMIXSettings.old_names,
        "exploration_config": "epsilon=[[env steps, share], ...]",
        "learning_starts": "num_steps_sampled_before_learning_starts",
        "buffer_size": "replay_buffer_config={'capacity': episodes}",
        "grad_norm_clipping": "grad_clip",
        "optim_alpha": "not needed: the optimiser is Adam",
        "optim_eps": "not needed: the optimiser is Adam",
    }
    why_one_policy = "trains a team, whose agents have one policy in RLlib's sense"
    default_module = QMIXModule

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or QMIX)
        self.env_runner_cls = TeamEnvRunner

    @property
    def sharing(self) -> Scheme | None:
        """What agents exchange; ``None``: nothing. ``ValueError`` if a setting is out of range, or two do not go together."""
        return make_sharing(self)

    def groups(self, spec: TeamSpec) -> list[NDArray[np.int64]]:
        """Numbers of the agents that merge with each other ``[g]``, in each group of several."""
        types = spec.agent_types if self.within_type else ("",) * spec.num_agents
        groups = (np.flatnonzero([own == kind for own in types]) for kind in dict.fromkeys(types))
        return [agents for agents in groups if len(agents) > 1]

    @property
    def _credits(self) -> tuple[str, ...]:
        """Credits to try, in this order."""
        if self.credit is not None:
            return (self.credit,)
        return CREDITS_BY_REWARD if weighs_rewards(self.sharing) else ("team",)

    def credit_for(self, spec: TeamSpec) -> str:
        """How an environment attributes rewards to agents."""
        return next((credit for credit in self._credits if credit in spec.credits), self._credits[-1])

    def open_team(self) -> TeamEnv:
        """Make the environment's copies, with the best credit that it supports; ``ValueError`` if there is none."""
        make = partial(make_team_env, self.env, self.num_envs_per_env_runner, settings=dict(self.env_config))
        *preferred, last = self._credits
        for credit in preferred:
            with contextlib.suppress(ValueError):  # the last attempt raises whatever else is wrong
                return make(credit=credit)
        return make(credit=last)

    def open_agents(self, worker_index: int = 0) -> TeamPlayers:
        """Make what plays, the same on all env runners."""
        env = self.open_team()
        check_shape(self, env.spec)
        networks = AgentNetworks(
            env.spec.num_agents,
            env.spec.num_actions,
            env.spec.observation_size,
            hidden=self.model_config["hidden_dim"],
            **self._kind_of_networks,
        )
        return TeamPlayers(env, networks, dtype=precision(self.replay_settings.dtype), threads=self.num_torch_threads)

    @property
    def _kind_of_networks(self) -> dict[str, bool]:
        shared = self.parameter_sharing == "full"
        return {"shared": shared, "agent_ids": shared if self.agent_ids is None else self.agent_ids}

    @property
    def model_derived(self) -> dict[str, Any]:
        """What the module takes from the training settings."""
        return {
            "mixer": self.mixer,
            "mixing_embed_dim": self.mixing_embed_dim,
            "central": self.weighting is not None,
            "averages": self.average_decay is not None,
            **self._kind_of_networks,
        }

    def validate(self) -> None:
        """Check the settings."""
        super().validate()
        check_config(self)


class QMIX(OwnReplay, ServerAlgorithm):
    """Groups of teams play an episode each; a server learns from the most recent thousands of episodes."""

    config_class = QMIXConfig
    server: TeamServer
    agents: TeamPlayers
    report: TeamReport
    join_reports = staticmethod(join_team_reports)

    def setup(self, config: Any) -> None:
        """RLlib's, then the server."""
        super().setup(config)
        sharing, scheme = self.config.parameter_sharing, self.config.sharing
        if isinstance(sharing, str) and weighs_rewards(scheme) and self.config.credit_for(self.agents.env.spec) == "team":
            warnings.warn(
                f"parameter_sharing={sharing!r} with credit='team' counts all agents alike"
                + (", which is 'a_pps'" if scheme.payload.layers is None else ""),
                UserWarning,
                stacklevel=2,
            )

    def make_server(self) -> TeamServer:
        """Begin with parameters drawn from the run's number, or those of a module that was loaded."""
        run = self.config.draw_run()
        if self.config.rl_module_spec.load_state_path is None:
            generator = torch.Generator().manual_seed(int(stream("start", run).integers(2**63)))
            module = self.learner.team
            drawn = copy.deepcopy(module).cpu()  # draws are the same on every device
            model = self.config.model_config
            drawn.initialize(
                generator,
                orthogonal=model["orthogonal_init"],
                same=self.config.same_init,
                mixer_scale=model["mixer_init_scale"],
            )
            module.load_state_dict(drawn.state_dict())
        return TeamServer(self.config, self.agents.env.spec, self.learner, run)

    def participants(self) -> NDArray[np.int64]:
        """All groups of a round."""
        return np.arange(self.config.rollouts_per_iteration or ROLLOUTS * max(1, self.config.num_env_runners))

    def log_episodes(self, report: TeamReport) -> tuple[int, int]:
        """Returns, lengths and wins."""
        credits = self.config.credit_for(self.agents.env.spec) != "team"
        log, window = self.metrics.log_value, smoothing(self.config)
        for played in report.played:
            log_played(log, played, window=window, prefix=(ENV_RUNNER_RESULTS,), credits=credits)
        return sum(played.num_steps for played in report.played), sum(len(played.episodes) for played in report.played)

    def num_trained(self, num_sampled: int) -> int:
        """Those of the batches."""
        return self.server.num_trained

    def log_round(self, report: TeamReport) -> None:
        """Add what the learner measured."""
        super().log_round(report)
        if self.server.num_trained:
            measured = self.learner.metrics.reduce()[DEFAULT_MODULE_ID]
            for name in (NUM_TRAINABLE_PARAMETERS, NUM_NON_TRAINABLE_PARAMETERS):  # logged once, NaN from then on
                measured.pop(name, None)
            self.metrics.aggregate([measured], key=(LEARNER_RESULTS, DEFAULT_MODULE_ID))
