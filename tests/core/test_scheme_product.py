"""Every choice on each axis with every other: it trains, or the error names two parts that do not go together."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from rl_agg import CODECS, COMBINERS, GATES, PAYLOADS, RULES, SCHEDULES, Exchange, Scheme, Signals
from rl_agg.arrivals import ArrivalExchange
from rl_agg.gates import ScoreGate, TdErrorTrigger
from rl_agg.gates.scores import Drawn
from tests.core.gradients import normal

AGENTS, PARAMETERS, EXCHANGES = 5, 3, 3
PROVIDED = frozenset({"gains", "explained_variance"})
COMPARING = ("e_weighted", "agreement", "snr_weighted", "equal_norms", "guarded")  # agents that exchange together
GATE_SETTINGS = {
    "random": {"expected_messages": 3},
    "espc": {"expected_messages": 3},
    "deviation": {"expected_messages": 3},
    "gain": {"num_updates": 1},
}

# Which pairs go together ----------------------------------------------------------------------------------------------------

MERGED = {"gradients", "parameters", "parameter_differences"}
VECTORS = MERGED | {"gradients_with_own"}
EPISODES = {"scores", "transitions"}

BITS = {
    "identity": 3 * 32,
    "float16": 3 * 16,
    "bfloat16": 3 * 16,
    "top_k": 32 + 2,  # one of three numbers, and its place
    "random_k": 32,
    "sign": 3 + 32,
    "quantize": 3 * 8 + 32,
    "ternary": 8 + 32,
    "top_k+float16": 16 + 2,
}
"""Of a message of three numbers."""
LOSSY = [codec for codec in BITS if codec != "identity"]

WITH_PAYLOAD: dict[str, dict[str, set[str]]] = {
    "gate": {
        "every": VECTORS | EPISODES,
        "random": VECTORS | {"scores"},
        "lag": VECTORS,
        "gain": {"gradients", "gradients_with_own"},
        "espc": {"scores"},
        "deviation": {"scores"},
        "td_error": {"transitions"},
    },
    "codec": {"identity": VECTORS | EPISODES, **dict.fromkeys(LOSSY, VECTORS)},
    "rule": {
        "sum": VECTORS,
        "mean": VECTORS | {"transitions"},
        "samples": MERGED,
        **{rule: MERGED | {"scores"} for rule in ("r_weighted", "l_weighted", "reward_shares")},
        **dict.fromkeys(COMPARING, MERGED),
        **{rule: {"scores"} for rule in ("raw", "centered", "ranks")},
        **dict.fromkeys(("median", "trimmed_mean", "krum", "geometric_median", "mixtailor"), MERGED),
    },
    "schedule": {"every_step": VECTORS | EPISODES, "interval": MERGED, "on_arrival": {"gradients"}},
}
NOT_TOGETHER = {("random", "on_arrival"), *((rule, "on_arrival") for rule in COMPARING)}


class Choice(NamedTuple):
    gate: str
    codec: str
    rule: str
    payload: str
    schedule: str

    def clashes(self) -> set[tuple[str, str]]:
        """Pairs of the choices that do not go together."""
        with_payload = {
            (choice, self.payload)
            for axis, choice in self._asdict().items()
            if axis != "payload" and self.payload not in WITH_PAYLOAD[axis][choice]
        }
        return with_payload | {pair for pair in NOT_TOGETHER if set(pair) <= set(self)}

    def scheme(self) -> Scheme:
        schedule: Any = 2 if self.schedule == "interval" else self.schedule
        codec = tuple(self.codec.split("+")) if "+" in self.codec else self.codec
        return Scheme(self.gate, codec, self.rule, self.payload, schedule, GATE_SETTINGS.get(self.gate, {}))


AXES = {
    axis: [name for registry in registries for name in registry if name not in registry.added]
    for axis, registries in {
        "gate": (GATES,),
        "codec": (CODECS,),
        "rule": (RULES, COMBINERS),
        "payload": (PAYLOADS,),
        "schedule": (SCHEDULES,),
    }.items()
}
AXES["codec"].append("top_k+float16")


def product() -> Iterator[Choice]:
    for choice in itertools.product(*AXES.values()):
        yield Choice(*choice)


# A toy problem: minimise the mean of |theta - target_a|^2 / 2 ---------------------------------------------------------------

TARGETS = normal(AGENTS, PARAMETERS)
SAMPLES = torch.tensor([4.0, 1.0, 2.0, 3.0, 5.0])


def signals(gradients: torch.Tensor) -> Signals:
    losses = gradients.square().sum(1) / 2
    return Signals(returns=10 - losses, losses=losses, num_samples=SAMPLES, explained_variance=1 / (1 + losses))


class Count:
    """What the ledger should hold, from who sent what."""

    def __init__(self, choice: Choice) -> None:
        reports = choice.rule in ("samples", "r_weighted", "l_weighted", "reward_shares", "e_weighted", "guarded")
        self.message = -(-BITS[choice.codec] // 8) + 4 * reports
        self.messages = self.bytes = self.bytes_down = 0

    def exchange(self, num_senders: int, answers: int) -> None:
        self.messages += num_senders
        self.bytes += num_senders * self.message
        self.bytes_down += answers * 4 * PARAMETERS


def train_together(choice: Choice, exchange: Exchange) -> tuple[torch.Tensor, Count]:
    """Gradients and parameters of all agents at once."""
    count, server, rounds = Count(choice), torch.zeros(PARAMETERS), 2 if choice.schedule == "interval" else 1
    local = server.expand(AGENTS, -1).clone()
    for _ in range(rounds * EXCHANGES):
        gradients = local - TARGETS
        exchange.begin_update(signals(gradients))
        if choice.payload == "gradients":
            merged = exchange.step(gradients, signals(gradients), gains=-gradients.norm(dim=1))
            if merged is not None:
                server = server - 0.1 * merged.vector
                local = server.expand(AGENTS, -1).clone()
        elif choice.payload == "gradients_with_own":
            merged = exchange.merge(gradients, signals(gradients), gains=-gradients.norm(dim=1))
            local = local - 0.1 * (gradients + merged.vector)
        else:
            local = local - 0.1 * gradients
            merged = exchange.merge(local.clone(), signals(gradients), reference=server) if exchange.due() else None
            if merged is not None:
                server = merged.vector
                local = server.expand(AGENTS, -1).clone()
        if merged is not None:
            count.exchange(int(merged.sends.sum()), AGENTS)
    return local, count


def train_on_arrival(choice: Choice, exchange: ArrivalExchange) -> tuple[torch.Tensor, Count]:
    count, theta = Count(choice), torch.zeros(PARAMETERS)
    for arrival in range(EXCHANGES * AGENTS):
        agent = arrival % AGENTS
        gradients = theta - TARGETS
        before = exchange.ledger.messages
        step = exchange.arrive(agent, gradients[agent], signals(gradients), gains=-gradients.norm(dim=1))
        exchange.charge_answers(np.arange(AGENTS) == agent, PARAMETERS)
        count.exchange(exchange.ledger.messages - before, 1)
        if step is not None:
            theta = theta - 0.1 * step
    return theta, count


def train_on_scores(choice: Choice, exchange: Exchange) -> tuple[torch.Tensor, Count]:
    """Perturbations of the parameters; a score is the only number in a message."""
    count, theta, gate = Count(choice), torch.zeros(PARAMETERS), exchange.gate
    count.message = 4
    assert isinstance(gate, ScoreGate)
    for step in range(EXCHANGES):
        noise = normal(AGENTS, PARAMETERS, seed=step)
        scores = 10 - (theta + noise - TARGETS.mean(0)).square().sum(1).double().numpy()
        drawn = Drawn(scores, noise.norm(dim=1).double().numpy(), np.full(AGENTS, 0.3))
        sends, gate.memory = gate.decide_scores(drawn, gate.memory, gate.broadcast())
        values = gate.receive(np.where(sends, scores, np.nan), drawn.norms, np.ones(AGENTS, dtype=np.bool_))
        known = ~np.isnan(values)
        weights = exchange.weigh(Signals(returns=values, losses=-values, present=known))
        theta = theta + 0.1 * (weights.float() * torch.tensor(sends)) @ noise / AGENTS
        exchange.charge(sends, np.ones(AGENTS), up={"scalars": 1}, down={"parameters": PARAMETERS})
        count.exchange(int(sends.sum()), AGENTS)
    return theta, count


def train_on_transitions(choice: Choice, exchange: Exchange) -> tuple[torch.Tensor, Count]:
    """Two transitions of each agent to a value that it should learn; agents that send none send no message."""
    count, values, usual = Count(choice), np.zeros(AGENTS), [0.0] * AGENTS
    for _ in range(EXCHANGES):
        rewards = normal(AGENTS, 2).double().numpy()
        num_sent = np.zeros(AGENTS, dtype=np.int64)
        for agent in range(AGENTS):
            sends = np.ones(2, dtype=np.bool_)
            if isinstance(exchange.gate, TdErrorTrigger):
                sends, usual[agent] = exchange.gate.decide_transitions(rewards[agent] - values[agent], usual[agent])
            values[agent] += 0.1 * (rewards[agent][sends] - values[agent]).sum()
            num_sent[agent] = sends.sum()
        exchange.charge(num_sent > 0, np.ones(AGENTS), up={"transitions": num_sent}, down={"parameters": PARAMETERS})
        count.messages += int((num_sent > 0).sum())
        count.bytes += 9 * int(num_sent.sum())
        count.bytes_down += AGENTS * 4 * PARAMETERS
    return torch.tensor(values), count


def train(choice: Choice) -> tuple[torch.Tensor, Count, Exchange]:
    kind = ArrivalExchange if choice.schedule == "on_arrival" else Exchange
    exchange = kind(choice.scheme(), AGENTS, provides=PROVIDED)
    exchange.check()
    if isinstance(exchange, ArrivalExchange):
        return *train_on_arrival(choice, exchange), exchange
    trainers = {"scores": train_on_scores, "transitions": train_on_transitions}
    return *trainers.get(choice.payload, train_together)(choice, exchange), exchange


# ----------------------------------------------------------------------------------------------------------------------------


def test_the_table_above_knows_all_members() -> None:
    assert {axis: set(names) for axis, names in AXES.items()} == {
        **{axis: set(choices) for axis, choices in WITH_PAYLOAD.items()},
        "payload": VECTORS | EPISODES,
    }


@pytest.mark.parametrize("codec", AXES["codec"])
@pytest.mark.parametrize("payload", sorted(AXES["payload"]))
def test_a_combination_trains_or_names_two_parts_that_clash(payload: str, codec: str) -> None:
    trained = 0
    for choice in product():
        if (choice.payload, choice.codec) != (payload, codec):
            continue
        clashes = choice.clashes()
        if clashes:
            with pytest.raises(ValueError, match=r"'.*'") as raised:
                choice.scheme()
            named = set(re.findall(r"'([\w+]+)'", str(raised.value)))
            assert any({first, second} <= named for first, second in clashes), (choice, str(raised.value))
            continue
        parameters, count, exchange = train(choice)
        trained += 1
        assert parameters.isfinite().all(), choice
        ledger = exchange.ledger
        assert (ledger.messages, ledger.bytes, ledger.bytes_down) == (count.messages, count.bytes, count.bytes_down), choice
        assert count.messages > 0, choice
        if choice.gate in ("every", "gain"):  # any step would gain enough here
            assert count.messages == EXCHANGES * AGENTS, choice
    assert (
        trained
        == {
            "gradients": 4 * 16 * 2 + 3 * 11,
            "gradients_with_own": 4 * 2,
            "parameters": 3 * 16 * 2,
            "parameter_differences": 3 * 16 * 2,
            "scores": 4 * 6 if codec == "identity" else 0,
            "transitions": 2 if codec == "identity" else 0,
        }[payload]
    )


def test_gains_have_to_be_provided() -> None:
    with pytest.raises(ValueError, match=r"gate 'gain' reads gains, which this algorithm does not provide"):
        Exchange(Scheme("gain"), AGENTS).check()


@pytest.mark.parametrize(("kind", "schedule"), [(Exchange, "on_arrival"), (ArrivalExchange, 1), (ArrivalExchange, 2)])
def test_an_exchange_has_its_own_schedules(kind: type[Exchange], schedule: Any) -> None:
    with pytest.raises(ValueError, match=r"schedule '\w+' does not fit: this algorithm exchanges with"):
        kind(Scheme(schedule=schedule), AGENTS).check()
