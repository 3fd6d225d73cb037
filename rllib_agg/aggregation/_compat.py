"""Every private Ray name that rllib_agg touches, and nothing else.

Ray's Learner offers no public hook between "the batch is complete" and "its first minibatch", nor for an update that must
be skipped. Both are reached here, under public names of our own, so that a moved API shows up in this file alone: what
classes have is looked up on import, what only their instances have when it is used.

Tested with Ray 2.56 to 2.60, see the page on versions.
"""

from __future__ import annotations

import copy
import itertools
import pkgutil
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided  # type: ignore[attr-defined]
from ray.rllib.algorithms.impala import IMPALA
from ray.rllib.core import COMPONENT_OPTIMIZER, COMPONENT_RL_MODULE
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.utils.infinite_lookback_buffer import InfiniteLookbackBuffer
from ray.rllib.policy.sample_batch import MultiAgentBatch
from ray.rllib.utils.replay_buffers import EpisodeReplayBuffer, PrioritizedEpisodeReplayBuffer
from ray.tune.registry import ENV_CREATOR, _global_registry

from rllib_agg.aggregation.timeouts import SECONDS_BETWEEN_PROBES

TESTED = ">=2.56,<2.61"
"""Before 2.56, Ray restores fused optimisers wrongly and marks bootstrap steps otherwise."""

OLDEST = (2, 56)

NAMES = {
    "ray.rllib.core.learner.learner:Learner": (
        "_create_iterator_if_necessary",
        "_make_batch_if_necessary",
    ),
    "ray.rllib.core.learner.torch.torch_learner:TorchLearner": ("_uncompiled_update", "_compute_off_policyness"),
    "ray.rllib.core.learner.learner_group:LearnerGroup": ("update",),
    "ray.rllib.core.learner.training_data:TrainingData": ("shard",),
    "ray.rllib.connectors.learner.general_advantage_estimation:GeneralAdvantageEstimation": ("__call__",),
    "ray.rllib.algorithms.algorithm_config:AlgorithmConfig": ("build_learner_group", "_model_config_auto_includes"),
    "ray.rllib.algorithms.algorithm:Algorithm": ("_create_local_replay_buffer_if_necessary",),
    "ray.rllib.algorithms.impala.impala:IMPALA": ("_sample_and_get_connector_states",),
}
"""Methods that are overridden or called, by class."""


def check() -> None:
    """Look every name of :data:`NAMES` up; ``ImportError`` names what has moved, or an older Ray."""
    if tuple(map(int, ray.__version__.split(".")[:2])) < OLDEST:
        raise ImportError(f"rllib_agg needs Ray {TESTED}, found {ray.__version__}: pip install 'rl-agg[rllib]'")
    for place, names in NAMES.items():
        try:
            owner = pkgutil.resolve_name(place)
        except (ImportError, AttributeError) as error:
            raise ImportError(_moved(place.replace(":", "."))) from error
        for name in names:
            if not hasattr(owner, name):
                raise ImportError(_moved(f"{owner.__name__}.{name}"))


def _moved(name: str) -> str:
    return (
        f"rllib_agg relies on {name}, which Ray {ray.__version__} does not have; it was tested with Ray {TESTED} "
        f"(pip install 'ray[rllib]{TESTED}')"
    )


def _attribute(owner: Any, name: str) -> Any:
    try:
        return getattr(owner, name)
    except AttributeError as error:
        raise AttributeError(_moved(f"{type(owner).__name__}.{name}")) from error


UNSET: Any = NotProvided
"""Marks a setting that was not given, as opposed to one that was given as ``None``."""


def own_arrays(state: dict[str, Any]) -> dict[str, Any]:
    """Copy a learner's weights and moments.

    RLlib's arrays share their memory with the tensors that they came from and go to: on a CPU a state would change
    with the learner, and learners that are given one state would all step with the same moments.

    :param state: A learner's state, or a part of it; left as it is.
    """
    return {
        name: copy.deepcopy(value) if name in (COMPONENT_RL_MODULE, COMPONENT_OPTIMIZER) else value
        for name, value in state.items()
    }


