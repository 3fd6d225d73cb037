"""SMAX's battles: contributions, legal actions, ends, wins and seeds, each against SMAX itself."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rllib_agg.envs.smax.backend import team_spec
from rllib_agg.envs.smax.compiled import make_world
from rllib_agg.envs.starcraft.time_limits import TIME_LIMITS
from rllib_agg.envs.team.interface import TeamView
from rllib_agg.envs.team.registry import make_team_env
from tests.rllib.teams import COPIES, battles, begin, episode, play, random_policy

pytestmark = pytest.mark.skipif(find_spec("jaxmarl") is None, reason="JaxMARL is not installed: pip install 'rl-agg[marl]'")

STOP, EAST, FIRST_ATTACK = 4, 1, 5
NOT_IN_SMAX = {"2c_vs_64zg", "2s_vs_1sc", "bane_vs_bane", "corridor", "mmm", "mmm2"}
MAPS = [
    pytest.param(name, marks=() if name in ("3m", "2s3z") else pytest.mark.slow, id=name)
    for name in sorted(TIME_LIMITS.keys() - NOT_IN_SMAX)
]


def attack(view: TeamView) -> Any:
    """All attack the first enemy in range, so that it gets more than it can lose, and go to meet the others."""
    targets = view.masks[:, :, FIRST_ATTACK:]
    meet = np.where(view.masks[:, :, EAST], EAST, STOP)
    return np.where(targets.any(axis=2), FIRST_ATTACK + targets.argmax(axis=2), meet)


def units(env: Any) -> Any:
    """SMAX's own state, as NumPy."""
    import jax

    return jax.device_get(env.battles.units)


@pytest.mark.parametrize("task", MAPS)
@pytest.mark.parametrize("policy", [random_policy(), attack], ids=["random", "attack"])
def test_contributions_add_up_to_the_reward_without_the_bonus(task: str, policy: Callable[[TeamView], Any]) -> None:
    env = battles(task)
    earned = 0.0
    for _, _, step in play(env, policy, 40):
        np.testing.assert_allclose(step.agent_rewards.sum(axis=1), step.rewards - step.won, atol=2e-6)
        assert (step.agent_rewards >= 0).all()
        earned += float(step.agent_rewards.sum())
    if policy is attack:
        assert earned > 0.1


@pytest.mark.parametrize("task", ["3m", pytest.param("2s3z", marks=pytest.mark.slow)])
def test_contributions_equal_a_count_of_shots(task: str) -> None:
    """Independently of ranges and of who lives: a unit has shot at a tick if its cooldown went up there."""
    import jax

    env = battles(task)
    smax, n = env.world.env, env.spec.num_agents
    ticks_of = jax.jit(lambda key, units, actions: smax.step_env(key, units, actions, True))
    env.film()
    health = np.asarray(smax.unit_type_health)
    for first_seed in range(5):
        steps = episode(env, attack, first_seed=first_seed)
        for (key, before, actions), step in zip(env.filmed, steps, strict=False):
            ticks = jax.device_get(ticks_of(key, before, actions))
            start, expected = jax.device_get(before), np.zeros(n)
            cooldowns = np.concatenate([start.unit_weapon_cooldowns[None], ticks.unit_weapon_cooldowns])
            lives = np.concatenate([start.unit_health[None], ticks.unit_health])
            damage = np.asarray(smax.unit_type_attacks)[start.unit_types]
            for tick in range(smax.world_steps_per_env_step):
                aims = {
                    unit: n + int(actions[f"ally_{unit}"]) - FIRST_ATTACK
                    for unit in range(n)
                    if cooldowns[tick + 1, unit] > cooldowns[tick, unit]
                }
                for shooter, enemy in aims.items():
                    total = sum(damage[unit] for unit in aims if aims[unit] == enemy)
                    lost = min(lives[tick, enemy], total) / health[start.unit_types[enemy]] / smax.num_enemies
                    expected[shooter] += damage[shooter] / total * lost
            np.testing.assert_allclose(step.agent_rewards[0], expected, atol=1e-6)


def contributions(health: list[float], places: list[list[float]], actions: list[list[int]]) -> NDArray[np.float32]:
    """Of a step from a position on 3m in which all units are ready to shoot, in points of health ``[E, n]``."""
    import jax.numpy as jnp

    env = battles("3m")
    begin(env)
    old = env.battles.units
    all_copies = (COPIES, 1)
    units = old.replace(
        unit_health=jnp.tile(jnp.array(health, dtype=old.unit_health.dtype), all_copies),
        unit_alive=jnp.tile(jnp.array(health) > 0, all_copies),
        unit_positions=jnp.tile(jnp.array(places, dtype=old.unit_positions.dtype), (COPIES, 1, 1)),
    )
    result = env.compiled.step(env.battles._replace(units=units), np.array(actions, dtype=np.int32))[2]
    np.testing.assert_allclose(np.sum(result.contributions, axis=1), result.reward, rtol=1e-6)
    return np.asarray(result.contributions) * 45 * 3


