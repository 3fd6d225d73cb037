"""Our files hold nothing that stock algorithms need this package for, and everything that ours go on from."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from rl_agg import Combiner, Signals
from rl_agg.attacks import Attack
from rl_agg.combiners import Krum, MixTailor
from rl_agg.local_schemes import FedAvg
from sb3_agg import AggA2C, AggMaskablePPO, AggPPO, AggRecurrentPPO
from tests.sb3.flattened import parameters
from tests.sb3.worlds import cartpoles

AGENTS, STEPS = 5, 16


class Drifting(Combiner):
    """The mean, and a memory of kinds that torch's safe loader knows and of one that it does not."""

    def __init__(self) -> None:
        self.steps, self.average, self.seen = 0, torch.zeros(()), np.zeros(2)

    def merge(self, gradients: torch.Tensor, *, num_masked: int, step: int) -> torch.Tensor:
        self.steps, self.seen = self.steps + 1, self.seen + len(gradients)
        self.average = 0.9 * self.average + 0.1 * gradients.mean(0)
        return self.average

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "average": self.average, "seen": self.seen, "of": (Krum(), None)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps, self.average, self.seen = state["steps"], state["average"], state["seen"]
        assert state["of"] == (Krum(), None)


class Favour:
    """A rule of the user's with a setting."""

    def __init__(self, agent: int) -> None:
        self.agent = agent

    def __call__(self, signals: Signals) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor(self.agent), signals.num_agents).double() + 0.1


LAG = {"communication": "lag", "communication_kwargs": {"xi": 0.5}}
ATTACK = {"kind": "sign_flip", "agents": [1]}
SETTINGS: dict[str, dict[str, Any]] = {
    "mean": {},
    "lag": {"aggregation": "r_weighted", **LAG},
    "attack": {"aggregation": "krum", **LAG, "attack": ATTACK},
    "attack_object": {"attack": Attack("scale", agents=(1,), scale=2.0)},
    "krum_object": {"aggregation": Krum(num_selected=2)},
    "mixtailor_object": {"aggregation": MixTailor(("median", "krum"), seed=3), **LAG},
    "fedavg_object": {"aggregation": FedAvg(interval=2)},
    "fedavg": {"aggregation": "fedavg"},
    "actor_sum": {"aggregation": "actor_sum"},
    "callable": {"aggregation": lambda signals: torch.ones(signals.num_agents)},
    "own_callable": {"aggregation": Favour(2)},
    "own_combiner": {"aggregation": Drifting()},
    "torchjd": {"aggregation": "torchjd:GradVac"},
    "whole": {"batch_size": None},
    "min_episodes": {"min_episodes": 1},
    "normalized": {"aggregation": "l_weighted"},
    "a2c": {"aggregation": "median"},
    "maskable": {"aggregation": Krum(), "batch_size": None},
    "recurrent": {"aggregation": "median", **LAG, "batch_size": None},
}
CLASSES: dict[str, Any] = {"a2c": AggA2C, "maskable": AggMaskablePPO, "recurrent": AggRecurrentPPO}


def worlds(name: str) -> Any:
    return VecNormalize(cartpoles(AGENTS)) if name == "normalized" else cartpoles(AGENTS)


def learn(model: Any, **kwargs: Any) -> Any:
    if isinstance(model, AggMaskablePPO):
        kwargs["use_masking"] = False
    return model.learn(3 * STEPS * AGENTS, **kwargs)


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    made = {}
    for name, own in SETTINGS.items():
        cls = CLASSES.get(name, AggPPO)
        batches = {} if cls is AggA2C else {"batch_size": 20, "n_epochs": 2}
        policy = "MlpLstmPolicy" if cls is AggRecurrentPPO else "MlpPolicy"
        settings = {"n_steps": STEPS, "seed": 0, "device": "cpu", **batches, **own}
        made[name] = learn(cls(policy, worlds(name), **settings))
    return made


