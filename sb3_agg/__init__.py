"""Aggregation across the sub-environments of Stable-Baselines3's algorithms."""

try:
    import sb3_contrib as _sb3_contrib  # noqa: F401
    import stable_baselines3 as _stable_baselines3
except ImportError as error:
    raise ImportError("sb3_agg needs Stable-Baselines3 and sb3-contrib: pip install 'rl-agg[sb3]'") from error

# Before 2.3 rollouts do not report which episodes ended, and all agents would weigh alike.
if tuple(map(int, _stable_baselines3.__version__.split(".")[:2])) < (2, 3):
    raise ImportError(
        f"sb3_agg needs Stable-Baselines3 2.3 or newer, found {_stable_baselines3.__version__}: pip install 'rl-agg[sb3]'"
    )

from sb3_agg.a2c import AggA2C
from sb3_agg.callbacks import AgentLog
from sb3_agg.ddpg import AggDDPG
from sb3_agg.dqn import AggDQN
from sb3_agg.maskable_ppo import AggMaskablePPO
from sb3_agg.mixin import AggregationMixin
from sb3_agg.networks import network
from sb3_agg.off_policy.mixin import OffPolicyAggregationMixin
from sb3_agg.ppo import AggPPO
from sb3_agg.qrdqn import AggQRDQN
from sb3_agg.recurrent_ppo import AggRecurrentPPO
from sb3_agg.sac import AggSAC
from sb3_agg.td3 import AggTD3
from sb3_agg.tqc import AggTQC
from sb3_agg.vec_envs.disturbed import DisturbedVecEnv
from sb3_agg.vec_envs.envpool import EnvPoolVecEnv
from sb3_agg.vec_envs.normalize import AgentVecNormalize
from sb3_agg.vec_envs.unequal import make_unequal_vec_env

__all__ = [
    "AgentLog",
    "AgentVecNormalize",
    "AggA2C",
    "AggDDPG",
    "AggDQN",
    "AggMaskablePPO",
    "AggPPO",
    "AggQRDQN",
    "AggRecurrentPPO",
    "AggSAC",
    "AggTD3",
    "AggTQC",
    "AggregationMixin",
    "DisturbedVecEnv",
    "EnvPoolVecEnv",
    "OffPolicyAggregationMixin",
    "make_unequal_vec_env",
    "network",
]