CLOSE = [[15.0, 14.0], [15.0, 16.0], [15.0, 18.0], [17.0, 14.0], [17.0, 16.0], [17.0, 18.0]]


def test_those_who_strike_together_share_what_is_left() -> None:
    """A marine hits 9 of 45, and shoots once in a step."""
    actions = [[FIRST_ATTACK] * 3, [FIRST_ATTACK, FIRST_ATTACK, FIRST_ATTACK + 1], [STOP] * 3]
    earned = contributions([45, 45, 45, 10, 45, 45], CLOSE, actions)
    np.testing.assert_allclose(earned, [[10 / 3] * 3, [5, 5, 9], [0] * 3], rtol=1e-6)
    earned = contributions([45, 0, 45, 3, 45, 45], CLOSE, [[FIRST_ATTACK] * 3] * COPIES)
    np.testing.assert_allclose(earned, [[1.5, 0, 1.5]] * COPIES, rtol=1e-6)


def test_an_enemy_that_dies_at_the_wall_is_shared_equally() -> None:
    earned = contributions([45] * 6, [*CLOSE[:5], [33.0, 30.0]], [[STOP, STOP, FIRST_ATTACK]] * COPIES)
    np.testing.assert_allclose(earned, [[15, 15, 15 + 9]] * COPIES, rtol=1e-6)


@pytest.mark.parametrize("task", MAPS)
def test_masks_are_the_legal_actions(task: str) -> None:
    env = battles(task)
    smax, n = env.world.env, env.spec.num_agents
    for _, _, step in play(env, attack, 12):
        state = units(env)
        for copy, agent in np.ndindex(COPIES, n):
            alive, places = state.unit_alive[copy], state.unit_positions[copy]
            reach = float(smax.unit_type_attack_ranges[state.unit_types[copy, agent]])
            near = np.hypot(*(places[n:] - places[agent]).T) < reach
            expected = np.concatenate([[alive[agent]] * STOP, [True], near & alive[n:] & alive[agent]])
            assert (step.view.masks[copy, agent] == expected).all()


def test_the_world_is_that_of_smax() -> None:
    """Against HeuristicEnemySMAX's own enemies, and its step without the ticks between."""
    import jax
    from jaxmarl.environments.smax import HeuristicEnemySMAX, map_name_to_scenario

    env, smax = battles("3m"), make_world("3m").env
    theirs = HeuristicEnemySMAX(scenario=map_name_to_scenario("3m"), max_steps=60)

    @jax.jit
    def stepped(battle: Any, actions: Any) -> Any:
        _, enemy_key, world_key = jax.random.split(battle.key, 3)
        seen = smax.get_obs_unit_list(battle.units)
        observed = jax.numpy.stack([seen[name] for name in theirs.enemy_agents])
        enemies, _ = theirs.get_enemy_actions(enemy_key, battle.enemy_memory, observed)
        everyone = {**{name: actions[i] for i, name in enumerate(theirs.agents)}, **enemies}
        return smax.step_env(world_key, battle.units, everyone)

    view = begin(env)
    for _ in range(8):
        actions = attack(view)
        seen, _, rewards, dones, _ = stepped(jax.tree.map(lambda item: item[0], env.battles), actions[0])
        step = env.step(actions)
        view = step.view
        np.testing.assert_allclose(view.observations[0], np.stack([seen[name] for name in theirs.agents]), atol=1e-6)
        np.testing.assert_allclose(step.rewards[0], rewards["ally_0"], atol=1e-7)
        assert (step.terminated[0] | step.truncated[0]) == dones["__all__"]
        state = np.array(seen["world_state"])
        state[: 6 * 10].reshape(6, 10)[:, 1:3] /= 32  # positions, as shares of the map
        np.testing.assert_allclose(view.states[0], state, rtol=1e-6)


def test_time_limits_are_those_of_smac() -> None:
    """By name, from SMAC's and SMACv2's table of maps; SMAX itself stops all after 100."""
    smac = {"3m": 60, "2s3z": 120, "10m_vs_11m": 150, "6z_vs_24zl": 400, "3s_vs_5z": 250, "smacv2_5_units": 200}
    assert {task: make_world(task).env.max_steps for task in smac} == smac


