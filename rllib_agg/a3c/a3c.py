"""A3C: env runners compute gradients; the server applies each as it arrives, and answers with fresh weights.

Source: Mnih et al. (2016), algorithm S3, with a parameter server in place of shared memory.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import Any, ClassVar, Self

import numpy as np
import ray
from numpy.typing import NDArray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, LEARNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME
from ray.rllib.utils.schedules.scheduler import Scheduler
from torch import Tensor

from rl_agg import Scheme
from rl_agg.arrivals import ArrivalExchange
from rl_agg.per_agent_gradients import flat, unflatten
from rl_agg.population import buffer_bytes
from rl_agg.schedules import EveryStep, OnArrival
from rl_agg.validation import check_count
from rllib_agg.a3c.env_runner import A3CEnvRunner
from rllib_agg.a3c.learner import A3CTorchLearner, GradientMessage
from rllib_agg.a3c.running_signals import RunningSignals
from rllib_agg.aggregation._compat import UNSET, ModelDefaults
from rllib_agg.aggregation.config import AggregationSettings
from rllib_agg.aggregation.learner import STATE
from rllib_agg.aggregation.restoring import RestoringAlgorithm
from rllib_agg.aggregation.timeouts import check_timeout, deadline_of

logger = logging.getLogger(__name__)

TAG = "gradient"
AGG = (LEARNER_RESULTS, DEFAULT_MODULE_ID, "agg")
POLL_SECONDS = 0.005
"""Ray waits this long for *all* outstanding gradients, so it bounds the delay of the first one."""


class A3CConfig(AggregationSettings, ModelDefaults):
    """Defines A3C: every env runner is an agent that computes gradients on its own copy of the weights.

    >>> A3CConfig().environment("CartPole-v1").env_runners(num_env_runners=4).num_agents
    4
    """

    not_used = ("train_batch_size", "train_batch_size_per_learner", "num_epochs", "minibatch_size", "shuffle_batch_per_epoch")
    old_names: ClassVar[dict[str, str]] = {
        **AggregationSettings.old_names,
        "sample_async": "not needed: env runners always sample while the server learns",
    }
    default_learner = A3CTorchLearner
    default_module = DefaultPPOTorchRLModule
    model_defaults: ClassVar[dict[str, Any]] = {"vf_share_layers": False}

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or A3C)
        self.agents = "env_runner"
        self.gradients_per_iteration = 100
        self.vf_loss_coeff = 0.5
        self.entropy_coeff: Any = 0.01
        self.lambda_ = 1.0
        self.lr = 1e-3
        self.grad_clip = 40.0
        self.grad_clip_by = "global_norm"
        self.num_env_runners = 2
        self.rollout_fragment_length = 20
        self.env_runner_cls = A3CEnvRunner
        self.min_time_s_per_iteration = None

    def training(
        self,
        *,
        gradients_per_iteration: int = UNSET,
        vf_loss_coeff: float = UNSET,
        entropy_coeff: Any = UNSET,
        lambda_: float = UNSET,
        **kwargs: Any,
    ) -> Self:
        """Set up the training.

        :param gradients_per_iteration: Number of gradients that one ``train()`` takes, those included that a gate withholds or
            that a rule gives no weight.
        :param vf_loss_coeff: Weight of the value function's squared error.
        :param entropy_coeff: :math:`\\beta`, a number or a schedule ``[[step, value], ...]``.
        :param lambda_: 1: the n-step return of the paper; below it, shorter returns are mixed in.
        :param kwargs: Those of :meth:`AggregationSettings.training` and RLlib's own.
        """
        super().training(**kwargs)
        return self.take_arguments(locals())

    def validate(self) -> None:
        """Check the settings; ``ValueError`` names the one that is wrong."""
        self.check_no_offline_data()
        super().validate()
        self.check_choice("agents", ("env_runner",))
        if setting := self.changed(self.not_used):
            raise ValueError(f"A3C does not use {setting}; rollout_fragment_length says what a gradient is of")
        if self.num_learners:
            raise ValueError(
                f"A3C has one central learner, in the algorithm's own process; set num_learners=0, not {self.num_learners}"
            )
        if self.num_gpus_per_env_runner:
            raise ValueError(
                "A3C's env runners compute gradients on their CPUs; set num_gpus_per_env_runner=0, not "
                f"{self.num_gpus_per_env_runner}"
            )
        if self.algorithm_config_overrides_per_module:
            raise ValueError(
                "A3C has one module, so that algorithm_config_overrides_per_module has no use; set it by .training()"
            )
        if self.is_multi_agent:
            raise ValueError("A3C takes single-agent environments; for several policies use AggPPOConfig")
        if not (isinstance(self.env_runner_cls, type) and issubclass(self.env_runner_cls, A3CEnvRunner)):
            raise ValueError(f"A3C's env runners compute gradients; derive {self.env_runner_cls} from A3CEnvRunner")
        if not issubclass(self.learner_class, A3CTorchLearner):
            raise ValueError(f"A3C's learner takes and applies gradients; derive {self.learner_class} from A3CTorchLearner")
        fragments = self.batch_mode == "truncate_episodes" and isinstance(self.rollout_fragment_length, int)
        if not fragments and not self.in_evaluation:  # RLlib evaluates on complete episodes
            raise ValueError("A3C learns from fragments of rollout_fragment_length steps; give a number, and leave batch_mode")
        check_count("gradients_per_iteration", self.gradients_per_iteration, least=1)
        self.check_lr()
        check_timeout(self.sample_timeout_s)
        if self.model_config.get("use_lstm"):
            raise ValueError("A3C takes MLP and CNN modules; use_lstm is not supported")
        description = {"setting_name": "entropy_coeff", "description": "entropy coefficient"}
        Scheduler.validate(fixed_value_or_schedule=self.entropy_coeff, **description)

    def make_scheme(self) -> Scheme:
        """The scheme, carried out as gradients arrive; ``ValueError`` also if A3C cannot exchange the payload, or not then."""
        scheme = super().make_scheme()
        if scheme.payload.content != "gradients" or scheme.payload.local:
            raise ValueError(
                f"payload {scheme.described['payload']!r} (aggregation={self.aggregation!r}) does not fit A3C: its env "
                "runners have no parameters of their own and send gradients at the server's; leave payload='gradients'"
            )
        if not isinstance(scheme.schedule, EveryStep | OnArrival):
            raise ValueError(
                f"interval={self.interval!r} does not fit A3C: its server steps with each gradient as it arrives; "
                "leave interval=1"
            )
        return dataclasses.replace(scheme, schedule=OnArrival())

    def make_exchange(self) -> ArrivalExchange:
        """What carries the scheme out, before the first gradient; ``ValueError`` if it does not fit the number of agents."""
        exchange = ArrivalExchange(self.make_scheme(), self.num_agents, attack=self.attack, seed=self.seed)
        exchange.check()
        return exchange

    def check_module_settings(self) -> None:
        """Check the scheme, and that it goes with the number of agents."""
        super().check_module_settings()
        if not self.in_evaluation:  # whose env runners are not the agents
            self.make_exchange()


class A3C(RestoringAlgorithm, Algorithm):
    """Asynchronous advantage actor-critic."""

    config_class = A3CConfig
    runners_need_whole_module = True

    def setup(self, config: Any) -> None:
        """RLlib's, then the server's state."""
        super().setup(config)
        self.learner = self.local_learner
        module = self.learner.module[DEFAULT_MODULE_ID]
        if module.is_stateful():
            raise ValueError(f"A3C takes MLP and CNN modules; {type(module).__name__} is recurrent")
        self.signals = RunningSignals(self.config.num_agents)
        self.exchange = self.config.make_exchange()

    def training_step(self) -> None:
        """Take ``gradients_per_iteration`` gradients, or fewer if no valid one arrives for ``sample_timeout_s``."""
        self._collect_gradients()
        self.metrics.log_dict({**self.exchange.ledger.summary(), **self.exchange.followed}, key=AGG, window=1)
        self.metrics.log_value((*AGG, "masked_gradients"), 0, reduce="lifetime_sum")  # logged from the first iteration on
        self.metrics.aggregate([self.learner.metrics.reduce()], key=LEARNER_RESULTS)

    def _collect_gradients(self) -> None:
        if self.env_runner_group.num_remote_env_runners() == 0:
            for _ in range(self.config.gradients_per_iteration):
                answer = self.exchange.encode_answer(0, self._parameters)
                state = self._holding(answer.parameters, self.module_state(inference_only=False))
                self.exchange.charge_answer(0, answer)
                self.receive(0, *self.env_runner.sample_gradient(state, self.timesteps))
            return
        group = self.env_runner_group
        self._send_weights(group.healthy_env_runner_ids())  # busy ones keep their request and get no second one
        taken, deadline = 0, deadline_of(self.config.sample_timeout_s)
        while taken < self.config.gradients_per_iteration and time.monotonic() < deadline:
            arrived = group.fetch_ready_async_reqs(tags=TAG, timeout_seconds=POLL_SECONDS)
            for runner, (message, sampled, learned) in arrived:
                if self.receive(runner - 1, message, sampled, learned):
                    taken += 1
                    deadline = deadline_of(self.config.sample_timeout_s)
            if arrived:
                self._send_weights([runner for runner, _ in arrived])
            elif group.num_healthy_remote_env_runners() == 0:
                break
        if not taken:
            seconds = self.config.sample_timeout_s
            logger.warning("No gradient that could be applied arrived within sample_timeout_s=%s seconds.", seconds)

    def receive(self, agent: int, message: GradientMessage, sampled: Any, learned: Any) -> bool:
        """Let a gradient go through the exchange, and step with what comes out; an invalid one is only counted.

        :return: Whether it was valid, and its agent not masked.
        """
        self.metrics.aggregate([sampled], key=ENV_RUNNER_RESULTS)
        self.metrics.aggregate([learned], key=LEARNER_RESULTS)
        valid, gradient = False, message.vector().to(self.learner.device)
        # A gradient of later weights was under way when an older checkpoint was restored.
        if message.num_samples and message.seq_no <= self.learner.weights_seq_no:
            self.signals.observe(agent, returns=message.episode_return, losses=message.loss, num_samples=message.num_samples)
            valid = bool(gradient.sum().isfinite()) and not bool(self.signals.signals().masked()[agent])
        if self.env_runner_group.num_remote_env_runners():
            self.exchange.ledger.physical_bytes += buffer_bytes(message)
        self.metrics.log_value((*AGG, "masked_gradients"), int(not valid), reduce="lifetime_sum")
        if not valid:
            self.exchange.charge(self._only([agent]), self._only([]), up={"gradients": len(gradient)}, down={})
            return False
        scale = self.learner.step_scale(message) if self.exchange.scales else None
        step = self.exchange.arrive(agent, gradient, self.signals.signals(), scale=scale)
        if step is not None:
            self.metrics.log_value((*AGG, "staleness"), self.learner.weights_seq_no - message.seq_no, window=100)
            self.metrics.log_value((*AGG, "weight"), self.exchange.factor(agent, self.signals.signals()), window=100)
            self.learner.apply_step(step, message, timesteps=self.timesteps)
        self.exchange.end_update()
        return True

    def _send_weights(self, runners: list[int]) -> None:
        state, parameters = self.module_state(inference_only=False), self._parameters
        num_bytes, timesteps = buffer_bytes(state[COMPONENT_RL_MODULE]), self.timesteps
        common = None if self.exchange.scheme.encodes_broadcasts else ray.put(state)
        ask = self.env_runner_group.foreach_env_runner_async
        for runner in runners:
            answer = self.exchange.encode_answer(runner - 1, parameters)
            kwargs = {"state": common or ray.put(self._holding(answer.parameters, state)), "timesteps": timesteps}
            if ask("sample_gradient", tag=TAG, kwargs=kwargs, remote_worker_ids=[runner]):  # it is not busy
                self.exchange.charge_answer(runner - 1, answer, physical_bytes=num_bytes)

    @property
    def _parameters(self) -> Tensor:
        """The learner's ``[P]``."""
        return flat(self.learner.parameters_by_ref.values())

    def _holding(self, vector: Tensor, state: dict[str, Any]) -> dict[str, Any]:
        """A state of the module with the parameters ``[P]`` that an agent holds."""
        if not self.exchange.scheme.encodes_broadcasts:
            return state
        parameters = list(self.learner.parameters_by_ref.values())
        names = {id(own): name for name, own in self.learner.module[DEFAULT_MODULE_ID].named_parameters()}
        pairs = zip(parameters, unflatten(vector.cpu(), parameters), strict=True)
        held = {names[id(own)]: part.numpy() for own, part in pairs}
        module = {DEFAULT_MODULE_ID: {**state[COMPONENT_RL_MODULE][DEFAULT_MODULE_ID], **held}}
        return {**state, COMPONENT_RL_MODULE: {**state[COMPONENT_RL_MODULE], **module}}

    def _only(self, agents: list[int]) -> NDArray[np.int64]:
        """1 for each of some agents ``[A]``."""
        return np.bincount(np.array(agents, dtype=np.int64), minlength=self.config.num_agents)

    @property
    def timesteps(self) -> dict[str, Any]:
        """Env steps so far, for schedules."""
        key = (ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME)
        return {NUM_ENV_STEPS_SAMPLED_LIFETIME: self.metrics.peek(key, default=0)}

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """RLlib's, with signals and exchange in a full state."""
        state: dict[str, Any] = super().get_state(components, not_components=not_components, **kwargs)
        if components is None:
            state[STATE] = {"signals": self.signals.get_state(), "exchange": self.exchange.state_dict()}
        return state

    def apply_state(self, state: dict[str, Any]) -> None:
        """RLlib's, with signals and exchange."""
        super().apply_state(state)
        if STATE in state:
            self.signals.set_state(state[STATE]["signals"])
            self.exchange.load_state_dict(state[STATE]["exchange"])
