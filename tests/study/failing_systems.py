"""A system that breaks while it trains."""

from stable_baselines3 import PPO


class RaisesInTraining(PPO):
    """Builds like any other, so that only running it tells."""

    def train(self) -> None:
        raise RuntimeError("the update went wrong")
