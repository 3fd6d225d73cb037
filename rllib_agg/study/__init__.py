"""Runs a study's cells with RLlib."""

import logging

logging.getLogger("ray.rllib").setLevel(logging.ERROR)  # news of its versions, for each system
