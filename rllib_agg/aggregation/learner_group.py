"""How the samples of an update are spread over the learners, and what happens when one of them dies."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import ray
from ray.exceptions import RayError
from ray.rllib.core import COMPONENT_LEARNER
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.core.learner.training_data import TrainingData

from rllib_agg.aggregation._compat import num_lost_learners
from rllib_agg.aggregation.agents import agent_of, single_agent_episodes, tag_untagged
from rllib_agg.aggregation.learner import CLIENTS, STATE


class LearnerLostError(RuntimeError):
    """A remote learner died; the others cannot continue without it."""


ADVICE = (
    "The others cannot continue without it, and a lost learner is not restarted. Build the algorithm anew from its last "
    "checkpoint (Algorithm.from_checkpoint(path)), or run it under ray.tune with "
    "RunConfig(failure_config=FailureConfig(max_failures=...), "
    "checkpoint_config=CheckpointConfig(checkpoint_frequency=...)), which does so by itself"
)


class AgentTrainingData(TrainingData):
    """Episodes that are sharded such that every learner gets some, and goes through as many minibatches as the others.

    Learners wait for each other in every minibatch: one without data, or with fewer minibatches, would stop them for good.
    Learners with parameters of their own do not; they get the same agents in each update, where agents are not split.

    :param by_agent: Whether no agent is split over learners.
    :param local: Whether each learner has parameters of its own.
    :param in_order: Whether each learner gets consecutive episodes: a replay expects errors in the order of its samples.
    """

    episodes: Any

    def __init__(self, episodes: list[Any], *, by_agent: bool, local: bool = False, in_order: bool = False) -> None:
        super().__init__(episodes=episodes)
        self._by_agent = by_agent
        self._local = local
        self._in_order = in_order

    def shard(
        self, num_shards: int, len_lookback_buffer: int | None = None, **kwargs: Any
    ) -> list[tuple[TrainingData, dict[str, int]]]:
        """Split the episodes up.

        :param num_shards: L, the number of learners.
        :param len_lookback_buffer: Steps that a slice keeps of what came before it.
        :param kwargs: The update's settings; ``minibatch_size`` may be ``None``, for which Ray 2.60 fails.
        :return: Each learner's data, and settings of its update.
        :raises RuntimeError: if there are fewer samples, or fewer samples of one module, than learners.
        """
        minibatch_size, num_epochs = kwargs.pop("minibatch_size", None), kwargs.get("num_epochs", 1)
        shards = self._whole_agents(num_shards) if self._by_agent else None
        if self._in_order:
            shards = self._consecutive(num_shards)
        if shards is None:
            stock = super().shard(num_shards, len_lookback_buffer, **kwargs)
            shards = [data.episodes for data, _ in stock]
        steps = [_steps_by_module(episodes) for episodes in shards]
        modules = set().union(*steps)
        if not modules or any(set(own) != modules for own in steps):
            raise RuntimeError(
                f"{num_shards} learners cannot share {len(self.episodes)} episodes such that each has samples of each "
                "module; collect more per update (train_batch_size_per_learner) or use fewer learners"
            )
        largest = max(max(own.values()) for own in steps)
        minibatches = num_epochs if minibatch_size is None else max(1, num_epochs * largest // minibatch_size)
        extra = {"num_total_minibatches": minibatches} if num_shards > 1 and not self._local else {}
        return [(TrainingData(episodes=episodes), extra) for episodes in shards]

    def _consecutive(self, num_shards: int) -> list[list[Any]]:
        """Assign whole episodes by how many steps come before each."""
        shards: list[list[Any]] = [[] for _ in range(num_shards)]
        before, total = 0, sum(map(len, self.episodes))
        for episode in self.episodes:
            shards[before * num_shards // total].append(episode)
            before += len(episode)
        return shards

    def _whole_agents(self, num_shards: int) -> list[list[Any]] | None:
        """Assign the agents, largest first, to the learner with the fewest samples; ``None`` if there are too few of them.

        Where each learner has parameters of its own, agent a always belongs to learner a modulo L.
        """
        by_agent = defaultdict(list)
        for episode in self.episodes:
            by_agent[agent_of(episode)].append(episode)
        if len(by_agent) < num_shards:
            return None  # agents have died: it is better to split one than to leave a learner without data
        shards: list[list[Any]] = [[] for _ in range(num_shards)]
        if self._local:
            for agent in sorted(by_agent):
                shards[agent % num_shards] += by_agent[agent]
            return shards if all(shards) else None
        loads = [0] * num_shards
        sizes = {agent: sum(map(len, episodes)) for agent, episodes in by_agent.items()}
        for agent in sorted(by_agent, key=lambda agent: (-sizes[agent], agent)):
            smallest = loads.index(min(loads))
            shards[smallest] += by_agent[agent]
            loads[smallest] += sizes[agent]
        return shards


def _steps_by_module(episodes: list[Any]) -> dict[Any, int]:
    steps: dict[Any, int] = defaultdict(int)
    for episode in episodes:
        for chunk in single_agent_episodes(episode):
            steps[chunk.module_id] += len(chunk)
    return dict(steps)


class AggLearnerGroup(LearnerGroup):
    """RLlib's, with sharding by agent, learners that may have parameters of their own, and an error when one is lost."""

    config: Any

    def update(self, *, episodes: list[Any] | None = None, **kwargs: Any) -> list[dict[str, Any]]:
        """Update all learners.

        :param episodes: Where the data comes as episodes.
        :param kwargs: As RLlib's.
        :raises LearnerLostError: if a remote learner failed or died.
        """
        if episodes is not None:
            tag_untagged(episodes)  # before they are cut
            kwargs["training_data"] = AgentTrainingData(
                episodes,
                by_agent=getattr(self.config, "shard_by_agent", False),
                local=self._has_clients,
                in_order=self.config.replays,
            )
        # RLlib leaves learners that it found dead in another call out of the update: with one learner, all of them.
        lost = 0 if self.is_local else num_lost_learners(self)
        if lost:
            raise LearnerLostError(f"{lost} of {len(self)} learners died\n{ADVICE}")
        try:
            results: list[dict[str, Any]] = super().update(**kwargs)
        except RayError as error:
            if self.is_local:
                raise
            raise LearnerLostError(f"one of {len(self)} learners failed or died: {error}\n{ADVICE}") from error
        return results

    def set_state(self, state: dict[str, Any]) -> None:
        """RLlib's; raises what a learner could not restore."""
        if self.is_local or COMPONENT_LEARNER not in state:
            super().set_state(state)
            return
        ref = ray.put(state[COMPONENT_LEARNER])

        def restore(learner: Any, index: Any = None) -> None:
            learner.attempt_restore(lambda: learner.set_state(ray.get(ref)))

        self.foreach_learner(restore)
        self._raise_restore_errors()

    def restore_from_path(self, path: Any, **kwargs: Any) -> None:
        """RLlib's; raises what a learner could not restore."""
        super().restore_from_path(path, **kwargs)
        self._raise_restore_errors()

    def _raise_restore_errors(self) -> None:
        if not self.is_local:
            results: Any = self.foreach_learner(_pop_restore_error)
            for result in results:
                if result.ok and result.get() is not None:
                    raise ValueError(f"a learner could not be restored: {result.get()}")

    @property
    def _has_clients(self) -> bool:
        return bool(self.config.make_scheme().payload.content == "parameters")

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """RLlib's, which is that of the first learner; a full one with what each learner has for itself."""
        state: dict[str, Any] = super().get_state(components, not_components=not_components, **kwargs)
        learner = state.get(COMPONENT_LEARNER, {})
        if STATE in learner and self._has_clients:
            results: Any = self.foreach_learner(_client_state)
            learner[STATE][CLIENTS] = dict(result.get() for result in results)
        return state


def _pop_restore_error(learner: Any, index: Any = None) -> Any:
    error, learner.restore_error = learner.restore_error, None
    return error


def _client_state(learner: Any, index: Any = None) -> Any:
    return learner.get_client_state()
