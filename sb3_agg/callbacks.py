"""A callback that logs each agent."""

from stable_baselines3.common.callbacks import BaseCallback

from sb3_agg.agents_mixin import AgentsMixin


class AgentLog(BaseCallback):
    """Log each agent separately: ``agg/weight/<agent>`` and ``agg/return/<agent>``, once a rollout.

    Weights are those of the last update, returns the last known raw ones in the environment's own units. Agents without one
    are left out.

    :raises TypeError: at ``learn()``, if the model does not aggregate.
    """

    def _init_callback(self) -> None:
        if not isinstance(self.model, AgentsMixin):
            raise TypeError(f"AgentLog needs an algorithm of sb3_agg such as AggPPO, got {type(self.model).__name__}")

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        assert isinstance(self.model, AgentsMixin)
        for name, values in {"weight": self.model.agent_weights, "return": self.model.agent_returns}.items():
            for agent, value in enumerate(values):
                if value == value:
                    self.logger.record(f"agg/{name}/{agent}", value)