class HookedLearner(TorchLearner):
    """A TorchLearner with public names for what an aggregating learner needs to reach."""

    config: Any
    module: Any

    def set_state(self, state: dict[str, Any]) -> None:
        """RLlib's. A state with the optimizer is a restore: it holds even if it is older than what is here, where RLlib would
        keep the newer weights with the older optimizer."""
        if COMPONENT_OPTIMIZER in state:
            self.weights_seq_no = 0
        super().set_state(own_arrays(state))

    def observe_batch(self, batch: MultiAgentBatch) -> None:
        """Called with this learner's complete train batch before the first minibatch; may change it in place."""

    def mixes(self, module_id: str) -> bool:
        """Whether a module's first minibatches are drawn at random too.

        RLlib shuffles only between epochs, and a batch comes episode after episode, so that the first epoch's minibatches
        hold one agent or two each.
        """
        return False

    def own_schedule(self, num_epochs: int, num_total_minibatches: int) -> tuple[int, int]:
        """Epochs and minibatches of this learner in an update.

        :param num_epochs: What the update asks for.
        :param num_total_minibatches: The same in minibatches; 0: as many as the epochs have.
        :return: The same, as this learner does it.
        """
        return num_epochs, num_total_minibatches

    def _create_iterator_if_necessary(
        self, *, training_data: TrainingData, num_epochs: int = 1, num_total_minibatches: int = 0, **kwargs: Any
    ) -> Iterable[MultiAgentBatch]:
        batch = self._make_batch_if_necessary(training_data=training_data)  # type: ignore[no-untyped-call]
        # RLlib drops the modules that are not trained only after this point. It orders the others as their samples come, which
        # differs from learner to learner, where sums over all learners are taken module by module.
        modules = sorted(batch.policy_batches.items())
        batch.policy_batches = {
            id_: data
            for id_, data in modules
            if self.should_module_be_updated(id_, batch)  # type: ignore[no-untyped-call]
        }
        self.observe_batch(batch)
        minibatch_size = kwargs.get("minibatch_size")
        if minibatch_size is not None and kwargs.get("shuffle_batch_per_epoch"):
            for id_, data in batch.policy_batches.items():
                if len(data) > minibatch_size and self.mixes(id_):
                    data.shuffle()
        num_epochs, num_total_minibatches = self.own_schedule(num_epochs, num_total_minibatches)
        iterator: Iterable[MultiAgentBatch] = super()._create_iterator_if_necessary(
            training_data=TrainingData(batch=batch),
            num_epochs=num_epochs,
            num_total_minibatches=num_total_minibatches,
            **kwargs,
        )
        return iterator

    def gradients_without_graph(self, batch: dict[str, Any]) -> tuple[dict[str, Any], dict[Any, torch.Tensor | None]] | None:
        """The modules' losses and gradients of a minibatch, if there is a closed form; ``None``: by RLlib's own way.

        :param batch: Modules to their columns.
        """
        return None

    def _uncompiled_update(self, batch: dict[str, Any], **kwargs: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        taken = self.gradients_without_graph(batch)
        if taken is None:
            outcome: tuple[Any, dict[str, Any], dict[str, Any]] = super()._uncompiled_update(batch, **kwargs)
            return outcome
        losses, gradients = taken
        self._compute_off_policyness(batch)  # type: ignore[no-untyped-call]
        self.apply_gradients(self.postprocess_gradients(gradients))
        return {}, losses, {}

    @property
    def compiles(self) -> bool:
        """Whether torch compiles a part of the update."""
        return bool(_attribute(self, "_torch_compile_forward_train") or _attribute(self, "_torch_compile_complete_update"))

    def make_batch(self, episodes: list[Any]) -> dict[str, dict[str, torch.Tensor]]:
        """Run the learner connectors.

        :param episodes: Extended by a step each, in place.
        :return: Modules to their columns, on this learner's device.
        """
        batch = self._make_batch_if_necessary(training_data=TrainingData(episodes=episodes))  # type: ignore[no-untyped-call]
        return {module_id: dict(data) for module_id, data in batch.policy_batches.items()}

    @property
    def connector_pipeline(self) -> Any:
        """The learner connector pipeline, ``None`` if there is none."""
        return _attribute(self, "_learner_connector")

    @property
    def has_own_stepping(self) -> bool:
        """Whether mixed precision or a torch scheduler takes part in the step: RLlib's code must do it then."""
        return _attribute(self, "_grad_scalers") is not None or _attribute(self, "_lr_scheduler_classes") is not None

    @property
    def has_grad_scaler(self) -> bool:
        """Whether mixed precision is on: its scaler produces and skips non-finite gradients by design."""
        return _attribute(self, "_grad_scalers") is not None

    def step_optimizer(self, module_id: str, optimizer: torch.optim.Optimizer) -> None:
        """Step, through the scaler of mixed precision where there is one: it takes the scale off the gradients."""
        scalers = _attribute(self, "_grad_scalers")
        if scalers is None:
            optimizer.step()
        else:
            scalers[module_id].step(optimizer)
            scalers[module_id].update()

    @property
    def parameters_by_ref(self) -> dict[Any, torch.Tensor]:
        """Trainable parameters by RLlib's reference to them."""
        parameters: dict[Any, torch.Tensor] = _attribute(self, "_params")
        return parameters

    @property
    def weights_seq_no(self) -> int:
        """How many updates the weights have seen."""
        return int(_attribute(self, "_weights_seq_no"))

    @weights_seq_no.setter
    def weights_seq_no(self, value: int) -> None:
        _attribute(self, "_weights_seq_no")
        self._weights_seq_no = value

    def optimizers(self) -> Iterator[tuple[str, torch.optim.Optimizer]]:
        """Module ids with their optimizers."""
        for module_id, names in _attribute(self, "_module_optimizers").items():
            for name in names:
                yield module_id, self.get_optimizer(module_id, name)


def average_gradients(module: Any, on: bool) -> None:
    """Let backward passes through a module, which DDP may wrap, average gradients over learners (``on``), or not."""
    if isinstance(module, torch.nn.parallel.DistributedDataParallel):
        module.require_backward_grad_sync = on  # what its no_sync() sets


def uses_grad_scaler(config: Any) -> bool:
    """Whether an algorithm config asks for mixed precision with scaled gradients."""
    return _attribute(config, "_torch_grad_scaler_class") is not None


def registered_env(name: Any) -> Any:
    """What was registered with Ray Tune as an environment's creator; ``None`` if nothing was under that name."""
    registry: Any = _global_registry
    known = isinstance(name, str) and registry.contains(ENV_CREATOR, name)
    return registry.get(ENV_CREATOR, name) if known else None


def leave_runner_states(config: AlgorithmConfig) -> None:
    """Keep RLlib from gathering and spreading the connectors' states after every iteration, where there are none."""
    _attribute(config, "_dont_auto_sync_env_runner_states")
    config._dont_auto_sync_env_runner_states = True


def num_lost_learners(group: LearnerGroup) -> int:
    """How many of a group's remote learners are known to be dead."""
    manager = _attribute(group, "_worker_manager")
    return int(manager.num_actors() - manager.num_healthy_actors())


class ModelDefaults(AlgorithmConfig):
    """A config with a module of its own, and defaults of its own for RLlib's ``model_config``."""

    default_module: ClassVar[type[Any]]
    model_defaults: ClassVar[dict[str, Any]] = {}

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """The module, unless the user sets another."""
        return RLModuleSpec(module_class=self.default_module)

    @property
    def model_derived(self) -> dict[str, Any]:
        """What follows from other settings."""
        return {}

    def change_model(self, settings: Mapping[str, Any]) -> None:
        """Set some of ``model_config`` and leave the rest, without what would no longer follow from settings that change."""
        rest = {name: value for name, value in self.model_config.items() if name not in self.model_derived}
        self.rl_module(model_config={**rest, **settings})

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        return {**super()._model_config_auto_includes, **self.model_defaults, **self.model_derived}


class OwnReplay(Algorithm):
    """An algorithm that makes its replay itself; RLlib's knows only kinds of its own."""

    def make_replay(self, config: Any) -> Any:
        """What :meth:`setup` makes of RLlib's ``replay_buffer_config``; ``None``: no replay."""

    def _create_local_replay_buffer_if_necessary(self, config: Any) -> Any:
        return self.make_replay(config)


def stored_episode(replay: EpisodeReplayBuffer, id_: str) -> Any:
    """The episode of an id in a replay."""
    return replay.episodes[replay.episode_id_to_index[id_] - _attribute(replay, "_num_episodes_evicted")]


def last_sampled(replay: PrioritizedEpisodeReplayBuffer) -> list[Any]:
    """The episodes in a replay that its last samples are of, in order; their ids are not those of the samples."""
    evicted, steps = _attribute(replay, "_num_episodes_evicted"), _attribute(replay, "_indices")
    places, nodes = _attribute(replay, "_tree_idx_to_sample_idx"), _attribute(replay, "_last_sampled_indices")
    return [replay.episodes[steps[places[node]][0] - evicted] for node in nodes]


def num_priorities(replay: PrioritizedEpisodeReplayBuffer, state: Mapping[str, Any] | None = None) -> int:
    """For how many steps a replay, or a state of one, has room for priorities: its capacity, or the next power of two."""
    own = _attribute(replay, "_sum_segment").get_state()
    return len(own if state is None else state["_sum_segment"]) // 4


def set_newest_priorities(replay: PrioritizedEpisodeReplayBuffer, priorities: NDArray[Any]) -> None:
    """Give the steps that were added last their priorities, in order; where one is not finite, it stays as it is."""
    known = np.isfinite(priorities)
    newest = itertools.compress(_attribute(replay, "_indices")[-len(priorities) :], known)
    _attribute(replay, "_last_sampled_indices")
    replay._last_sampled_indices = [node for _, _, node in newest]
    replay.update_priorities(priorities[known])


class AwaitingRunners(IMPALA):
    """An asynchronous algorithm that samples nothing while all of its remote env runners are being restarted.

    RLlib's then samples in its own process, which has no environment.
    """

    config: Any
    env_runner_group: Any

    def _sample_and_get_connector_states(self) -> tuple[list[Any], list[Any], list[Any], set[int]]:
        group = self.env_runner_group
        are_dead = group.num_remote_env_runners() > 0 and group.num_healthy_remote_env_runners() == 0
        if are_dead and self.config.restart_failed_env_runners:
            time.sleep(SECONDS_BETWEEN_PROBES)
            return [], [], [], set()
        return super()._sample_and_get_connector_states()  # type: ignore[no-any-return, no-untyped-call]


def write_column(episode: Any, name: str, values: NDArray[Any]) -> None:
    """Give an episode of length T one more column ``[T]`` that survives cutting, slicing and batching."""
    lookback = episode.actions.lookback
    padded = np.concatenate([np.repeat(values[:1], lookback), values])
    episode.extra_model_outputs[name] = InfiniteLookbackBuffer(
        data=padded if episode.is_numpy else list(padded), lookback=lookback
    )


check()
