"""RL Baselines3 Zoo's format: what is read, what is refused, what gives way to what."""

from pathlib import Path

import pytest

from rl_agg.study.errors import StudyError
from rl_agg.study.run.runners import runner_for
from rl_agg.study.spec.hyperparams import load_hyperparams
from rl_agg.study.spec.loading import resolve
from rl_agg.study.spec.parsing import load_yaml
from rl_agg.study.spec.study import Budget, Environment, Study, System

SHIPPED = Path(__file__).parents[2] / "examples" / "hyperparams"
CLASSES = {
    "agg_ppo": "AggPPO",
    "agg_dqn": "AggDQN",
    "agg_qrdqn": "AggQRDQN",
    "agg_sac": "AggSAC",
    "agg_td3": "AggTD3",
    "agg_tqc": "AggTQC",
}
ENTRIES = [(path.stem, environment) for path in sorted(SHIPPED.glob("*.yml")) for environment in load_yaml(path)]


def write(folder: Path, entry: str) -> Path:
    path = folder / "zoo.yml"
    path.write_text(
        "defaults: &d\n  n_timesteps: !!float 1e5\n  gamma: 0.9\nCartPole-v1:\n  <<: *d\n" + entry, encoding="utf-8"
    )
    return path


def study(folder: Path, environment: Environment, budget: Budget | None = None) -> Study:
    return resolve(
        Study("s", "a", {"a": System("stable_baselines3:PPO")}, {"CartPole-v1": environment}, 1, budget, "zoo.yml"),
        folder=folder,
    )


def test_an_entry_is_read(tmp_path):
    path = write(
        tmp_path,
        """
  n_envs: 6
  policy: 'MlpPolicy'
  normalize: "{'norm_obs': True, 'norm_reward': False}"
  normalize_kwargs: {clip_obs: 5.0}
  learning_rate: lin_2.5e-4
  frame_stack: null
  policy_kwargs: "dict(log_std_init=-2, activation_fn=nn.ReLU, net_arch=dict(pi=[16, 16], vf=(32,)))"
""",
    )
    read = load_hyperparams(path, "CartPole-v1")
    assert (read.num_agents, read.policy, read.env_steps) == (6, "MlpPolicy", 100_000)
    assert read.normalize == {"norm_obs": True, "norm_reward": False, "clip_obs": 5.0}
    assert read.settings == {
        "gamma": 0.9,
        "learning_rate": "lin_2.5e-4",
        "policy_kwargs": {"log_std_init": -2, "activation_fn": "nn.ReLU", "net_arch": {"pi": [16, 16], "vf": [32]}},
    }


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("  env_wrapper: some.Wrapper\n", "'env_wrapper' is not supported"),
        ("  frame_stack: 4\n", "'frame_stack' is not supported"),
        ("  policy_kwargs: \"dict(net_arch=__import__('os').system('true'))\"\n", "only dict"),
        ('  policy_kwargs: "dict(activation_fn=os.path)"\n', "only dict"),
        ("  n_envs: 2.5\n", "whole number >= 1, got 2.5"),
        ("  n_envs: many\n", "whole number >= 1, got 'many'"),
        ("  n_envs: .nan\n", "whole number >= 1, got nan"),
        ("  n_envs: .inf\n", "whole number >= 1, got inf"),
        ("  policy: 5\n", "policy must be text"),
        ("  noise_type: normal\n", "noise_type and noise_std go together, got 'normal' and None"),
        ("  normalize: 1\n", "normalize must be true or false or a mapping"),
        ("  normalize: 1\n  normalize_kwargs: {clip_obs: 5.0}\n", "normalize must be true or false or a mapping"),
        ("  normalize: true\n  normalize_kwargs: 3\n", "normalize_kwargs must be a mapping, got 3"),
        ("  normalize_kwargs: {norm_reward: false}\n", "'normalize_kwargs' does nothing without 'normalize'"),
        ("  normalize: false\n  normalize_kwargs: {norm_reward: false}\n", "'normalize_kwargs' does nothing without"),
        ("  policy_kwargs: 5\n", "policy_kwargs must be a mapping, got 5"),
        ("  n_steps: 2026-11-22\n", "settings.n_steps must be text"),
        ('  policy_kwargs: "dict(net_arch={1, 2})"\n', "settings.policy_kwargs.net_arch must be text"),
        ("  policy_kwargs: \"dict(net_arch=b'x')\"\n", "settings.policy_kwargs.net_arch must be text"),
        ('  policy_kwargs: "dict(net_arch={[1]: 2})"\n', "only dict"),
        ('  policy_kwargs: "dict(net_arch={(1, 2): 3})"\n', "only dict"),
    ],
)
def test_what_would_be_another_experiment_is_an_error(tmp_path, entry, words):
    with pytest.raises(StudyError, match="CartPole-v1") as caught:
        load_hyperparams(write(tmp_path, entry), "CartPole-v1")
    assert words in str(caught.value)


def test_an_environment_without_an_entry_is_an_error(tmp_path):
    with pytest.raises(StudyError, match="did you mean 'CartPole-v1'"):
        load_hyperparams(write(tmp_path, ""), "CartPole-v0")


def test_the_spec_wins_over_the_file(tmp_path):
    write(tmp_path, "  n_envs: 6\n  n_steps: 32\n  normalize: true\n")
    left = study(tmp_path, Environment()).environments["CartPole-v1"]
    assert (left.num_agents, left.budget, left.normalize) == (6, Budget(env_steps=100_000), True)
    own = Environment(num_agents=2, normalize=False, settings={"n_steps": 16})
    won = study(tmp_path, own, Budget(updates=3)).environments["CartPole-v1"]
    assert (won.num_agents, won.budget, won.normalize) == (2, Budget(updates=3), False)
    assert won.settings == {"gamma": 0.9, "n_steps": 16}


def test_a_network_wins_over_the_files_layers(tmp_path):
    write(tmp_path, "  policy_kwargs: dict(net_arch=[16], log_std_init=-2)\n")
    left = study(tmp_path, Environment()).environments["CartPole-v1"]
    assert left.settings["policy_kwargs"] == {"net_arch": [16], "log_std_init": -2}
    sized = study(tmp_path, Environment(network="large")).environments["CartPole-v1"]
    assert (sized.network, sized.settings["policy_kwargs"]) == ("large", {"log_std_init": -2})


@pytest.mark.parametrize(("file", "environment"), ENTRIES)
def test_the_shipped_settings_build(file, environment):
    pytest.importorskip("mujoco")
    pytest.importorskip("Box2D")
    system = System(f"sb3_agg:{CLASSES[file]}", {"aggregation": "r_weighted"})
    small = {} if file == "agg_ppo" else {"buffer_size": 1000}
    made = Study("s", "a", {"a": system}, {environment: Environment(settings=small)}, 1, hyperparams=f"{file}.yml")
    (cell,) = resolve(made, folder=SHIPPED).cells
    assert cell.environment.num_agents == 8
    runner_for(cell).check(cell)


def test_noise_is_read(tmp_path):
    path = write(tmp_path, "  noise_type: normal\n  noise_std: 0.1\n")
    assert load_hyperparams(path, "CartPole-v1").settings["action_noise"] == {"type": "normal", "std": 0.1}
