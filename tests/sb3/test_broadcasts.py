"""Agents act by, and differentiate at, what they decode of the learner's parameters. Axes: A agents, P parameters."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rl_agg.codecs import Draws, make_codec
from sb3_agg import AggA2C, AggPPO
from tests.sb3.flattened import flat
from tests.sb3.local_runs import copies
from tests.sb3.worlds import cartpoles

AGENTS, STEPS, EPOCHS = 4, 16, 2
TOP_K = {"broadcast_compression": "top_k", "broadcast_compression_kwargs": {"fraction": 0.1}}
QUANTIZE = {"broadcast_compression": "quantize", "broadcast_compression_kwargs": {"levels": 3}}
CHAIN = {"broadcast_compression": ("random_k", "float16"), "broadcast_compression_kwargs": {"fraction": 0.2}}


def build(cls: Any = AggPPO, **settings: Any) -> Any:
    ppo = {} if cls is AggA2C else {"n_epochs": EPOCHS, "batch_size": AGENTS * STEPS // 2}
    settings = {"policy_kwargs": {"net_arch": [8]}, "n_steps": STEPS, "seed": 5, "device": "cpu", **ppo, **settings}
    return cls("MlpPolicy", cartpoles(AGENTS), **settings)


def learn(model: Any, updates: int) -> Any:
    return model.learn(updates * AGENTS * STEPS, reset_num_timesteps=False)


def bits_of(settings: dict[str, Any], difference: Tensor, num_sent: int) -> tuple[Tensor, int]:
    codec = make_codec(settings["broadcast_compression"], settings["broadcast_compression_kwargs"])
    encoded = codec.at(Draws(5, num_sent, unbiased=False, purpose="broadcast"))(difference[None])
    return encoded.decoded[0], math.ceil(int(encoded.bits[0]) / 8)


@pytest.mark.parametrize("aggregation", ["r_weighted", "median"])
@pytest.mark.parametrize("settings", [TOP_K, QUANTIZE, CHAIN], ids=["top_k", "quantize", "chain"])
def test_the_policy_holds_what_agents_decoded(settings: dict[str, Any], aggregation: str) -> None:
    """Plain gradient descent by the gradients that were seen, and the recursion of the broadcast, written out."""
    sgd = {"policy_kwargs": {"net_arch": [8], "optimizer_class": torch.optim.SGD}, "learning_rate": 0.01, "max_grad_norm": 1e9}
    model = build(aggregation=aggregation, closed_form=False, **settings, **sgd)
    learner = held = flat(model.policy)
    seen: list[Tensor] = []
    model.policy.optimizer.register_step_pre_hook(
        lambda *_: seen.append(torch.cat([parameter.grad.flatten() for parameter in model.policy.parameters()]))
    )
    num_bytes = num_sent = 0
    for _ in range(3):
        learn(model, 1)
        assert len(seen) == 2 * EPOCHS
        for gradient in seen:
            learner = learner - 0.01 * gradient
            decoded, size = bits_of(settings, learner - held, num_sent)
            held, num_sent, num_bytes = held + decoded, num_sent + 1, num_bytes + size
        seen.clear()
        torch.testing.assert_close(flat(model.policy), held, rtol=0, atol=1e-5)
        assert (learner - held).norm() > 1e-3
        assert model.ledger.bytes_down == model.logger.name_to_value["agg/bytes_down"] == AGENTS * num_bytes


@pytest.mark.parametrize("settings", [{"aggregation": "l_weighted"}, {"aggregation": "median"}, {"payload": "parameters"}])
def test_identity_is_none_to_the_bit(settings: dict[str, Any]) -> None:
    one, other = learn(build(**settings), 2), learn(build(broadcast_compression="identity", **settings), 2)
    assert torch.equal(flat(one.policy), flat(other.policy))
    assert one.ledger.state_dict() == other.ledger.state_dict()


@pytest.mark.parametrize("aggregation", ["l_weighted", "median"])
@pytest.mark.parametrize("cls", [AggPPO, AggA2C])
def test_the_closed_form_has_the_same_numbers(cls: Any, aggregation: str) -> None:
    settings = {
        "broadcast_compression": "random_k",
        "broadcast_compression_kwargs": {"fraction": 0.3},
        "aggregation": aggregation,
    }
    graph, form = (learn(build(cls, closed_form=closed, **settings), 3) for closed in (False, True))
    assert form.why_no_closed_form is None
    torch.testing.assert_close(flat(form.policy), flat(graph.policy), rtol=1e-3, atol=1e-4)
    assert form.ledger.state_dict() == graph.ledger.state_dict()


@pytest.mark.parametrize("settings", [TOP_K, CHAIN], ids=["top_k", "chain"])
def test_local_models_start_from_what_agents_decoded(settings: dict[str, Any]) -> None:
    model = build(payload="parameters", interval=2, **settings)
    held, lost, down = flat(model.policy), torch.zeros(()), 0
    for merge in range(3):
        learn(model, 1)
        assert not torch.equal(copies(model)[0], copies(model)[1])
        exchanged: list[Tensor] = []
        whole = model.exchange.merge

        def noted(vectors: Tensor, *args: Any, _seen: list[Tensor] = exchanged, _merge: Any = whole, **kwargs: Any) -> Any:
            _seen.append(vectors.clone())
            return _merge(vectors, *args, **kwargs)

        model.exchange.merge = noted
        learn(model, 1)
        model.exchange.merge = whole
        wanted = exchanged[0].mean(0) + lost
        decoded, size = bits_of(settings, wanted - held, merge)
        held, down = held + decoded, down + size
        lost = wanted - held
        torch.testing.assert_close(flat(model.policy), held, rtol=0, atol=1e-5)
        assert torch.equal(copies(model), flat(model.policy).expand(AGENTS, -1))
        assert model.ledger.bytes_down == AGENTS * down


@pytest.mark.parametrize(
    ("settings", "key", "part"),
    [
        pytest.param(
            *({"compression": "top_k", "compression_kwargs": {"fraction": 1.0}}, "fraction", 0.1),
            id="top_k",
            marks=pytest.mark.slow,
        ),
        pytest.param({"communication": "lag", "communication_kwargs": {"xi": 1e-3}}, "xi", 0.5, id="lag"),
        pytest.param(
            {"communication": "random", "communication_kwargs": {"expected_messages": 4}, "payload": "parameters"},
            *("expected_messages", 0.5),
            id="random",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_bytes_come_to_the_budget(settings: dict[str, Any], key: str, part: float) -> None:
    """Of updates that would send all of four gradients, or of parameters, in each step."""
    size = len(flat(build().policy))
    whole = 4 * size * AGENTS * (1 if "payload" in settings else 2 * EPOCHS)
    model = build(budget_bytes_per_update=part * whole, **settings)
    updates = 60
    learn(model, updates)
    before, setting = model.ledger.bytes, model.exchange.followed
    learn(model, updates)
    assert (model.ledger.bytes - before) / updates == pytest.approx(part * whole, rel=0.1)
    assert model.logger.name_to_value[f"agg/{key}"] == model.exchange.followed[key]
    assert setting.keys() == {key}


def test_a_loaded_model_keeps_its_budget(tmp_path: Any) -> None:
    settings: dict[str, Any] = {"compression": "top_k", "budget_bytes_per_update": 5_000}
    model = learn(build(**settings, **TOP_K), 5)
    model.save(tmp_path / "model")
    loaded = AggPPO.load(tmp_path / "model", env=cartpoles(AGENTS), device="cpu")
    assert loaded.exchange.followed == model.exchange.followed != build(**settings).exchange.followed
    assert loaded.budget_bytes_per_update == 5_000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"aggregation": "actor_sum", **TOP_K}, "payload 'gradients_with_own' is answered with gradients"),
        ({"broadcast_compression": "top_g"}, r"unknown compression 'top_g' \(did you mean 'top_k'"),
        ({"budget_bytes_per_update": 100}, "has nothing to be kept by: codec 'identity' and gate 'every'"),
        ({"budget_bytes_per_update": 0, "communication": "lag"}, "budget_bytes_per_update must be a finite number > 0, got 0"),
    ],
)
def test_refused_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**settings)
