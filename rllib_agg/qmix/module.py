"""The networks of a team, as an RLModule."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import Tensor, nn

from rllib_agg.envs.team.interface import TeamSpec
from rllib_agg.qmix.joint import CentralValues, JointValues
from rllib_agg.qmix.mixer import make_mixer, seed_mixer
from rllib_agg.qmix.networks import AgentNetworks

OBSERVATIONS, STATE, MASKS, LAST_ACTIONS, HIDDEN = "observations", "state", "masks", "last_actions", "hidden"


def spaces_of(spec: TeamSpec) -> tuple[gym.spaces.Dict, gym.spaces.MultiDiscrete]:
    """Observation and action space of a team, for RLlib's modules."""
    agents, actions = spec.num_agents, spec.num_actions
    observation_space = gym.spaces.Dict(
        {
            OBSERVATIONS: gym.spaces.Box(-np.inf, np.inf, (agents, spec.observation_size), np.float32),
            STATE: gym.spaces.Box(-np.inf, np.inf, (spec.state_size,), np.float32),
            MASKS: gym.spaces.MultiBinary((agents, actions)),
        }
    )
    return observation_space, gym.spaces.MultiDiscrete(np.full(agents, actions))


def arrays_of(networks: AgentNetworks) -> dict[str, NDArray[np.float32]]:
    """A copy of networks' parameters by name."""
    return {name: np.array(parameter.detach().cpu().numpy()) for name, parameter in networks.state_dict().items()}


class QMIXModule(TorchRLModule, InferenceOnlyAPI):
    """The agents' networks and, in the learner, what makes the team's values of theirs, and the targets of all."""

    observation_space: Any
    action_space: Any
    model_config: Any
    inference_only: Any

    def setup(self) -> None:
        """Build the networks."""
        agents, size = self.observation_space[OBSERVATIONS].shape
        model = self.model_config
        num_actions, hidden = int(self.action_space.nvec[0]), model["hidden_dim"]
        kind = {"hidden": hidden, "shared": model["shared"], "agent_ids": model["agent_ids"]}
        self.networks = AgentNetworks(agents, num_actions, size, **kind)
        if not self.inference_only:
            (state_size,) = self.observation_space[STATE].shape
            embed_dim = model["mixing_embed_dim"]
            self.mixer = (
                JointValues(num_actions, hidden, state_size, embed_dim=embed_dim)
                if model["mixer"] == "qtran"
                else make_mixer(model["mixer"], agents, state_size, embed_dim=embed_dim, hypernet_dim=model["hypernet_dim"])
            )
            self.central = (
                CentralValues(AgentNetworks(agents, num_actions, size, **kind), state_size, embed_dim=model["central_dim"])
                if model.get("central")  # missing in modules that were saved before there was one
                else None
            )
            self.average_networks = copy.deepcopy(self.networks).requires_grad_(False) if model.get("averages") else None
            self.target_networks = copy.deepcopy(self.networks).requires_grad_(False)
            self.target_mixer, self.target_central = copy.deepcopy(self.mixer), copy.deepcopy(self.central)
            for target in (self.target_mixer, self.target_central):
                if target is not None:
                    target.requires_grad_(False)

    def get_non_inference_attributes(self) -> list[str]:
        """What only learning needs."""
        return ["mixer", "central", "average_networks", "target_networks", "target_mixer", "target_central"]

    @property
    def greedy_networks(self) -> AgentNetworks:
        """What acts without exploration: the networks' average, if there is one."""
        average: AgentNetworks | None = None if self.inference_only else self.average_networks
        return self.networks if average is None else average

    def get_state(self, *args: Any, inference_only: bool = False, **kwargs: Any) -> Any:
        """RLlib's; for inference alone the networks are those that act without exploration."""
        state = super().get_state(*args, inference_only=inference_only, **kwargs)
        if inference_only:
            state |= {f"networks.{name}": value for name, value in arrays_of(self.greedy_networks).items()}
        return state

    def initialize(self, generator: torch.Generator, *, orthogonal: bool, same: bool, mixer_scale: float = 1.0) -> None:
        """Draw all parameters; settings as of :meth:`AgentNetworks.initialize` and ``seed_mixer``."""
        self.networks.initialize(generator, orthogonal=orthogonal, same=same)
        seed_mixer(self.mixer, generator, orthogonal=orthogonal, scale=mixer_scale)
        if self.central is not None:
            self.central.networks.initialize(generator, orthogonal=orthogonal, same=same)
            seed_mixer(self.central.mixer, generator, orthogonal=orthogonal, scale=1.0)
        self.update_targets(1.0)
        self.update_average(0.0)

    @torch.no_grad()
    def update_targets(self, tau: float) -> None:
        """Move the targets towards the online networks by a share of the way; 1: all of it."""
        pairs: tuple[tuple[nn.Module | None, nn.Module | None], ...]
        pairs = (
            (self.networks, self.target_networks),
            (self.mixer, self.target_mixer),
            (self.central, self.target_central),
        )
        for online, target in pairs:
            if online is not None and target is not None:
                for parameter, own in zip(online.parameters(), target.parameters(), strict=True):
                    own.copy_(parameter) if tau == 1 else own.lerp_(parameter, tau)

    @torch.no_grad()
    def update_average(self, decay: float) -> None:
        """Move the average to the online networks, all but a share of the way."""
        if self.average_networks is not None:
            for own, parameter in zip(self.average_networks.parameters(), self.networks.parameters(), strict=True):
                own.lerp_(parameter, 1 - decay)

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """A copy of the agents' networks' parameters by name."""
        return arrays_of(self.networks)

    def get_initial_state(self) -> dict[str, Tensor]:
        """Hidden states before the first step ``[n, H]``."""
        return {HIDDEN: torch.zeros(self.networks.num_agents, self.networks.hidden)}

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """One step.

        :param batch: ``obs`` with ``observations`` ``[B, n, d]``, ``masks`` ``[B, n, a]`` and ``last_actions`` ``[B, n]``
            (missing, or -1, in the first step), and ``state_in`` with ``hidden`` ``[B, n, H]``.
        :return: ``actions`` ``[B, n]``, the best legal ones; ``action_dist_inputs``, the values; and ``state_out``.
        """
        seen, networks = batch[Columns.OBS], self.greedy_networks
        observations = seen[OBSERVATIONS]
        size, agents = observations.shape[:2]
        last = seen.get(LAST_ACTIONS, torch.full((size, agents), -1, device=observations.device)).long()
        hidden = batch[Columns.STATE_IN][HIDDEN]
        start = hidden.reshape(1, -1, networks.hidden) if networks.shared else hidden.transpose(0, 1)
        values, hidden = networks(networks.arrange(observations.unsqueeze(1), last.unsqueeze(1)), start)
        values = values[:, 0].masked_fill(~seen[MASKS].bool(), -torch.inf)
        after = hidden.reshape(size, agents, networks.hidden) if networks.shared else hidden.transpose(0, 1)
        return {
            Columns.ACTIONS: values.argmax(-1),
            Columns.ACTION_DIST_INPUTS: values,
            Columns.STATE_OUT: {HIDDEN: after},
        }
