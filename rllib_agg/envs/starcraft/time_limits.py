"""Time limits of SMAC's maps, for the packages that have none of their own."""

from __future__ import annotations

from collections.abc import Mapping

TIME_LIMITS: Mapping[str, int] = {
    "10m_vs_11m": 150,
    "25m": 150,
    "27m_vs_30m": 180,
    "2c_vs_64zg": 400,
    "2s3z": 120,
    "2s_vs_1sc": 300,
    "3m": 60,
    "3s5z": 150,
    "3s5z_vs_3s6z": 170,
    "3s_vs_5z": 250,
    "5m_vs_6m": 70,
    "6h_vs_8z": 150,
    "6z_vs_24zl": 400,
    "8m": 120,
    "bane_vs_bane": 200,
    "corridor": 400,
    "mmm": 150,
    "mmm2": 180,
    "smacv2_10_units": 200,
    "smacv2_20_units": 200,
    "smacv2_5_units": 200,
}
"""Steps of an episode by map in lower case, as in SMAC and SMACv2; 6z_vs_24zl is SMAX's counterpart of corridor."""
