"""The policy that an evolution strategy evolves, as an RLModule, for evaluation, inference and checkpoints."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import Tensor, nn

from rl_agg.population import ActionDecoder, ObservationEncoder

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU, "linear": nn.Identity}
LEAST_LOG_STDEV = -20.0


class ESModule(TorchRLModule):
    """The same network as :class:`rl_agg.evolution.MLP`, with the same order of parameters."""

    observation_space: Any
    action_space: Any
    model_config: Any

    def setup(self) -> None:
        """Build the network."""
        encoder, decoder = ObservationEncoder(self.observation_space), ActionDecoder(self.action_space)
        self._one_hot = encoder.size if isinstance(self.observation_space, gym.spaces.Discrete) else 0
        self._is_discrete = decoder.is_discrete
        sizes = [encoder.size, *self.model_config["fcnet_hiddens"], decoder.size]
        activation = ACTIVATIONS[self.model_config["fcnet_activation"]]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), activation()]
        self.net = nn.Sequential(*layers[:-1])
        self.register_buffer("obs_mean", torch.zeros(encoder.size))
        self.register_buffer("obs_deviation", torch.ones(encoder.size))
        self.register_buffer("obs_limit", torch.tensor(torch.inf))
        stdev = torch.tensor(float(self.model_config["action_noise_stdev"]))
        self.register_buffer("log_stdev", stdev.log().clamp(min=LEAST_LOG_STDEV))
        space = self.action_space
        spans = self._is_discrete or (self.model_config.get("normalize_actions", True) and space.is_bounded("both"))
        if not spans:  # RLlib clips to what it spans
            self.register_buffer("low", torch.tensor(space.low, dtype=torch.float32).flatten(), persistent=False)
            self.register_buffer("high", torch.tensor(space.high, dtype=torch.float32).flatten(), persistent=False)

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        observations = batch[Columns.OBS]
        if self._one_hot:
            start = int(self.observation_space.start)
            inputs = nn.functional.one_hot(observations.long() - start, self._one_hot).float()
        else:
            inputs = observations.float().flatten(1)
        limit = self.obs_limit
        outputs = self.net(((inputs - self.obs_mean) / self.obs_deviation).clamp(-limit, limit))
        if hasattr(self, "low"):
            outputs = outputs.clamp(self.low, self.high)
        if not self._is_discrete:
            outputs = torch.cat([outputs, self.log_stdev.expand_as(outputs)], dim=-1)
        return {Columns.ACTION_DIST_INPUTS: outputs}

    def read(self) -> NDArray[np.float32]:
        """The parameters as one vector ``[P]``."""
        vector: NDArray[np.float32] = nn.utils.parameters_to_vector(self.net.parameters()).detach().cpu().numpy().copy()
        return vector

    @torch.no_grad()
    def write(self, theta: NDArray[np.float32], scale: tuple[NDArray[np.float32], NDArray[np.float32], float] | None) -> None:
        """Take over parameters.

        :param theta: ``[P]``.
        :param scale: Mean and standard deviation of observations ``[D]``, and where normalised ones are clipped.
        """
        nn.utils.vector_to_parameters(torch.from_numpy(theta).to(self.obs_mean.device), self.net.parameters())
        if scale is not None:
            for buffer, value in zip((self.obs_mean, self.obs_deviation, self.obs_limit), scale, strict=True):
                buffer.copy_(torch.as_tensor(value))