def test_a_battle_that_is_cut_off_is_not_ended() -> None:
    """Allies that run towards the wall and stop before it are not found in time by enemies out of sight."""
    env = battles("3m")
    n = env.spec.num_agents
    view = begin(env)
    ends = {"terminated": 0, "truncated": 0}
    for seed in range(0, 18, 3):
        view = begin(env, seed)
        active = np.ones(COPIES, dtype=np.bool_)
        for number in range(60):
            away = np.where(view.masks[:, :, 3] & (number < 9), 3 if seed % 2 else 2, STOP)
            step = env.step(away)
            view, state = step.view, units(env)
            alive = state.unit_alive
            both_fight = alive[:, :n].any(axis=1) & alive[:, n:].any(axis=1)
            assert (step.terminated == ~both_fight)[active].all()
            assert (step.truncated == (both_fight & (number == 59)))[active].all()
            for name, count in (("terminated", step.terminated), ("truncated", step.truncated)):
                ends[name] += int((count & active).sum())
            active &= ~(step.terminated | step.truncated)
        assert not active.any()
    assert ends["truncated"]


def test_wins_are_reported_and_paid() -> None:
    env = battles("3m")
    num_wins = num_losses = 0
    for policy in (attack, lambda view: np.full((COPIES, 3), STOP)):
        for _, _, step in play(env, policy, 40):
            state = units(env)
            dead = ~state.unit_alive
            assert (step.won == (dead[:, 3:].all(axis=1) & ~dead[:, :3].all(axis=1))).all()
            assert (step.terminated | ~step.won).all()
            num_wins += int(step.won.sum())
            num_losses += int((step.terminated & ~step.won).sum())
    assert num_wins
    assert num_losses


def test_an_episode_depends_on_its_seed_alone() -> None:
    env = battles("3m")
    everywhere = np.ones(COPIES, dtype=np.bool_)

    def rewards(seeds: list[int], policy: Any) -> np.ndarray[Any, Any]:
        view, found = env.reset(everywhere, np.array([*seeds, 3])), []
        for _ in range(12):
            step = env.step(policy(view))
            view = step.view
            found.append(np.concatenate([step.rewards[:1], step.view.states[0]]))
        return np.array(found)

    first = rewards([7, 1], attack)
    np.testing.assert_array_equal(first, rewards([7, 2], attack))
    assert (first != rewards([8, 1], attack)).any()
    assert (first[0] != rewards([7 + 2**32, 1], attack)[0]).any()  # all 64 bits count


def test_a_reset_of_one_copy_leaves_the_other() -> None:
    env = battles("3m")

    def second(reset_at: int) -> list[Any]:
        view, states = begin(env), []
        for number in range(10):
            if number == reset_at:
                before = view
                view = env.reset(np.array([True, False, False]), np.array([99, 99, 99]))
                np.testing.assert_array_equal(view.observations[1], before.observations[1])
                assert (view.observations[0] != before.observations[0]).any()
            view = env.step(attack(view)).view
            states.append(view.states[1])
        return states

    np.testing.assert_array_equal(second(-1), second(4))


def test_units_have_types_and_the_sizes_are_smacs() -> None:
    spec = team_spec(make_world("2s3z").env)
    assert spec.agent_types == ("stalker",) * 2 + ("zealot",) * 3
    own = team_spec(make_world("6z_vs_24zl").env)
    assert own.agent_types == ("zealot",) * 6
    assert (own.num_agents, own.num_actions, own.max_episode_steps) == (6, 5 + 24, 400)


def test_team_credit_has_no_agent_rewards() -> None:
    env = make_team_env("smax/3m", COPIES)
    begin(env)
    assert env.step(np.full((COPIES, 3), STOP)).agent_rewards is None


def test_bad_maps_and_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown SMAX map '2s4z' \(did you mean '2s3z'\?\); choose from .*6z_vs_24zl"):
        make_team_env("smax/2s4z", 1)
    with pytest.raises(ValueError, match="no setting 'time_limit'; choose from attack_mode"):
        make_team_env("smax/3m", 1, settings={"time_limit": 3})
    with pytest.raises(ValueError, match="max_episode_steps must be an integer >= 1, got 0"):
        make_team_env("smax/3m", 1, settings={"max_episode_steps": 0})
    with pytest.raises(ValueError, match="smax/3m has no credit 'env'; choose from contribution, team"):
        make_team_env("smax/3m", 1, credit="env")
    with pytest.raises(ValueError, match="unknown attack_mode 'nearest'"):
        make_team_env("smax/3m", 1, settings={"attack_mode": "nearest"})
    with pytest.raises(ValueError, match=r"unknown attack_mode \['closest'\].*; choose from closest, random"):
        make_team_env("smax/3m", 1, settings={"attack_mode": ["closest"]})
    for name in ("enemy_shoots", "see_enemy_actions", "walls_cause_death"):
        with pytest.raises(ValueError, match=f"{name} must be True or False, got 'no'"):
            make_team_env("smax/3m", 1, settings={name: "no"})
