"""One network and one optimiser in Stable-Baselines3 and in RLlib, to be trained on the same rollouts.

Axes: A agents, T steps of a rollout, P parameters, S optimiser steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.evaluation.postprocessing import Postprocessing
from stable_baselines3.common.env_util import make_vec_env
from torch import Tensor, nn

from rllib_agg import AggPPOConfig
from rllib_agg.aggregation.agents import AGENT, AgentTagging
from sb3_agg import AggPPO
from sb3_agg.rollouts.returns import RolloutReturns, by_agent
from tests.contract.scripted import AGENTS, STEPS, Chunk, Rollout
from tests.rllib.groups import MODULE

EPOCHS = 4
GAMMA, LAMBDA = 0.97, 0.9
LR = 0.03  # large enough for PPO to clip after the first epoch
LAYERS = {
    "mlp_extractor.policy_net.0": "encoder.actor_encoder.net.mlp.0",
    "mlp_extractor.value_net.0": "encoder.critic_encoder.net.mlp.0",
    "action_net": "pi.net.mlp.0",
    "value_net": "vf.net.mlp.0",
}
"""Layers of SB3's network by the same of RLlib's."""


@dataclass
class Seen:
    """What one host made of a rollout.

    :param advantages: As the loss reads them ``[A, T]``.
    :param gradients: That the optimiser stepped with ``[S, P]``.
    :param parameters: After it ``[P]``.
    :param logged: Under ``agg``.
    """

    advantages: NDArray[np.float64]
    gradients: Tensor
    parameters: Tensor
    logged: dict[str, float]


class Steps:
    """Records the gradient of every optimiser step, in the order of :data:`LAYERS`."""

    def __init__(self, optimizer: torch.optim.Optimizer, layers: Sequence[nn.Module]) -> None:
        self.parameters = [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
        self.taken: list[Tensor] = []
        optimizer.register_step_post_hook(self._record)

    def _record(self, *_: Any) -> None:
        grads = [own.grad.flatten() for own in self.parameters if own.grad is not None]
        if grads:  # SB3 steps without any where none is due
            self.taken.append(torch.cat(grads))

    def take(self) -> Tensor:
        """Those since the last call ``[S, P]``."""
        taken, self.taken = self.taken, []
        return torch.stack(taken)

    def values(self) -> Tensor:
        """The parameters ``[P]``."""
        return torch.cat([own.detach().flatten() for own in self.parameters])


class SB3:
    """AggPPO on SB3, whose rollout buffer is written by hand."""

    def __init__(self, **settings: Any) -> None:
        self.model = AggPPO(
            "MlpPolicy",
            make_vec_env("CartPole-v1", AGENTS, seed=0),
            n_steps=STEPS,
            batch_size=None,
            n_epochs=EPOCHS,
            learning_rate=LR,
            gamma=GAMMA,
            gae_lambda=LAMBDA,
            clip_range=0.2,
            vf_coef=0.5,
            max_grad_norm=1e9,
            policy_kwargs={"net_arch": [8], "ortho_init": False, "optimizer_kwargs": {"eps": 1e-8}},
            seed=0,
            device="cpu",
            closed_form=False,  # which rounds otherwise, and half precision would magnify that
            **settings,
        )
        self.model._setup_learn(10**6)
        self.policy = self.model.policy
        self.layers = [self.policy.get_submodule(name) for name in LAYERS]
        self.steps = Steps(self.policy.optimizer, self.layers)
        self._returns = np.zeros(AGENTS)

    def note_log_probs(self, rollout: Rollout) -> None:
        """Write the log-probabilities by the current weights into a rollout."""
        for chunk in (chunk for chunks in rollout for chunk in chunks):
            observations, actions = torch.as_tensor(chunk.observations[:-1]), torch.as_tensor(chunk.actions)
            with torch.no_grad():
                chunk.log_probs = self.policy.evaluate_actions(observations, actions)[1].numpy()

    def _values(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            return self.policy.predict_values(torch.as_tensor(observations)).flatten().numpy()

    def update(self, rollout: Rollout) -> Seen:
        """What ``collect_rollouts`` would leave, then ``train()``."""
        columns = [self._columns(chunks) for chunks in rollout]
        joined = {name: np.stack([own[name] for own in columns], axis=1) for name in columns[0]}  # [T, A, ...]
        buffer = self.model.rollout_buffer
        buffer.reset()
        self.model._rollout_returns = RolloutReturns(AGENTS)
        for t in range(STEPS):
            values, log_probs = (torch.as_tensor(joined[name][t]) for name in ("values", "log_probs"))
            buffer.add(*(joined[name][t] for name in ("observations", "actions", "rewards", "starts")), values, log_probs)
            self._note_returns(joined["earned"][t], joined["dones"][t])
        last = np.concatenate([self._values(chunks[-1].observations[-1:]) for chunks in rollout])
        buffer.compute_returns_and_advantage(torch.as_tensor(last), joined["dones"][-1])
        self.model.train()
        logged = {
            name.removeprefix("agg/"): value
            for name, value in self.model.logger.name_to_value.items()
            if name.startswith("agg/")
        }
        advantages = by_agent(buffer.advantages, buffer).reshape(AGENTS, STEPS).astype(np.float64)
        return Seen(advantages, self.steps.take(), self.steps.values(), logged)

    def _columns(self, chunks: list[Chunk]) -> dict[str, NDArray[Any]]:
        parts = []
        for chunk in chunks:
            n = len(chunk.actions)
            starts, dones, rewards = np.zeros(n, np.float32), np.zeros(n, bool), chunk.rewards.copy()
            starts[0], dones[-1] = chunk.started == 0, chunk.end != "running"
            if chunk.end == "truncated":
                rewards[-1] += GAMMA * self._values(chunk.observations[-1:])[0]
            parts.append(
                {
                    "observations": chunk.observations[:-1],
                    "actions": chunk.actions[:, None],
                    "rewards": rewards,
                    "earned": chunk.rewards,
                    "starts": starts,
                    "dones": dones,
                    "values": self._values(chunk.observations[:-1]),
                    "log_probs": chunk.log_probs,
                }
            )
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _note_returns(self, rewards: NDArray[np.float32], dones: NDArray[np.bool_]) -> None:
        self._returns += rewards
        infos: list[dict[str, Any]] = [
            {"episode": {"r": own}} if done else {} for own, done in zip(self._returns, dones, strict=True)
        ]
        self.model._rollout_returns.add(infos, dones)
        self._returns[dones] = 0.0


class RLlib:
    """A learner of AggPPO on RLlib, which is given tagged episodes."""

    def __init__(self, like: SB3, spaces: dict[str, Any], **settings: Any) -> None:
        config = (
            AggPPOConfig()
            .environment("CartPole-v1")
            .env_runners(num_env_runners=0, num_envs_per_env_runner=AGENTS)
            .learners(num_learners=0)
            .rl_module(model_config={"fcnet_hiddens": [8], "fcnet_activation": "tanh", "vf_share_layers": False})
            .training(
                lr=LR,
                gamma=GAMMA,
                lambda_=LAMBDA,
                clip_param=0.2,
                vf_loss_coeff=0.5,
                vf_clip_param=1e9,
                entropy_coeff=0.0,
                closed_form=False,
                use_kl_loss=False,
                advantage_norm="agent",
                **settings,
            )
        )
        config.validate()
        self.config = config
        self.group = config.build_learner_group(spaces=spaces)
        self.learner = self.group._learner
        module = self.learner.module[MODULE]
        layers = [module.get_submodule(name) for name in LAYERS.values()]
        for own, other in zip(layers, like.layers, strict=True):
            own.load_state_dict(other.state_dict())
        (_, optimizer), *_ = self.learner.optimizers()
        self.steps = Steps(optimizer, layers)
        self.ledger = self.learner.aggregator(MODULE).exchange.ledger
        self._tagging = AgentTagging()
        self._batch: dict[str, Any] = {}
        losses = self.learner.losses_per_sample

        def noted(**kwargs: Any) -> Tensor:
            self._batch = kwargs["batch"]
            result: Tensor = losses(**kwargs)
            return result

        self.learner.losses_per_sample = noted

    def update(self, rollout: Rollout) -> Seen:
        """What a training step gives the learners."""
        episodes = [self._episode(chunk, agent) for agent, chunks in enumerate(rollout) for chunk in chunks]
        self._tagging.on_sample_end(samples=episodes)
        result = self.group.update(episodes=episodes, num_epochs=EPOCHS, minibatch_size=None, timesteps={})
        logged = {name: float(stats.peek()) for name, stats in result[0][MODULE]["agg"].items()}
        counted, agents = self._batch[Columns.LOSS_MASK], self._batch[AGENT]
        advantages = np.full((AGENTS, STEPS), np.nan)
        for agent in range(AGENTS):
            own = self._batch[Postprocessing.ADVANTAGES][counted & (agents == agent)]
            if len(own):
                advantages[agent] = own.numpy()
        return Seen(advantages, self.steps.take(), self.steps.values(), logged)

    def _episode(self, chunk: Chunk, agent: int) -> SingleAgentEpisode:
        episode = SingleAgentEpisode(
            id_=chunk.name,
            observations=list(chunk.observations),
            actions=list(chunk.actions),
            rewards=chunk.rewards.tolist(),
            terminated=chunk.end == "terminated",
            truncated=chunk.end == "truncated",
            extra_model_outputs={Columns.ACTION_LOGP: list(chunk.log_probs)},
            t_started=chunk.started,
            len_lookback_buffer=0,
        )
        if not chunk.started:
            runner = SimpleNamespace(config=self.config, worker_index=0)
            self._tagging.on_episode_created(episode=episode, env_runner=runner, env_index=agent)
        return episode
