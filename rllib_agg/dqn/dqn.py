"""AggDQN: RLlib's DQN with its config, plus aggregation, or with a gate over transitions."""

from __future__ import annotations

from functools import partial
from typing import Any, Self

import numpy as np
import tree  # type: ignore[import-untyped]
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.offline.offline_env_runner import OfflineSingleAgentEnvRunner
from ray.rllib.utils.metrics import LEARNER_RESULTS

from rl_agg.gates import TransitionGate
from rllib_agg.aggregation._compat import UNSET
from rllib_agg.aggregation.agents import agent_of, agent_on
from rllib_agg.aggregation.learner import STATE
from rllib_agg.dqn.env_runner import TD_ERRORS, TransitionEnvRunner
from rllib_agg.dqn.learner import AggDQNTorchLearner
from rllib_agg.replay import ReplayAlgorithm, ReplayConfigMixin
from rllib_agg.replay.buffers import PRIORITIZED

PRIORITIES = ("max", TD_ERRORS)
FLOAT, ACTION = 4, 2
"""Canonical bytes of a number, and of an action with whether it was the episode's last."""
AGG = (LEARNER_RESULTS, DEFAULT_MODULE_ID, "agg")


class AggDQNConfig(ReplayConfigMixin, DQNConfig):
    """``DQNConfig`` with aggregation: replace the one by the other in an existing script.

    >>> config = AggDQNConfig().environment("CartPole-v1").env_runners(num_env_runners=0, num_envs_per_env_runner=4)
    >>> config.training(aggregation="l_weighted").num_agents
    4
    """

    exchanged = ("gradients", "transitions")
    default_learner = AggDQNTorchLearner

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or AggDQN)
        self.initial_priorities = "max"

    def training(self, *, initial_priorities: str = UNSET, **kwargs: Any) -> Self:
        """Set up the training.

        :param initial_priorities: The first priority of a transition in a prioritised replay. ``"max"``: the largest so far,
            as in RLlib; ``"td_error"``: its error by the network that its env runner acted with.
        :param kwargs: Those of :meth:`AggConfigMixin.training` and of DQN. With ``payload="transitions"`` agents send
            transitions instead of gradients, and ``communication`` may be ``"td_error"``.
        """
        super().training(**kwargs)
        return self.take(initial_priorities=initial_priorities)

    @property
    def sends_transitions(self) -> bool:
        """Whether the payload is transitions."""
        content: str = self.make_scheme().payload.content
        return content == "transitions"

    @property
    def needs_errors(self) -> bool:
        """Whether env runners compute the errors of their transitions."""
        gate = self.make_scheme().make_gate(self.num_agents)
        return self.initial_priorities == TD_ERRORS or isinstance(gate, TransitionGate)

    def validate(self) -> None:
        """Check the settings, and that env runners can compute errors where they must."""
        super().validate()
        self.check_choice("initial_priorities", PRIORITIES)
        if self.initial_priorities == TD_ERRORS and self.replay_buffer_config["type"] != PRIORITIZED:
            raise ValueError(
                f"initial_priorities={TD_ERRORS!r} is for a replay that draws by priority; set "
                f"replay_buffer_config={{'type': {PRIORITIZED!r}}}, not {self.replay_buffer_config['type']!r}"
            )
        if self.sends_transitions and self.attack is not None:
            raise ValueError("attack changes gradients, but payload 'transitions' has none; leave attack out")
        if self.needs_errors and not self.in_evaluation:
            self._check_errors()

    def _check_errors(self) -> None:
        why = f"communication={self.communication!r} and initial_priorities={self.initial_priorities!r} need"
        if self.n_step != 1:
            raise ValueError(
                f"{why} each transition's error when its env runner sends it, but an error over n steps is known n - 1 steps "
                f"later; set n_step=1, not {self.n_step!r}"
            )
        if self.model_config.get("use_lstm"):
            raise ValueError(f"{why} a network without states, for a transition alone does not have them; leave use_lstm out")
        if self.env_runner_cls is None:
            self.env_runner_cls = TransitionEnvRunner
        runner = self.env_runner_cls
        if not (isinstance(runner, type) and issubclass(runner, TransitionEnvRunner)):
            raise ValueError(f"{why} env runners that compute errors; derive {runner} from TransitionEnvRunner")
        output: Any = self.output
        if output and not issubclass(runner, OfflineSingleAgentEnvRunner):
            raise ValueError(f"{why} env runners that store no episodes; leave out output={output!r}")


