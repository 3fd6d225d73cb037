"""Stand-ins for SMAC, SMACv2 and SMAClite: their signatures and quirks, on a toy battle.

Every living ally that attacks takes 10 of its target's health, 20 if it is the first. Enemies do not attack, but an ally that
is ``doomed`` dies at its time.
"""

from __future__ import annotations

import enum
import sys
import types
from typing import Any

import numpy as np

MAPS = {
    "3m": (3, 3, 60, 30, 48, "marines"),
    "2s3z": (5, 5, 120, 80, 120, "stalkers_and_zealots"),
    "MMM2": (10, 12, 180, 176, 322, "MMM"),
    "10m_vs_11m": (10, 11, 150, 105, 243, "marines"),
    "corridor": (6, 24, 400, 156, 282, "zealots"),
}
"""Agents, enemies, time limit, sizes of observation and state, and map type: SMAC's own numbers."""


class Unit:
    def __init__(self, unit_type: int, health: float = 40.0, shield: float = 10.0) -> None:
        self.unit_type, self.health, self.shield = unit_type, health, shield
        self.health_max, self.shield_max = health, shield

    def hit(self, damage: float) -> None:
        by_shield = min(self.shield, damage)
        self.shield -= by_shield
        self.health = max(self.health - (damage - by_shield), 0.0)


class ProtocolError(Exception):
    """As pysc2's: what a game that breaks raises, where SMAC does not catch it."""


ProtocolError.__module__ = "pysc2.lib.protocol"


class StarCraft2Env:
    """SMAC's: reset returns observations and state, step the reward, an end that includes the time-out, and information."""

    made: list[StarCraft2Env] = []  # noqa: RUF012  for the tests to look at

    def __init__(
        self,
        map_name: str = "8m",
        step_mul: int | None = None,
        difficulty: str = "7",
        seed: int | None = None,
        reward_sparse: bool = False,
        reward_only_positive: bool = True,
        reward_death_value: float = 10,
        reward_win: float = 200,
        reward_defeat: float = 0,
        reward_scale: bool = True,
        reward_scale_rate: float = 20,
        capability_config: Any = None,
        **of_smacv2: Any,
    ) -> None:
        self.map_name, self.seed = map_name, seed
        sizes = MAPS.get(map_name, (5, 5, 200, 92, 120, "terran_gen"))
        self.n_agents, self.n_enemies, self.episode_limit, self._obs_size, self._state_size, self.map_type = sizes
        if capability_config is not None:
            self.n_agents, self.n_enemies = capability_config["n_units"], capability_config["n_enemies"]
            capability_config["team_gen"]["env_key"] = "team_gen"  # SMACv2 writes into it
        self.reward_win, self.reward_defeat, self.reward_sparse = reward_win, reward_defeat, reward_sparse
        self.reward_death_value = reward_death_value
        self.reward_scale, self.reward_scale_rate = reward_scale, reward_scale_rate
        self.n_actions_no_attack = 6
        self.n_actions = 6 + self.n_enemies
        self.max_reward = self.n_enemies * reward_death_value + reward_win
        self.medivac_id = 0
        self.agents: dict[int, Unit] = {}
        self.enemies: dict[int, Unit] = {}
        self.running = False
        self.crashes: dict[int, str] = {}
        self.doomed: dict[int, int] = {}
        self._episode_count = self.episode_steps = 0
        StarCraft2Env.made.append(self)

    def reset(self) -> tuple[list[Any], Any]:
        if "reset" in self.crashes.values():
            self.crashes.clear()
            raise ProtocolError("cannot start")
        self.running = True
        self.episode_steps = 0
        self.agents = {number: Unit(50 + self._kind(number)) for number in range(self.n_agents)}
        self.enemies = {number: Unit(48) for number in range(self.n_enemies)}
        if self._episode_count == 0:
            self.medivac_id = 52 if self.map_type == "MMM" else 0
            self.max_reward += sum(unit.health_max + unit.shield_max for unit in self.enemies.values())
        return self.get_obs(), self.get_state()

    def step(self, actions: list[int]) -> tuple[float, bool, dict[str, Any]]:
        assert all(type(action) is int for action in actions)
        assert self.running, "reset first"
        for agent, action in enumerate(actions):
            assert self.get_avail_agent_actions(agent)[action] == 1, f"Agent {agent} cannot perform action {action}"
        crash = self.crashes.pop(self.episode_steps, None)
        if crash == "quiet":
            self.episode_steps = 0  # restarted by itself
            return 0, True, {}
        if crash == "loud":
            raise ProtocolError("connection lost")
        if crash == "bug":
            raise KeyError("ours")
        self.episode_steps += 1
        reward = 0.0
        for agent, action in enumerate(actions):
            if action < 6:
                continue
            if self._kind(agent) == 2:
                friend = self.agents[action - 6]
                friend.health = min(friend.health + 5, friend.health_max) if friend.health > 0 else 0.0
                continue
            enemy = self.enemies[action - 6]
            if enemy.health > 0:
                before = enemy.health + enemy.shield
                enemy.hit(20.0 if agent == 0 else 10.0)
                reward += before - enemy.health - enemy.shield
                reward += self.reward_death_value * (enemy.health == 0)
        for agent, time in self.doomed.items():
            if self.episode_steps >= time:
                self.agents[agent].health = 0.0
        info: dict[str, Any] = {"battle_won": False}
        over = True
        allies = [unit for number, unit in self.agents.items() if unit.health > 0 and self._kind(number) != 2]
        if all(unit.health == 0 for unit in self.enemies.values()) and allies:
            info["battle_won"] = True
            reward += self.reward_win
        elif not allies:
            reward += self.reward_defeat
        else:
            over = self.episode_steps >= self.episode_limit
        self._episode_count += over
        return (reward / (self.max_reward / self.reward_scale_rate) if self.reward_scale else reward), over, info

    def get_avail_agent_actions(self, agent_id: int) -> list[int]:
        if self.agents[agent_id].health == 0:
            return [1] + [0] * (self.n_actions - 1)
        healer = self._kind(agent_id) == 2
        targets = self.agents if healer else self.enemies
        near = [int(t in targets and targets[t].health > 0 and not (healer and t == agent_id)) for t in range(self.n_enemies)]
        return [0, 1, 1, 1, 1, 0, *near]

    def get_avail_actions(self) -> list[list[int]]:
        return [self.get_avail_agent_actions(agent) for agent in range(self.n_agents)]

    def get_obs(self) -> list[Any]:
        return [np.full(self._obs_size, unit.health, dtype=np.float32) for unit in self.agents.values()]

    def get_state(self) -> Any:
        return np.full(self._state_size, self.episode_steps, dtype=np.float32)

    def get_env_info(self) -> dict[str, int]:
        return {
            "state_shape": self._state_size,
            "obs_shape": self._obs_size,
            "n_actions": self.n_actions,
            "n_agents": self.n_agents,
            "episode_limit": self.episode_limit,
        }

    def close(self) -> None:
        self.running = False

    def _kind(self, agent: int) -> int:
        """0 marauder, 1 marine, 2 medivac on MMM2; 0 elsewhere."""
        return (0 if agent < 2 else 1 if agent < 9 else 2) if self.map_type == "MMM" else 0


