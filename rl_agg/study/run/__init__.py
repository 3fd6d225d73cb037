"""Runs a study's cells with Ray, which is imported nowhere else in :mod:`rl_agg`."""

import os

# Ray reads these when it is imported. Values that the user set are kept
for _name, _value in {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a warning about GPUs that no cell uses
    "RAY_AIR_NEW_OUTPUT": "0",  # its tables cannot be switched off, the old reporter can
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths in a study mean the user's folder
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # records are written by the workers
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C stops at once; finished cells are kept anyway
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}.items():
    os.environ.setdefault(_name, _value)
