# %% [markdown]
# # A study: two rules, several seeds, intervals
#
# One run of each rule proves little. A study runs systems × environments × seeds, pairs runs by seed, and says what is
# established. Two minutes; needs `pip install -e ".[sb3,study]"`.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

from rl_agg.study import Budget, Environment, Study, System, resolve, run_study, write_report

UPDATES = 20
FOLDER = Path(tempfile.mkdtemp()) / "study"

# %% [markdown]
# ## Define
#
# Systems are classes by import path, and what they do not share. `baseline` is what the others are compared with. To compare
# on your own environment, write `my_module:MyEnv-v0` in place of `CartPole-v1`: Gymnasium imports the module, which
# registers it.

# %%
study = Study(
    name="Mean against R-Weighted",
    baseline="mean",
    systems={
        "mean": System("sb3_agg:AggPPO", {"aggregation": "mean"}),
        "R-Weighted": System("sb3_agg:AggPPO", {"aggregation": "r_weighted"}),
    },
    environments={"CartPole-v1": Environment(num_agents=4, settings={"n_steps": 256, "batch_size": 256})},
    seeds=3,
    budget=Budget(updates=UPDATES),
)

# %% [markdown]
# ## Run
#
# Each run leaves a Parquet record. Run the cell again after an interruption: finished runs are kept.

# %%
failed = run_study(resolve(study), FOLDER)
assert not failed, "see the folder failures/"

# %% [markdown]
# ## Read
#
# `write_report` writes a page, tables and figures, and returns the numbers.

# %%
results = write_report(FOLDER)
for row in results.rows:
    print(f"{row.system}: {row.mean_return.value:.1f} [{row.mean_return.low:.1f}, {row.mean_return.high:.1f}] over training")
comparison = results.comparisons("CartPole-v1", "R-Weighted", "mean")[0]
difference = comparison.difference
print(f"R-Weighted - mean: {difference.value:.1f} [{difference.low:.1f}, {difference.high:.1f}], {comparison.outcome}")
print(FOLDER / "report.html")

# %% [markdown]
# ## Look
#
# The curves that the page shows, as a picture. Three seeds seldom establish a difference; the weighting paper's tables take
# ten.

# %%
plt.figure(figsize=(9, 4))
plt.imshow(plt.imread(FOLDER / "figures" / "CartPole-v1.png"))
plt.axis("off")
plt.show()
