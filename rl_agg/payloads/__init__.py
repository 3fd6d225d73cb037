r"""Parameters that agents keep to themselves, and how they are merged. Axes: A agents.

In these schemes each agent has its own copy of the parameters. What differs is what is exchanged, and when:

=============  ==========================================  ==================
scheme         what an agent's step is made of             what is merged
=============  ==========================================  ==================
``fedavg``     its own gradient                            parameters
``fedprox``    its own gradient, drawn to the last merge   parameters
``actor_sum``  its own gradient, and the sum of all        gradients
``actor_mean`` its own gradient, and the mean of all       gradients
``a_pps``      its own gradient                            parameters
``rs_pps``     its own gradient                            parameters
``pp_pps``     its own gradient                            some layers'
=============  ==========================================  ==================

Source: McMahan et al. (2017); Li et al. (2020); Holen et al. (2023), section 2.1 and table 1; Zhang et al.
(2024), section 4.
"""

from rl_agg.payloads.averaging import merge
from rl_agg.payloads.local_schemes import (
    LOCAL_SCHEMES,
    MOMENTS,
    ActorMean,
    ActorSum,
    FedAvg,
    FedProx,
    LocalScheme,
    make_scheme,
)
from rl_agg.payloads.periodic import PERIODIC_SHARINGS, PeriodicSharing, a_pps, pp_pps, reward_shares, rs_pps

__all__ = [
    "LOCAL_SCHEMES",
    "MOMENTS",
    "PERIODIC_SHARINGS",
    "ActorMean",
    "ActorSum",
    "FedAvg",
    "FedProx",
    "LocalScheme",
    "PeriodicSharing",
    "a_pps",
    "make_scheme",
    "merge",
    "pp_pps",
    "reward_shares",
    "rs_pps",
]
