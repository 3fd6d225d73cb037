"""The Ray that cells run on: one started for the study, the process's own, or a cluster."""

import logging
import shutil
import socket
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from rl_agg.study.errors import StudyError

SECONDS_TO_ANSWER = 10.0
ATTEMPTS = 2
OBJECT_STORE_BYTES = 100 * 2**20  # cells send numbers, not arrays; Ray would take 30 % of the memory

_started_here = False
"""Whether the Ray of this process was started by :func:`ray_session`."""


@contextmanager
def ray_session(num_cpus: int, address: str | None = None) -> Iterator[bool]:
    """Start a quiet Ray for this process; one that it already has is used instead.

    :param num_cpus: How many CPUs Ray may assume.
    :param address: Join the cluster there instead.
    :return: Whether it was started here, on this machine alone.
    :raises StudyError: if there is no cluster at the address.
    """
    global _started_here
    if ray.is_initialized():
        yield _started_here
        return
    if address is not None:
        try:
            _join(address)
            yield False
        finally:
            ray.shutdown()
        return
    # Not the user's TMPDIR: Ray puts sockets there, whose paths must be shorter than 108 characters
    scratch = tempfile.mkdtemp(prefix="rl-agg-", dir="/tmp")
    try:
        _start(num_cpus, scratch)
        _started_here = True
        yield True
    finally:
        _started_here = False
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


def _start(num_cpus: int, scratch: str) -> None:
    """Start Ray on this machine; once more if it does not answer.

    :raises StudyError: if it does not answer again.
    """
    for attempt in range(ATTEMPTS):
        try:
            with warnings.catch_warnings():
                # JAX's, where a check has loaded it: what Ray forks turns into another program at once
                warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning)
                ray.init(
                    address="local",  # never another user's cluster
                    num_cpus=num_cpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    object_store_memory=OBJECT_STORE_BYTES,
                    _temp_dir=scratch,
                )
        except Exception as error:  # Ray has no class for it
            ray.shutdown()
            if attempt + 1 == ATTEMPTS:
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                raise StudyError(
                    f"Ray did not start on this machine ({reason}); close what keeps it busy, stop what an earlier run left "
                    "by 'ray stop', look for room in /tmp and /dev/shm, and run the same command again"
                ) from error
        else:
            return


def _join(address: str) -> None:
    """Connect to the cluster whose head is at ``host:port``; ``"auto"`` is the one that this machine is part of."""
    host, _, port = address.rpartition(":")
    try:
        if port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=SECONDS_TO_ANSWER).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise StudyError(f"no Ray cluster at {address!r}: {error}") from error
