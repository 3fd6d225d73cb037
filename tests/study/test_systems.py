"""The systems that hosts list are what their schemes say."""

from __future__ import annotations

from pathlib import Path

import pytest

import rllib_agg
import sb3_agg
from rl_agg import Scheme
from rl_agg.evolution.settings import EvolutionSettings
from rl_agg.scheme import make_scheme
from rl_agg.study.spec.parsing import load_yaml, read
from rl_agg.study.spec.systems import FILE, Catalogue, KnownSystem

AXES = ("gate", "codec", "rule", "payload", "schedule")


def systems_of(package: object) -> dict[str, KnownSystem]:
    file = Path(str(package.__file__)).with_name(FILE)  # type: ignore[attr-defined]
    return read(Catalogue, load_yaml(file), str(file)).systems


def chosen(system: KnownSystem) -> dict[str, str]:
    return {axis: getattr(system, axis) for axis in AXES}


@pytest.mark.parametrize("name", systems_of(sb3_agg))
def test_systems_of_stable_baselines3(name: str) -> None:
    system = systems_of(sb3_agg)[name]
    assert {**chosen(system), "broadcast": "identity"} == make_scheme(**system.settings).described


@pytest.mark.parametrize("name", [name for name, system in systems_of(rllib_agg).items() if system.system == "rllib_agg:ES"])
def test_evolution_strategies(name: str) -> None:
    system = systems_of(rllib_agg)[name]
    config = rllib_agg.ESConfig()
    settings = dict(system.settings)
    if "faithful" in settings:
        config.faithful(settings.pop("faithful"))
    config.training(**settings)
    settings_of_evolution: EvolutionSettings = config.evolution
    assert {**chosen(system), "broadcast": "identity"} == settings_of_evolution.scheme.described


@pytest.mark.parametrize("name", ["DQL", "EBCDQL", "Deep EBCDQL", "DQN", "DAVIA", "TD-EF", "A3C", "A-PPS", "RS-PPS", "PP-PPS"])
def test_other_choices_go_together(name: str) -> None:
    assert Scheme(**{**chosen(systems_of(rllib_agg)[name]), "schedule": schedule_of(systems_of(rllib_agg)[name])})


def schedule_of(system: KnownSystem) -> object:
    from rl_agg.schedules import OnArrival

    return {"every_step": 1, "interval": 2, "on_arrival": OnArrival()}[system.schedule]
