"""The settings of A3C."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.schedules.scheduler import Scheduler

from rl_agg.validation import check_count, check_number
from rllib_agg.a3c.env_runner import A3CEnvRunner
from rllib_agg.a3c.learner import A3CTorchLearner
from rllib_agg.aggregation._compat import UNSET, ModelDefaults
from rllib_agg.aggregation.config import AggregationSettings
from rllib_agg.aggregation.timeouts import check_timeout

NOT_USED = ("train_batch_size", "train_batch_size_per_learner", "num_epochs", "minibatch_size", "shuffle_batch_per_epoch")
"""Settings that would be ignored: a gradient is taken of one fragment, once."""


class A3CConfig(AggregationSettings, ModelDefaults):
    """Defines A3C: every env runner is an agent that computes gradients on its own copy of the weights.

    >>> A3CConfig().environment("CartPole-v1").env_runners(num_env_runners=4).num_agents
    4
    """

    model_defaults: ClassVar[dict[str, Any]] = {"vf_share_layers": False}

    def __init__(self, algo_class: type | None = None) -> None:
        from rllib_agg.a3c.algorithm import A3C

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

        :param gradients_per_iteration: How many arriving gradients one ``train()`` applies.
        :param vf_loss_coeff: Weight of the value function's squared error.
        :param entropy_coeff: :math:`\\beta`, a number or a schedule ``[[step, value], ...]``.
        :param lambda_: 1 is the n-step return of the paper; less mixes in shorter ones.
        :param kwargs: Those of :meth:`AggregationSettings.training` and RLlib's own.
        """
        super().training(**kwargs)
        return self.take(
            gradients_per_iteration=gradients_per_iteration,
            vf_loss_coeff=vf_loss_coeff,
            entropy_coeff=entropy_coeff,
            lambda_=lambda_,
        )

    def get_default_learner_class(self) -> type:
        """The learner, both on env runners and in the centre."""
        return A3CTorchLearner

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """RLlib's actor-critic module, MLP or CNN."""
        from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule

        return RLModuleSpec(module_class=DefaultPPOTorchRLModule)

    def validate(self) -> None:
        """Check the settings.

        :raises ValueError: naming the one that is wrong.
        """
        super().validate()
        self.check_choice("agents", ("env_runner",))
        if setting := self.changed(NOT_USED):
            raise ValueError(f"A3C does not use {setting}; rollout_fragment_length says what a gradient is of")
        if self.num_learners:
            raise ValueError(
                f"A3C has one central learner, in the algorithm's own process; set num_learners=0, not {self.num_learners}"
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
        check_number("gamma", self.gamma, least=0, most=1)
        check_number("lambda_", self.lambda_, least=0, most=1)
        self.check_lr()
        if self.grad_clip is not None:
            check_number("grad_clip", self.grad_clip, above=0)
        check_number("vf_loss_coeff", self.vf_loss_coeff, least=0)
        check_timeout(self.sample_timeout_s)
        if self.model_config.get("use_lstm"):
            raise ValueError("A3C takes MLP and CNN modules; use_lstm is not supported")
        Scheduler.validate(
            fixed_value_or_schedule=self.entropy_coeff,
            setting_name="entropy_coeff",
            description="entropy coefficient",
        )

    def check_module_settings(self) -> None:
        """Check that a rule weighs the gradients.

        :raises ValueError: if it is no rule: gradients arrive one by one here, and a combiner needs all of them.
        """
        self.weighting()
