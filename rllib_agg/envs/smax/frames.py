"""Drawing a battle of SMAX: both teams, their health, who shoots at whom, and who won. Axes: U units, allies first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from numpy.typing import NDArray

TICKS = 4
"""Ticks from one picture to the next; SMAX has 8 to a step."""
ENDING = 8
"""Pictures of the end, so that it can be read."""
ALLY, ENEMY, HEALTH, LOST_HEALTH = "#0072b2", "#d55e00", "#009e73", "#f0b8b8"


def draw(env: Any, moves: Sequence[Any], last: Any, won: bool) -> Iterator[NDArray[np.uint8]]:
    """Draw every fourth tick of an episode ``[height, width, 3]``, and its end.

    :param moves: One :class:`~rllib_agg.envs.smax.world.Moves` for each step.
    :param last: The units when it was over.
    :param won: By the allies.
    """
    figure = Figure(figsize=(5, 5.4), layout="constrained")  # SMAX's map is square
    canvas, axes = FigureCanvasAgg(figure), figure.subplots()

    def picture(units: Any, targets: dict[int, int], title: str) -> NDArray[np.uint8]:
        axes.clear()
        _draw_units(axes, env, units, targets)
        axes.set_title(title, loc="left")
        canvas.draw()  # type: ignore[no-untyped-call]
        return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()  # type: ignore[no-untyped-call]

    if not moves:
        return
    for number, of_jax in list(enumerate(env.expand_state_seq(list(moves))))[::TICKS]:
        _, units, actions = jax.device_get(of_jax)  # single numbers are read, which is slow in JAX
        step = number // env.world_steps_per_env_step
        yield picture(units, _targets(env, units, actions), f"step {step}, {_standing(env, units)}")
    last = jax.device_get(last)
    result = "the allies won" if won else "the allies did not win"
    end = picture(last, {}, f"{result}, {_standing(env, last)}")
    yield from [end] * ENDING


def _standing(env: Any, units: Any) -> str:
    alive = np.asarray(units.unit_alive, dtype=bool)
    return f"{alive[: env.num_allies].sum()} allies against {alive[env.num_allies :].sum()}"


def _targets(env: Any, units: Any, actions: dict[str, Any]) -> dict[int, int]:
    """Who shoots at whom: attacks within range, of units that live at units that live."""
    found = {}
    for shooter, agent in enumerate(env.agents):
        attacked = int(actions[agent]) - env.num_movement_actions
        if attacked < 0 or not units.unit_alive[shooter]:
            continue
        target = env.num_allies + attacked if shooter < env.num_allies else env.num_allies - 1 - attacked  # enemies count down
        away = np.linalg.norm(units.unit_positions[shooter] - units.unit_positions[target])
        if units.unit_alive[target] and away < env.unit_type_attack_ranges[units.unit_types[shooter]]:
            found[shooter] = target
    return found


def _draw_units(axes: Any, env: Any, units: Any, targets: dict[int, int]) -> None:
    axes.set(xlim=(0, env.map_width), ylim=(0, env.map_height), xticks=[], yticks=[], aspect="equal")
    for shooter, target in targets.items():
        places = np.stack([units.unit_positions[shooter], units.unit_positions[target]])
        axes.plot(*places.T, color=ALLY if shooter < env.num_allies else ENEMY, linewidth=1, linestyle="dotted")
    for unit in np.flatnonzero(units.unit_alive):
        place, kind = units.unit_positions[unit], units.unit_types[unit]
        radius = float(env.unit_type_radiuses[kind])
        axes.add_patch(Circle(place, radius, color=ALLY if unit < env.num_allies else ENEMY))
        axes.text(*place, env.unit_type_shorthands[kind], fontsize="xx-small", color="white", ha="center", va="center")
        health = float(units.unit_health[unit] / env.unit_type_health[kind])
        left, bottom, width, height = place[0] - 1, place[1] + radius + 0.25, 2.0, 0.3
        for start, part, color in ((left, health, HEALTH), (left + width * health, 1 - health, LOST_HEALTH)):
            axes.add_patch(Rectangle((start, bottom), width * part, height, color=color, linewidth=0))