class StarCraftCapabilityEnvWrapper:
    """SMACv2's: forwards what it has not, and its own list of available actions is broken."""

    def __init__(self, **kwargs: Any) -> None:
        self.distribution_config = kwargs["capability_config"]
        self.env = StarCraft2Env(**kwargs)

    def reset(self) -> Any:
        return self.env.reset()

    def get_avail_actions(self) -> Any:
        available, true = self.env.get_avail_actions()
        return available, true

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)


class CombatType(enum.Enum):
    DAMAGE = "DAMAGE"
    HEALING = "HEALING"


class LiteUnit:
    def __init__(self, name: str, hp: float) -> None:
        self.hp, self.shield = hp, 0.0
        self.combat_type = CombatType.HEALING if name == "MEDIVAC" else CombatType.DAMAGE
        self.type = types.SimpleNamespace(stats=types.SimpleNamespace(name=name))


class SMACliteEnv:
    """SMAClite's: Gymnasium's interface, Python's own integers only, no time limit, and the dead are not in its lists."""

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array"]}  # noqa: RUF012

    def __init__(self, map_info: Any = None, seed: Any = None, use_cpp_rvo2: bool = False, render_mode: str = "human") -> None:
        self.names = map_info
        self.n_agents, self.n_enemies = len(map_info), 2
        self.n_actions, self.obs_size, self.state_size = 6 + max(self.n_agents, 2), 7, 11
        self.max_reward = 2 * 10 + 200 + 2 * 30
        self.render_mode = render_mode

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.last_seed = seed
        self.agents = {number: LiteUnit(name, 30.0) for number, name in enumerate(self.names)}
        self.enemies = {number: LiteUnit("ZEALOT", 30.0) for number in range(2)}
        return self._obs(), self._info()

    def step(self, actions: list[int]) -> Any:
        assert all(type(action) == int for action in actions)  # noqa: E721  as there
        reward = 0.0
        for agent, action in enumerate(actions):
            if action >= 6 and self.names[agent] != "MEDIVAC" and action - 6 in self.enemies:
                dealt = min(10.0, self.enemies[action - 6].hp)
                self.enemies[action - 6].hp -= dealt
                reward += dealt
                if self.enemies[action - 6].hp == 0:
                    del self.enemies[action - 6]
                    reward += 10
        reward += 200 * (not self.enemies)
        return self._obs(), reward / (self.max_reward / 20), not self.enemies, False, self._info()

    def render(self) -> Any:
        return np.zeros((8, 9, 3), dtype=np.uint8)

    def close(self) -> None:
        pass

    def _obs(self) -> Any:
        return tuple(np.full(self.obs_size, number, dtype=np.float32) for number in range(self.n_agents))

    def _info(self) -> dict[str, Any]:
        row = [0, 1, 1, 1, 1, 1] + [float(number in self.enemies) for number in range(2)] + [0.0] * (self.n_actions - 8)
        return {"avail_actions": [np.array(row)] * self.n_agents, "state": np.ones(self.state_size, dtype=np.float32)}


def modules() -> dict[str, types.ModuleType]:
    """What ``sys.modules`` holds when SMAC, SMACv2 and SMAClite are installed."""
    parts: dict[str, dict[str, Any]] = {
        "smac": {},
        "smac.env": {"StarCraft2Env": StarCraft2Env},
        "smac.env.starcraft2": {},
        "smac.env.starcraft2.maps": {},
        "smac.env.starcraft2.maps.smac_maps": {"get_smac_map_registry": lambda: MAPS},
        "smacv2": {},
        "smacv2.env": {"StarCraft2Env": StarCraft2Env},
        "smacv2.env.starcraft2": {},
        "smacv2.env.starcraft2.wrapper": {"StarCraftCapabilityEnvWrapper": StarCraftCapabilityEnvWrapper},
        "smaclite": {},
        "smaclite.env": {"SMACliteEnv": SMACliteEnv},
    }
    found = {}
    for name, contents in parts.items():
        module = types.ModuleType(name)
        module.__spec__ = types.SimpleNamespace(name=name)  # type: ignore[assignment]  find_spec looks for one
        module.__path__ = []
        vars(module).update(contents)
        found[name] = module
    assert not found.keys() & sys.modules.keys()
    return found
