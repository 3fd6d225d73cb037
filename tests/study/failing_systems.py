"""Systems that break while they train, or end before their time."""

from typing import Any

from stable_baselines3 import PPO


class RaisesInTraining(PPO):
    """Builds like any other, so that only running it shows the error."""

    def train(self) -> None:
        raise RuntimeError("the update went wrong")


class NeverTrains(PPO):
    """Ends at once, and says nothing."""

    def learn(self, *args: Any, **kwargs: Any) -> "NeverTrains":
        return self


class EndsEarly(PPO):
    """Takes one rollout for enough, whatever its budget."""

    def learn(self, total_timesteps: int, *args: Any, **kwargs: Any) -> "EndsEarly":
        return super().learn(1, *args, **kwargs)
