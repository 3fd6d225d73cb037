"""The systems that exist, as choices on four axes: who speaks, how much each counts, what is merged, and when."""

from __future__ import annotations

from dataclasses import dataclass

HOLEN = "Holen et al. (2023)"
IMPALA = "ray.rllib.algorithms.impala:IMPALA"


@dataclass(frozen=True)
class KnownSystem:
    """A system of the papers, and how to ask for it in a study.

    :param path: Import path.
    :param settings: Constructor arguments that make it this system.
    """

    name: str
    gate: str
    rule: str
    payload: str
    schedule: str
    paper: str
    path: str
    settings: dict[str, object]


def _sb3(name: str, axes: tuple[str, str, str, str], paper: str, aggregation: str, **settings: object) -> KnownSystem:
    return KnownSystem(name, *axes, paper, "sb3_agg:AggPPO", {"aggregation": aggregation, **settings})


def _weighting(name: str, rule: str, paper: str = HOLEN, **settings: object) -> KnownSystem:
    return _sb3(name, ("everyone", rule, "gradients", "every step"), paper, rule, **settings)


def _combiner(name: str, combiner: str, paper: str, **settings: object) -> KnownSystem:
    return _sb3(name, ("everyone", combiner, "gradients", "every step"), paper, combiner, **settings)


def _episodic(
    name: str, gate: str, rule: str, payload: str, path: str, paper: str = "Gunn (2023)", **settings: object
) -> KnownSystem:
    return KnownSystem(name, gate, rule, payload, "every episode", paper, path, settings)


def _team(name: str, paper: str, **settings: object) -> KnownSystem:
    return KnownSystem(name, "none", "none", "none", "never", paper, "rllib_agg:QMIX", settings)


def _sharing(name: str, rule: str, payload: str, scheme: str) -> KnownSystem:
    settings: dict[str, object] = {"parameter_sharing": scheme}
    return KnownSystem(name, "everyone", rule, payload, "every interval", "Zhang et al. (2024)", "rllib_agg:QMIX", settings)


SYSTEMS = (
    _weighting("Baseline-Sum", "sum"),
    _weighting("Baseline-Avg", "mean"),
    _weighting("R-Weighted", "r_weighted"),
    _weighting("R-Weighted, softmax", "r_weighted", aggregation_kwargs={"normalize": True}),
    _weighting("L-Weighted", "l_weighted"),
    _weighting("L-Weighted, softmax", "l_weighted", aggregation_kwargs={"normalize": True}),
    _weighting("Sample-weighted", "samples", "McMahan et al. (2017)"),
    _combiner("Median", "median", "Yin et al. (2018)"),
    _combiner("Trimmed mean", "trimmed_mean", "Yin et al. (2018)"),
    _combiner("Krum", "krum", "Blanchard et al. (2017)"),
    _combiner("Multi-Krum", "krum", "Blanchard et al. (2017)", aggregation_kwargs={"num_selected": 4}),
    _combiner("Geometric median", "geometric_median", "Pillutla et al. (2022)"),
    _combiner("MixTailor", "mixtailor", "Ramezani-Kebrya et al. (2023)"),
    _sb3("LAG", ("innovation", "mean", "gradients", "every step"), "Chen et al. (2018)", "mean", communication="lag"),
    _sb3("FedAvg", ("everyone", "samples", "parameters", "every interval"), "McMahan et al. (2017)", "fedavg"),
    _sb3("FedProx", ("everyone", "samples", "parameters", "every interval"), "Li et al. (2020)", "fedprox"),
    _sb3("ActorSum", ("everyone", "sum, and one's own", "gradients", "every step"), HOLEN, "actor_sum"),
    _sb3("ActorAvg", ("everyone", "mean, and one's own", "gradients", "every step"), HOLEN, "actor_mean"),
    _episodic(
        "ES",
        "everyone",
        "sum",
        "scalars with shared seeds",
        "rllib_agg:ES",
        "Salimans et al. (2017)",
        faithful="cartpole",
        population=50,
    ),
    _episodic(
        "ESPC",
        "binomial",
        "sum",
        "scalars with shared seeds",
        "rllib_agg:ES",
        faithful="cartpole",
        communication="espc",
        population=50,
        expected_messages=25,
    ),
    _episodic(
        "ES, deviation gate",
        "deviation",
        "centred sum",
        "scalars with shared seeds",
        "rllib_agg:ES",
        "ours",
        communication="deviation",
        population=50,
        expected_messages=25,
    ),
    _episodic("DQL", "everyone", "mean", "samples", "rllib_agg:DQL"),
    _episodic("EBCDQL", "TD error", "mean", "samples", "rllib_agg:EBCDQL", "Ornia and Mazo (2021)"),
    _episodic("DAVIA", "gain", "mean", "gradients", "rllib_agg:DAVIA", "Gatsis (2021)"),
    KnownSystem("A3C", "everyone", "sum", "gradients", "on arrival", "Mnih et al. (2016)", "rllib_agg:A3C", {}),
    KnownSystem("IMPALA", "everyone", "by samples", "samples", "on arrival", "Espeholt et al. (2018)", IMPALA, {}),
    _team("IQL", "Tampuu et al. (2017)", mixer=None),
    _team("VDN", "Sunehag et al. (2018)", mixer="vdn"),
    _team("QMIX, a network each", "Rashid et al. (2018)"),
    _team("QMIX, one network", "Rashid et al. (2018)", parameter_sharing="full"),
    _sharing("A-PPS", "mean", "parameters", "a_pps"),
    _sharing("RS-PPS", "by reward", "parameters", "rs_pps"),
    _sharing("PP-PPS", "by reward", "some layers", "pp_pps"),
)
RELATIVES = ("sb3_agg:AggA2C", "sb3_agg:AggMaskablePPO", "sb3_agg:AggRecurrentPPO")
"""They take the same settings as ``sb3_agg:AggPPO``; the recurrent one has no agents with parameters of their own."""
