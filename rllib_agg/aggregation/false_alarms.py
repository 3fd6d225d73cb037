"""Messages of RLlib's that are wrong about what a user of this package does, and are not printed."""

import logging

from ray.rllib.core.rl_module.rl_module import deprecation_warning  # type: ignore[attr-defined]

OWN_DOING = "RLModule(config=[RLModuleConfig object])"
"""RLlib calls this deprecated, and does it by itself in the constructor of every module."""


def is_no_false_alarm(record: logging.LogRecord) -> bool:
    """Whether a message of RLlib's about what is deprecated concerns the user's own code."""
    return OWN_DOING not in record.getMessage()


def leave_out_false_alarms() -> None:
    """Filter them in this process; the same filter is added once."""
    logging.getLogger(deprecation_warning.__module__).addFilter(is_no_false_alarm)