class AggDQN(ReplayAlgorithm):
    """RLlib's DQN; what else differs is in its learner, replay and env runners."""

    config_class = AggDQNConfig

    def setup(self, config: Any) -> None:
        """RLlib's; where agents send transitions, their exchange counts them."""
        super().setup(config)
        self.exchange = self.config.make_exchange() if self.config.sends_transitions else None
        if self.exchange is not None:
            self.local_replay_buffer.on_add = self._charge_transitions
            network = self.module_state(inference_only=True)[COMPONENT_RL_MODULE]
            self._num_parameters = sum(np.size(leaf) for leaf in tree.flatten(network))

    def training_step(self) -> None:
        """DQN's; then agents that sent transitions have got the network, if it has learned."""
        drawn = self.local_replay_buffer.sampled_timesteps
        super().training_step()
        if self.exchange is not None:
            if self.local_replay_buffer.sampled_timesteps > drawn:
                self.exchange.charge_answers(np.ones(self.config.num_agents, dtype=np.int64), self._num_parameters)
            totals = self.exchange.ledger.summary()
            del totals["physical_bytes"]  # episodes are what moves, and Ray's to count
            self.metrics.log_dict(totals, key=AGG, window=1)

    def _charge_transitions(self, episodes: list[Any]) -> None:
        """Count what has arrived: one message of each agent that sends."""
        assert self.exchange is not None
        agents = np.array([agent_of(episode) for episode in episodes], dtype=np.int64)
        count = partial(np.bincount, agents, minlength=self.config.num_agents)
        floats = 2 if self.config.initial_priorities == TD_ERRORS else 1  # a reward, and its error
        num_bytes = count(weights=[transition_bytes(episode, floats) for episode in episodes]).astype(np.int64)
        nothing = np.zeros(self.config.num_agents, dtype=np.int64)
        self.exchange.charge(count() > 0, nothing, up={}, down={}, encoded={"transitions": num_bytes})
        self.metrics.log_value((*AGG, "transitions"), sum(map(len, episodes)), reduce="lifetime_sum")

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """RLlib's; a full one with what was exchanged, and what the agents' gates remember."""
        state: dict[str, Any] = super().get_state(components, not_components=not_components, **kwargs)
        if components is None and self.exchange is not None:
            memories = self.env_runner_group.foreach_env_runner(_own_memory)
            usual = {agent: value for own in memories for agent, value in own.items()}
            state[STATE] = {"exchange": self.exchange.state_dict(), "usual": usual}
        return state

    def apply_state(self, state: dict[str, Any]) -> None:
        """RLlib's, with both; a gate that was another starts afresh."""
        super().apply_state(state)
        if STATE in state and self.exchange is not None:
            same_gate = state[STATE]["exchange"]["scheme"]["gate"] == self.exchange.scheme.gate
            self.exchange.load_state_dict(state[STATE]["exchange"])
            usual = dict(state[STATE]["usual"]) if same_gate else {}
            self.env_runner_group.foreach_env_runner(lambda runner: setattr(runner, "usual", dict(usual)))


def _own_memory(runner: Any) -> dict[int, float]:
    """What the gates of an env runner's own agents remember; a restored runner has that of all, which goes out of date."""
    agents = {agent_on(runner, copy) for copy in range(runner.config.num_envs_per_env_runner)}
    return {agent: value for agent, value in getattr(runner, "usual", {}).items() if agent in agents}


def transition_bytes(episode: Any, floats: int) -> int:
    """Canonical bytes of a chunk of an episode: its observations, and for each step an action with whether it was the last.

    :param floats: What comes with each step as well.
    """
    leaves = [np.asarray(leaf) for leaf in tree.flatten(episode.get_observations())]
    return sum(leaf.size * min(leaf.itemsize, FLOAT) for leaf in leaves) + len(episode) * (ACTION + FLOAT * floats)


class DeepEBCDQLConfig(AggDQNConfig):
    """Defines event-based communication in distributed Q-learning with a network: agents send transitions of large error.

    ``communication_kwargs`` are ``rho``, ``beta`` and ``epsilon``, see :class:`~rl_agg.gates.TdErrorTrigger`.
    """

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or DeepEBCDQL)
        self.payload = "transitions"
        self.communication = "td_error"
        self.initial_priorities = TD_ERRORS


class DeepEBCDQL(AggDQN):
    """Event-based communication in distributed Q-learning with a network.

    Source: Ornia and Mazo (2021), for tables; Horgan et al. (2018), for priorities.
    """

    config_class = DeepEBCDQLConfig