@pytest.fixture(scope="module")
def folder(models: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    for name, model in models.items():
        model.save(path / name)
    return path


STOCK = """
import sys, warnings
from pathlib import Path

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("rl_agg", "sb3_agg", "test_stock_files"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
import numpy as np, torch
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env

torch.set_num_threads(1)
classes = {"a2c": A2C, "maskable": MaskablePPO, "recurrent": RecurrentPPO}
observations = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
found = {}
for path in sorted(Path(sys.argv[1]).glob("*.zip")):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = classes.get(path.stem, PPO).load(path, env=make_vec_env("CartPole-v1", 5), device="cpu")
    found[path.stem] = model.predict(observations, deterministic=True)[0]
    before = [item.clone() for item in model.policy.parameters()]
    model.learn(80, reset_num_timesteps=False, **({"use_masking": False} if path.stem == "maskable" else {}))
    assert model.num_timesteps > 240
    assert not all(map(torch.equal, before, model.policy.parameters()))
    model.save(Path(sys.argv[1]) / "again" / path.stem)
assert not {"rl_agg", "sb3_agg"} & set(sys.modules)
np.savez(Path(sys.argv[1]) / "found.npz", **found)
"""


def test_stock_algorithms_open_them_without_this_package(folder: Path, models: dict[str, Any]) -> None:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    (folder / "again").mkdir()
    run = subprocess.run([sys.executable, "-c", STOCK, str(folder)], cwd=folder, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    observations = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    with np.load(folder / "found.npz") as found:
        assert set(found) == set(SETTINGS)
        for name, actions in found.items():
            np.testing.assert_array_equal(actions, models[name].predict(observations, deterministic=True)[0])
    for name, model in models.items():  # the settings have passed through the stock algorithm
        back = type(model).load(folder / "again" / name, env=worlds(name), device="cpu")
        assert type(back.exchange.scheme.rule) is type(model.exchange.scheme.rule)
        assert back.ledger.state_dict() == model.ledger.state_dict()
        learn(back, reset_num_timesteps=False)


@pytest.mark.parametrize("name", SETTINGS)
def test_no_object_of_ours_is_in_them(name: str, folder: Path) -> None:
    with zipfile.ZipFile(folder / f"{name}.zip") as archive:
        data = json.loads(archive.read("data"))
        states = [torch.load(archive.open(file), weights_only=True) for file in archive.namelist() if file.endswith(".pth")]
    assert len(states) == 3
    assert {"ledger", "aggregation", "attack"} <= set(data)
    pickled = [item[":serialized:"] for item in data.values() if isinstance(item, dict) and ":serialized:" in item]
    assert pickled
    for text in map(base64.b64decode, pickled):
        assert b"rl_agg" not in text
        assert b"sb3_agg" not in text
    if name.endswith("_object"):  # named without the module that it is in, which may move
        (text,) = (item["cloudpickle"] for item in data.values() if isinstance(item, dict) and "cloudpickle" in item)
        assert b"rl_agg" not in base64.b64decode(text)


@pytest.mark.parametrize("name", SETTINGS)
def test_ours_go_on_from_them(name: str, folder: Path, models: dict[str, Any]) -> None:
    model = models[name]
    one, other = (type(model).load(folder / name, env=worlds(name), device="cpu") for _ in range(2))
    for setting in ("aggregation_kwargs", "communication", "communication_kwargs", "attack"):
        assert getattr(one, setting) == getattr(model, setting)
    assert type(one.aggregation) is type(model.aggregation)
    assert one.ledger.state_dict() == model.ledger.state_dict()
    expected, found = (item.get_parameters()["policy.optimizer"] for item in (model, one))
    assert expected.keys() == found.keys()
    if name != "torchjd":  # whose aggregator is pickled
        same_state(found.get("server"), expected.get("server"))
    for item in (one, other):
        item.set_random_seed(3)
        learn(item, reset_num_timesteps=False)
    assert torch.equal(parameters(one), parameters(other))
    assert not torch.equal(parameters(one), parameters(model))


def same_state(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            same_state(one[key], other[key])
    elif isinstance(one, list | tuple):
        for pair in zip(one, other, strict=True):
            same_state(*pair)
    else:
        assert one == other


def test_another_setting_overrides_an_object(folder: Path) -> None:
    assert AggPPO.load(folder / "own_combiner", env=cartpoles(AGENTS), aggregation="krum").aggregation == "krum"
    assert AggPPO.load(folder / "attack_object", env=cartpoles(AGENTS), attack=None).attack is None


def test_what_a_model_has_is_the_same_after_saving(models: dict[str, Any], tmp_path: Path) -> None:
    model = models["attack_object"]
    before = {name: getattr(model, name) for name in ("ledger", "attack", "aggregation", "exchange")}
    model.save(tmp_path / "model")
    assert all(getattr(model, name) is item for name, item in before.items())


@pytest.mark.parametrize("missing", ["exchange", "ledger"])
def test_files_without_it_begin_afresh(missing: str, models: dict[str, Any], tmp_path: Path) -> None:
    model = models["lag"]
    state = model.get_parameters()
    if missing == "exchange":
        del state["policy.optimizer"]["exchange"]
        fresh = AggPPO("MlpPolicy", cartpoles(AGENTS), n_steps=STEPS, batch_size=20, device="cpu", **SETTINGS["lag"])
        fresh.set_parameters(state)
        assert fresh.exchange.num_exchanges == 0
    else:
        model.save(tmp_path / "model", exclude=["ledger"])
        assert AggPPO.load(tmp_path / "model", env=cartpoles(AGENTS)).ledger.messages == 0


def test_an_incomplete_optimiser_state_is_refused_as_by_stock(models: dict[str, Any]) -> None:
    state = {name: dict(list(own.items())[:-1]) for name, own in models["mean"].get_parameters().items()}
    with pytest.raises(RuntimeError, match="Missing key"):
        models["mean"].set_parameters(state)


# Writing --------------------------------------------------------------------------------------------------------------------


def test_an_interrupted_save_leaves_the_older_file(
    models: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.zip"
    models["mean"].save(path)
    before = path.read_bytes()

    def interrupted(self: Any, file: Path, *args: Any) -> None:
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(BaseAlgorithm, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        models["mean"].save(path)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["model.zip"]


def test_paths_are_taken_as_by_stock(models: dict[str, Any], tmp_path: Path) -> None:
    model = models["mean"]
    model.save(str(tmp_path / "plain"))
    model.save(tmp_path / "v1.2")
    with pytest.warns(UserWarning, match="does not exist. Will create it"):
        model.save(tmp_path / "new" / "model")
    (tmp_path / "taken.zip").mkdir()
    with pytest.warns(UserWarning, match="is a folder. Will save instead to"):
        model.save(tmp_path / "taken")
    (tmp_path / "link.zip").symlink_to(tmp_path / "plain.zip")
    model.save(tmp_path / "link")
    assert (tmp_path / "link.zip").is_symlink()
    with (tmp_path / "open.zip").open("wb") as file:
        model.save(file)
    names = {"plain.zip", "v1.2", "new", "taken.zip", "taken.zip_2", "link.zip", "open.zip"}
    assert {item.name for item in tmp_path.iterdir()} == names
    for name in ("plain", "v1.2", "new/model", "taken.zip_2", "link", "open"):
        assert torch.equal(parameters(AggPPO.load(tmp_path / name, device="cpu")), parameters(model))
