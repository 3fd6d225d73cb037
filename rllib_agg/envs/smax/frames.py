"""Drawing a battle of SMAX with its own visualiser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxmarl.viz.visualizer import SMAXVisualizer
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from numpy.typing import NDArray

TICKS = 4
"""Ticks from one picture to the next; SMAX has 8 to a step."""


def draw(env: Any, moves: Sequence[Any]) -> Iterator[NDArray[np.uint8]]:
    """Draw every fourth tick of an episode ``[height, width, 3]``, from one :class:`Moves` for each step."""
    if not moves:
        return
    visualizer = SMAXVisualizer(env, list(moves))
    try:
        visualizer.expand_state_seq()  # type: ignore[no-untyped-call]
        canvas = FigureCanvasAgg(visualizer.fig)
        visualizer.fig.set_size_inches(5, 5)  # SMAX's map is square
        for number, of_jax in list(enumerate(visualizer.state_seq))[::TICKS]:
            step, tick = divmod(number, env.world_steps_per_env_step)
            shown = jax.device_get(of_jax)  # the visualiser reads single numbers, which is slow in JAX
            with jax.disable_jit():  # each of its conditions would be compiled again
                env.init_render(visualizer.ax, shown, tick, step)
            visualizer.ax.images[-1].remove()  # it also draws its own last picture, into a corner
            canvas.draw()  # type: ignore[no-untyped-call]
            yield np.asarray(canvas.buffer_rgba())[:, :, :3].copy()  # type: ignore[no-untyped-call]
    finally:
        pyplot.close(visualizer.fig)
