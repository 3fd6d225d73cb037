# %% [markdown]
# # Weighted agents in RLlib
#
# RLlib's PPO with one changed line, and the weights of eight agents during training. Two minutes; needs `pip install -e
# ".[rllib]" matplotlib`.

# %%
import matplotlib.pyplot as plt

from rllib_agg import AggPPOConfig

ITERATIONS = 20

# %% [markdown]
# ## Configure
#
# `AggPPOConfig` takes the place of `PPOConfig`. Each sub-environment of each env runner is an agent: two runners with four
# sub-environments are eight. `r_weighted` gives agents with a larger episodic return a larger weight.

# %%
config = (
    AggPPOConfig()
    .environment("CartPole-v1")
    .env_runners(num_env_runners=2, num_envs_per_env_runner=4)
    .training(aggregation="r_weighted", train_batch_size_per_learner=2000, minibatch_size=250, num_epochs=8, lr=1e-3)
    .debugging(seed=0)
)
algorithm = config.build_algo()

# %% [markdown]
# ## Train
#
# Each `train()` returns RLlib's results. Those of the aggregation are below `agg`.

# %%
steps, returns, smallest, largest = [], [], [], []
for _ in range(ITERATIONS):
    result = algorithm.train()
    agg = result["learners"]["default_policy"]["agg"]
    steps.append(result["env_runners"]["num_env_steps_sampled_lifetime"])
    returns.append(result["env_runners"]["episode_return_mean"])
    smallest.append(agg["weight_min"])
    largest.append(agg["weight_max"])
algorithm.stop()
print(f"return {returns[-1]:.0f} after {steps[-1]} steps; weights {smallest[-1]:.2f} to {largest[-1]:.2f}")

# %% [markdown]
# ## Look
#
# Left the return, right the smallest and the largest weight among the agents. A weight of 1 counts as much as in plain
# averaging.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
left.plot(steps, returns)
left.set_ylabel("mean return")
right.fill_between(steps, smallest, largest, alpha=0.3)
right.set_ylabel("weights of the agents")
for axes in (left, right):
    axes.set_xlabel("environment steps")
plt.show()

# %% [markdown]
# Next: `docs/agg_ppo_rllib.md` has all settings; `num_learners` above 0 trains on several learners, each with whole agents.
