"""How likely an agent of ESPC is to send: Gunn (2023), figures 4.1 and 4.7, without Monte Carlo.

python examples/espc_chance.py
"""

import argparse

import numpy as np
from scipy.special import ndtr

from rl_agg.gates import sending_probability

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--num-agents", type=int, default=50)
args = parser.parse_args()

nodes, weights = np.polynomial.hermite_e.hermegauss(160)  # Gaussian quadrature
print("   m    m/n  if utilities are Gaussian  in the first episode")
for m in range(args.num_agents + 1):
    gaussian = weights @ sending_probability(ndtr(nodes), args.num_agents, m) / weights.sum()
    first = sending_probability(0.5, args.num_agents, m)  # an agent knows its own utility only
    print(f"{m:4d}  {m / args.num_agents:.3f}  {gaussian:25.3f}  {first:20.3f}")
