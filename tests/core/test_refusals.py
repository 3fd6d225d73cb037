"""Every wrong choice raises one error that names the value and the choices."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from rl_agg import Exchange, Signals, Weighting
from rl_agg.attacks import make_attack
from rl_agg.codecs import Float16, Identity
from rl_agg.combiners import Krum, Median
from rl_agg.evolution.settings import EvolutionSettings
from rl_agg.gates import LazyGate, TdErrorTrigger
from rl_agg.local_schemes import ActorSum, FedAvg
from rl_agg.payloads import Gradients, Parameters
from rl_agg.schedules import EveryStep, Interval
from rl_agg.scheme import Scheme, make_scheme

AGENTS = 6


def lag(**settings: Any) -> dict[str, Any]:
    return {"communication": "lag", "communication_kwargs": settings}


def sent(name: str, **settings: Any) -> dict[str, Any]:
    return {"communication": name, "communication_kwargs": settings, "payload": "scores", "aggregation": "ranks"}


REFUSED: list[tuple[dict[str, Any], str]] = [
    # aggregation
    ({"aggregation": "meen"}, "unknown aggregation 'meen' (did you mean 'mean'?); choose from a_pps, actor_mean, actor_sum,"),
    ({"aggregation": "Krum"}, "unknown aggregation 'Krum' (did you mean 'krum'?)"),
    ({"aggregation": "fedavgg"}, "unknown aggregation 'fedavgg' (did you mean 'fedavg'?)"),
    ({"aggregation": None}, "a rule is a name or a callable, got None"),
    ({"aggregation": 3}, "a rule is a name or a callable, got 3"),
    ({"aggregation": 5}, "krum, l_weighted"),
    ({"aggregation": ["mean"]}, "a rule is a name or a callable, got ['mean']"),
    ({"aggregation": Median}, "aggregation=Median is a class; give its name 'median'"),
    ({"aggregation": FedAvg}, "aggregation=FedAvg is a class; give its name 'fedavg'"),
    ({"aggregation": Weighting}, "aggregation=Weighting is a class; give an instance, or a name: a_pps, actor_mean"),
    ({"aggregation_kwargs": {"normalize": 1}}, "normalize must be True or False, got 1"),
    ({"aggregation_kwargs": {"h": 2}}, "mean has no setting 'h'; choose from normalize"),
    ({"aggregation_kwargs": "h=2"}, "aggregation_kwargs must be a dict, got 'h=2'"),
    ({"aggregation": "median", "aggregation_kwargs": {"normalize": True}}, "median has no setting 'normalize'; it has none"),
    ({"aggregation": Median(), "aggregation_kwargs": {"x": 1}}, "Median() has its settings already, got {'x': 1} as well"),
    (
        {"aggregation": "krum", "aggregation_kwargs": {"num_byzantine": 2}},
        "krum with num_byzantine=2 needs more than 6 agents",
    ),
    ({"aggregation": Krum(0, 7)}, "krum cannot select num_selected=7 of 6 agents"),
    # local schemes
    (
        {"aggregation": "fedavg", "aggregation_kwargs": {"h": 1}},
        "fedavg has no setting 'h'; choose from interval, local_epochs",
    ),
    ({"aggregation": "fedavg", "aggregation_kwargs": {"mu": 1}}, "fedavg has no setting 'mu'; choose from interval"),
    ({"aggregation": "fedavg", "aggregation_kwargs": {"interval": 0}}, "interval must be an integer >= 1, got 0"),
    ({"aggregation": "fedavg", "aggregation_kwargs": {"interval": True}}, "interval must be an integer >= 1, got True"),
    ({"aggregation": "fedavg", "aggregation_kwargs": {"moments": "kepe"}}, "unknown moments 'kepe' (did you mean 'keep'?)"),
    ({"aggregation": "fedavg", "aggregation_kwargs": {"local_epochs": 3}}, "local_epochs must be one integer >= 0 for each"),
    ({"aggregation": "fedavg", "aggregation_kwargs": {"local_epochs": [1, -1]}}, "for each agent, got [1, -1]"),
    ({"aggregation": "fedavg", "aggregation_kwargs": {"local_epochs": [1, 1.5]}}, "for each agent, got [1, 1.5]"),
    ({"aggregation": "fedavg", "aggregation_kwargs": {"local_epochs": "12"}}, "for each agent, got '12'"),
    ({"aggregation": "fedavg", "aggregation_kwargs": {"local_epochs": [1]}}, "one integer for each of 6 agents, got [1]"),
    ({"aggregation": "fedprox", "aggregation_kwargs": {"mu": -1}}, "mu must be a finite number >= 0, got -1"),
    ({"aggregation": "pp_pps", "aggregation_kwargs": {"layers": "head"}}, "layers must be names of modules, or None for all"),
    (
        {"aggregation": "pp_pps", "aggregation_kwargs": {"layers": ()}},
        "layers must be names of modules, or None for all, got ()",
    ),
    ({"aggregation": "actor_sum", "aggregation_kwargs": {"same_init": 1}}, "same_init must be True or False, got 1"),
    ({"aggregation": ActorSum(), "aggregation_kwargs": {"x": 1}}, "ActorSum(same_init=True) has its settings already"),
    ({"aggregation": "fedavg", "interval": True}, "interval must be an integer >= 1, got True"),
    ({"aggregation": "pp_pps", "payload": Parameters()}, "exchanges Parameters(layers=('head',)"),
    ({"aggregation": "fedprox", "payload": Parameters(mu=0.0)}, "leave one out"),
    ({"aggregation": "fedavg", "aggregation_kwargs": {"moments": "merge"}, "payload": Parameters()}, "leave one out"),
    (
        {"aggregation": FedAvg(interval=3), "interval": 2},
        "has an interval of its own, but interval=2 was given; leave one out",
    ),
    (
        {"aggregation": "fedavg", "aggregation_kwargs": {"interval": 3}, "interval": 2},
        "FedAvg(interval=3, local_epochs=None, moments='keep') has an interval of its own, but interval=2 was given; leave on",
    ),
    ({"aggregation": "fedavg", "payload": "gradients_with_own"}, "but payload='gradients_with_own' was given; leave one out"),
    (
        {"aggregation": "fedavg", "payload": Parameters(("head",))},
        "but payload=Parameters(layers=('head',), local_epochs=None",
    ),
    ({"aggregation": "actor_sum", "payload": "parameters"}, "exchanges GradientsWithOwn(same_init=True), but payload='param"),
    ({"aggregation": "actor_sum", "interval": 2}, "payload 'gradients_with_own' needs the merged gradient at every step"),
    # gates
    (
        {"communication": "lagg"},
        "unknown communication 'lagg' (did you mean 'lag'?); choose from deviation, espc, every, gain",
    ),
    ({"communication": None}, "unknown communication None; choose from deviation"),
    ({"communication": LazyGate}, "communication=LazyGate is a class; give its name 'lag'"),
    ({"communication_kwargs": {"xi": 1}}, "every has no setting 'xi', which is one of communication 'lag'"),
    (
        {"communication_kwargs": {"expected_messages": 5}},
        "with communication 'every' all 6 agents send; leave out expected_mess",
    ),
    ({"communication_kwargs": [("xi", 1)]}, "communication_kwargs must be a dict, got [('xi', 1)]"),
    (lag(num_agents=2), "lag has no setting 'num_agents'; choose from window, xi"),
    (lag(xi=-1), "xi must be a finite number >= 0, got -1"),
    (lag(xi=float("nan")), "xi must be a finite number >= 0, got nan"),
    (lag(xi=True), "xi must be a finite number >= 0, got True"),
    (lag(xi="1"), "xi must be a finite number >= 0, got '1'"),
    (lag(window=0), "window must be an integer >= 1, got 0"),
    (lag(window=2.0), "window must be an integer >= 1, got 2.0"),
    ({"communication": "random"}, "random needs 'expected_messages', got {}"),
    (sent("random", expected_messages=0), "expected_messages must be an integer between 1 and 6, got 0"),
    (sent("random", expected_messages=2, seed=-1), "seed must be an integer >= 0, got -1"),
    (sent("espc", expected_messages=11), "expected_messages must be an integer between 1 and 6, got 11"),
    (sent("espc", expected_messages=3, k=5), "espc has no setting 'k'; choose from expected_messages, window"),
    (sent("espc", expected_messages=3, window=0), "window must be an integer >= 1, got 0"),
    (sent("deviation", expected_messages=3, gain=-1.0), "gain must be a finite number >= 0, got -1.0"),
    (sent("deviation", expected_messages=3, start=-1.0), "start must be a finite number >= 0, got -1.0"),
    (sent("deviation", expected_messages=2.5), "expected_messages must be an integer between 1 and 6, got 2.5"),
    ({"communication": "gain", "communication_kwargs": {"rho": 1.5}}, "rho must be a finite number > 0 and <= 1, got 1.5"),
    ({"communication": "gain", "communication_kwargs": {"num_updates": 0}}, "num_updates must be an integer >= 1, got 0"),
    ({"communication": "gain"}, "gate 'gain' reads gains, which this algorithm does not provide"),
    (
        {"communication": "espc", "communication_kwargs": {"expected_messages": 2}},
        "gate 'espc' decides about scores, but payload",
    ),
    # codecs
    ({"compression": "top_k", "compression_kwargs": {"fraction": 0}}, "fraction must be a finite number > 0 and <= 1, got 0"),
    (
        {"compression": "top_k", "compression_kwargs": {"fraction": 1.5}},
        "fraction must be a finite number > 0 and <= 1, got 1.5",
    ),
    (
        {"compression": "top_k", "compression_kwargs": {"fraction": "1"}},
        "fraction must be a finite number > 0 and <= 1, got '1'",
    ),
    (
        {"compression": "random_k", "compression_kwargs": {"fraction": -0.1}},
        "fraction must be a finite number > 0 and <= 1, got -",
    ),
    ({"compression": "random_k", "compression_kwargs": {"number": 0}}, "number must be an integer >= 1, got 0"),
    (
        {"compression": "random_k", "compression_kwargs": {"seed": 1}},
        "random_k has no setting 'seed'; choose from fraction, number",
    ),
    (
        {"compression": "top_k", "compression_kwargs": {"fraction": 0.5, "number": 3}},
        "give fraction or number, got fraction=0.5 and number=3",
    ),
    (
        {"compression": "quantize", "compression_kwargs": {"levels": 0}},
        "levels must be an integer between 1 and 32767, got 0",
    ),
    (
        {"compression": "quantize", "compression_kwargs": {"levels": 2.5}},
        "levels must be an integer between 1 and 32767, got 2.5",
    ),
    (
        {"compression": "quantize", "compression_kwargs": {"coding": "huffman"}},
        "unknown coding 'huffman'; choose from elias, fixed",
    ),
    ({"compression": "sign", "compression_kwargs": {"scale": 1}}, "sign has no setting 'scale'; it has none"),
    *(
        (
            {"compression": codec, "payload": payload, "aggregation": rule},
            f"encodes gradients and parameters, but payload '{payload}' exchanges {payload}; choose identity",
        )
        for codec in ("bfloat16", "top_k", "random_k", "sign", "quantize", "ternary", ("top_k", "float16"))
        for payload, rule in (("transitions", "mean"), ("scores", "ranks"))
    ),
    # chains
    ({"compression": ("top_k", "zip")}, "unknown compression 'zip'; choose from bfloat16, float16, identity, quantize"),
    ({"compression": ("top_k",)}, "a chain needs two codecs or more, got (TopK(fraction=None, number=None),)"),
    ({"compression": []}, "a chain needs two codecs or more, got ()"),
    (
        {"compression": ("sign", "top_k")},
        "Sign() leaves no numbers for another codec to encode; choose random_k or top_k before the last one, got (Sign(), ",
    ),
    (
        {"compression": ("top_k", "float16"), "compression_kwargs": {"levels": 3}},
        "none of ('top_k', 'float16') has a setting 'levels'; choose from fraction, number",
    ),
    ({"compression": (Float16(), Float16()), "compression_kwargs": {"x": 3}}, "has a setting 'x'; there is none"),
    (
        {"compression": ("top_k", "float16"), "compression_kwargs": {"fraction": 2}},
        "fraction must be a finite number > 0 and <= 1",
    ),
    # error feedback
    (
        {"compression": "top_k", "compression_kwargs": {"error_feedback": "ef12"}},
        "unknown error_feedback 'ef12' (did you mean 'ef21'?); choose from False, True, classic, ef21",
    ),
    *(
        (
            {"compression_kwargs": {"error_feedback": kind}},
            f"error_feedback={kind!r} has nothing to feed back: codec 'identity' is lossless",
        )
        for kind in ("classic", "ef21")
    ),
    (
        {"compression": "floa16"},
        "unknown compression 'floa16' (did you mean 'float16'?); choose from bfloat16, float16, identity, ",
    ),
    ({"compression": Float16}, "compression=Float16 is a class; give its name 'float16'"),
    ({"compression": "float16", "compression_kwargs": {"bits": 8}}, "float16 has no setting 'bits'; it has none"),
    (
        {"compression": Float16(), "compression_kwargs": {"bits": 8}},
        "Float16() has its settings already, got {'bits': 8} as well",
    ),
    ({"compression_kwargs": 3}, "compression_kwargs must be a dict, got 3"),
    (
        {"compression_kwargs": {"error_feedback": True}},
        "error_feedback=True has nothing to feed back: codec 'identity' is lossless",
    ),
    ({"compression": Identity(), "compression_kwargs": {"error_feedback": True}}, "codec 'identity' is lossless"),
    (
        {"compression": "float16", "compression_kwargs": {"error_feedback": 1}},
        "unknown error_feedback 1; choose from False, True, classic, ef21",
    ),
    # payloads
    (
        {"payload": "parameter"},
        "unknown payload 'parameter' (did you mean 'parameters'?); choose from gradients, gradients_with",
    ),
    ({"payload": Parameters}, "payload=Parameters is a class; give its name 'parameters'"),
    ({"payload": None}, "unknown payload None; choose from"),
    (
        {"payload": "scores"},
        "rule 'mean' merges gradients and parameters and transitions, but payload 'scores' exchanges scores",
    ),
    ({"payload": "gradients_with_own", "aggregation": "krum"}, "payload 'gradients_with_own' adds a sum or mean"),
    # schedules
    ({"interval": 0}, "interval must be an integer >= 1, got 0"),
    ({"interval": 1.5}, "interval must be an integer >= 1, got 1.5"),
    ({"interval": True}, "interval must be an integer >= 1, got True"),
    ({"interval": None}, "interval must be an integer >= 1, got None"),
    (
        {"interval": "evry_step"},
        "unknown interval 'evry_step' (did you mean 'every_step'?); choose from a number >= 1, every_step",
    ),
    ({"interval": "interval"}, "unknown interval 'interval'; choose from a number >= 1, every_step, on_arrival"),
    ({"interval": EveryStep}, "interval=EveryStep is a class; give its name 'every_step'"),
    ({"interval": "on_arrival"}, "schedule 'on_arrival' does not fit: this algorithm exchanges with all agents at once"),
    ({"interval": "on_arrival", "communication": "random", "communication_kwargs": {"expected_messages": 1}}, "gate 'random'"),
    (
        {"interval": Interval(2), "payload": "transitions"},
        "schedule 'interval' times gradients and parameters, but payload 'trans",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[str(arguments) for arguments, _ in REFUSED])
def test_a_wrong_argument_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Exchange(make_scheme(**{"aggregation": "mean", **arguments}), AGENTS).check()


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"rule": "fedavg"}, "aggregation='fedavg' is a rule and a payload; build it with rl_agg.scheme.make_scheme"),
        ({"rule": FedAvg()}, "is a rule and a payload; build it with rl_agg.scheme.make_scheme"),
        ({"rule": Median}, "aggregation=Median is a class; give its name 'median'"),
        ({"gate_kwargs": None}, "gate_kwargs must be a mapping, got None"),
        ({"rule_kwargs": 3}, "rule_kwargs must be a mapping, got 3"),
        ({"gate": "lag", "gate_kwargs": {"zeta": 1}}, "lag has no setting 'zeta'; choose from window, xi"),
        ({"codec": Float16(), "codec_kwargs": {"x": 1}}, "Float16() has its settings already"),
    ],
)
def test_a_scheme_refuses_as_well(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Scheme(**choices)


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ("sign_flip", "attack must be an Attack or a dict of its settings, got 'sign_flip'"),
        ({"kind": "nan"}, "attack needs 'agents', got {'kind': 'nan'}"),
        ({"kind": "nan", "agents": [0], "size": 1}, "attack has no setting 'size'; choose from agents, kind, scale, seed"),
    ],
)
def test_attacks_that_are_none(attack: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make_attack(attack)


def test_an_attacker_out_of_range() -> None:
    with pytest.raises(ValueError, match="agent 6 cannot attack: agents are numbered 0 to 5"):
        Exchange(Scheme(), AGENTS, attack={"kind": "nan", "agents": [6]}).check()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, "beta must be a finite number > 0 and <= 1, got 0.0"),
        ({"rho": -1.0}, "rho must be a finite number >= 0"),
    ],
)
def test_td_error_triggers_refuse(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        TdErrorTrigger(2, **settings)


def test_what_is_made_already_is_taken_and_not_changed_by_a_run() -> None:
    made = Median()
    scheme = make_scheme(made, compression=Float16(), payload=Gradients(), interval=Interval(3))
    assert scheme.rule == made
    assert scheme.rule is not made
    assert (scheme.codec, scheme.payload, scheme.schedule) == (Float16(), Gradients(), Interval(3))


def test_a_callable_is_a_rule() -> None:
    rule = make_scheme(lambda signals: [1.0] * signals.num_agents, {"normalize": True}).rule
    assert rule(Signals(returns=[1.0, 2.0])).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Weighting("mean", normalize="no"), "normalize must be True or False, got 'no'"),  # type: ignore[arg-type]
        (lambda: Weighting("mean", {"normalize": True}), "normalize is an argument of its own, got settings="),
        (
            lambda: EvolutionSettings(communication="random", expected_messages=5, communication_kwargs={"seed": 1}),
            "draws by the run's own seed; leave seed out",
        ),
    ],
)
def test_what_would_do_nothing_is_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
