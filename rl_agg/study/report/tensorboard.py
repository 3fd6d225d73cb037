"""A study's records as TensorBoard events, a run for each cell."""

import math
import shutil
from pathlib import Path

from tensorboardX import SummaryWriter

from rl_agg.study.analysis.results import Results
from rl_agg.study.analysis.store import Store

FOLDER = "tensorboard"


def write_events(results: Results, directory: Path) -> Path:
    """Write each finished cell's numbers, over env steps, into a folder of its name; a cell's earlier events are deleted.

    :param directory: The study's folder.
    :return: The folder for ``tensorboard --logdir``.
    :raises StudyError: if a link leads out of the study's folder.
    """
    Store(directory).refuse_links()
    for record in results.records:
        folder = directory / FOLDER / record.cell.id
        shutil.rmtree(folder, ignore_errors=True)
        updates = record.updates.drop(columns=["update", "env_steps", "agent_returns"])
        with SummaryWriter(str(folder)) as writer:
            for row, steps, seconds in zip(
                updates.to_dict("records"), record.updates["env_steps"], record.updates["wall_time"], strict=True
            ):
                for name, value in row.items():
                    if not math.isnan(value):
                        writer.add_scalar(name, value, int(steps), walltime=seconds)
    return directory / FOLDER
