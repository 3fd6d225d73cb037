"""The gradients of actor and critics are the weighted sums of the agents' own, by RLlib's own losses."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from ray import cloudpickle
from ray.rllib.utils.metrics import TD_ERROR_KEY
from ray.rllib.utils.numpy import convert_to_numpy
from torch import Tensor

from rl_agg import COMBINERS, RULES, Signals, combine, weights
from rl_agg.per_agent_gradients import trained_parameters
from rllib_agg.aggregation._compat import write_column
from rllib_agg.aggregation.agents import AGENT, RETURN
from rllib_agg.aggregation.aggregator import joint_step_scale
from tests.rllib.groups import MODULE, configure, on_each
from tests.rllib.replay_configs import KINDS, NUM_AGENTS, STOCK, tiny_dqn, tiny_sac

cloudpickle.register_pickle_by_value(sys.modules[__name__])

RULE_NAMES = sorted(
    name for name, rule in RULES.items() if "gradients" in rule.payloads and rule.needs <= {"returns", "losses"}
)
UPDATE: dict[str, Any] = {"timesteps": {}}


def drawn(config: Any) -> tuple[list[Any], Any]:
    """Samples from the replay of an algorithm whose agents have played, and the spaces of its module."""
    algorithm = config.build_algo()
    for _ in range(2):
        algorithm.train()
    algorithm.local_replay_buffer.rng = np.random.default_rng(0)
    samples = algorithm.local_replay_buffer.sample(
        num_items=64, n_step=config.n_step, beta=0.4, gamma=0.99, sample_episodes=True
    )
    spaces = {MODULE: algorithm.env_runner.get_spaces()[MODULE]}
    algorithm.stop()
    for number, sample in enumerate(samples):  # as if agents had finished episodes; all agents have samples
        assert 0 <= sample.get_extra_model_outputs(AGENT, 0) < NUM_AGENTS, number
    return samples, spaces


def agent_rows(columns: dict[str, Any], fwd_out: dict[str, Tensor], agent: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    chosen = columns[AGENT] == agent
    own = {name: column[chosen] for name, column in columns.items() if torch.is_tensor(column)}
    size = len(chosen)  # what comes after it is of next observations, and what is shorter is of atoms
    return own, {name: value[:size][chosen] if len(value) >= size else value for name, value in fwd_out.items()}


def stock_batch(
    stock_class: Any, samples: list[Any], spaces: dict[str, Any], state: Any, log_alpha: float | None = None
) -> tuple[Any, dict[str, Any]]:
    """RLlib's own learner with some weights and entropy coefficient, and what its connectors make of samples."""
    stock = stock_class.copy(copy_frozen=False).build_learner(spaces=spaces)
    stock.module.set_state(state)
    if log_alpha is not None:
        stock.curr_log_alpha[MODULE].data.fill_(log_alpha)
    columns = stock._learner_connector(
        rl_module=stock.module, batch={}, episodes=copy.deepcopy(samples), shared_data={}, metrics=stock.metrics
    )
    return stock, columns[MODULE]


def separate(stock_class: Any, samples: list[Any], spaces: dict[str, Any], state: Any, log_alpha: float | None = None) -> Any:
    """One backward of RLlib's losses for each agent alone ``[A, P]``, critics' losses, counts, and alpha's gradient."""
    stock, columns = stock_batch(stock_class, samples, spaces, state, log_alpha)
    module = stock.module[MODULE]
    torch.manual_seed(1)
    fwd_out = module.forward_train(columns)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    rows, losses, counts = [], [], []
    for agent in range(NUM_AGENTS):
        own, own_out = agent_rows(columns, fwd_out, agent)
        loss = stock.compute_loss_for_module(module_id=MODULE, config=stock.config, batch=own, fwd_out=own_out)
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        rows.append(torch.cat([g.flatten() for g in gradients]))
        kept = getattr(stock, "_temp_losses", {})
        critics = [value for (_, name), value in kept.items() if name in ("qf_loss", "qf_twin_loss")]
        losses.append(float(sum(critics).detach() if critics else loss.detach()))
        counts.append(len(own["rewards"]))
    alpha = None
    if hasattr(stock, "curr_log_alpha"):
        stock.compute_loss_for_module(module_id=MODULE, config=stock.config, batch=columns, fwd_out=fwd_out)
        (alpha,) = torch.autograd.grad(stock._temp_losses[MODULE, "alpha_loss"], stock.curr_log_alpha[MODULE])
    return torch.stack(rows), losses, counts, alpha


def applied(learner: Any, samples: list[Any]) -> tuple[Tensor, Any]:
    torch.manual_seed(1)
    learner.update(episodes=copy.deepcopy(samples), **UPDATE)
    return all_gradients(learner)


def networks(learner: Any) -> list[Tensor]:
    """Which of the module's numbers are the critics', and which the actor's, if there is one."""
    named = learner.module[MODULE].unwrapped().named_parameters()
    trained = [(name, own.numel()) for name, own in named if own.requires_grad]
    of_actor = torch.cat([torch.full((size,), name.startswith("pi")) for name, size in trained])
    return [~of_actor, of_actor] if bool(of_actor.any()) else [~of_actor]


def check(actual: Tensor, expected: Tensor) -> None:
    """Compare gradients by the relative size of their difference."""
    assert expected.norm() > 1e-4
    assert (actual.double() - expected.double()).norm() / expected.double().norm() < 1e-6


def with_returns(samples: list[Any], returns: list[float]) -> list[Any]:
    samples = copy.deepcopy(samples)
    for sample in samples:
        agent = sample.get_extra_model_outputs(AGENT, 0)
        write_column(sample, RETURN, np.array([returns[agent]], np.float32))
    return samples


SETUPS = {
    "DQN": (tiny_dqn, {}),
    "DQN, n steps": (tiny_dqn, {"n_step": 3, "kind": KINDS[0]}),
    "DQN, distributions": (tiny_dqn, {"num_atoms": 7, "v_min": 0.0, "v_max": 60.0}),
    "SAC": (tiny_sac, {}),
    "SAC, discrete": (tiny_sac, {"env": "CartPole-v1", "target_entropy": 0.3}),
}


@pytest.fixture(
    scope="module", params=["DQN", "SAC", *(pytest.param(name, marks=pytest.mark.slow) for name in SETUPS if "," in name)]
)
def setup(request: pytest.FixtureRequest, ray_session: None) -> Any:
    make, settings = SETUPS[request.param]
    samples, spaces = drawn(make(**settings))
    samples = with_returns(samples, [3.0, -1.0, 10.0, 4.0])
    stock = make(make=STOCK[type(make())], **settings)
    return lambda **training: make(**settings, **training), stock, samples, spaces


def expected(setup: Any, learner: Any) -> Any:
    _, stock, samples, spaces = setup
    return separate(stock, samples, spaces, learner.module.get_state())


@pytest.mark.parametrize("rule", RULE_NAMES)
def test_gradient_is_the_weighted_sum_of_separate_backwards(rule: str, setup: Any) -> None:
    make, _, samples, spaces = setup
    learner = make(aggregation=rule).build_learner(spaces=spaces)
    rows, losses, counts, alpha = expected(setup, learner)
    w = weights(rule, Signals(returns=[3.0, -1.0, 10.0, 4.0], losses=losses, num_samples=counts))
    shares = torch.tensor(counts) * NUM_AGENTS / sum(counts)
    gradient, own_alpha = applied(learner, samples)
    for columns in networks(learner):
        check(gradient[columns], (w * shares).double() @ rows[:, columns].double())
    if alpha is not None:
        check(own_alpha, alpha)


def merged(learner: Any, rows: Tensor) -> Any:
    """What the module's aggregator makes of the agents' gradients ``[A, P]`` of a minibatch."""
    own, everyone = learner.aggregator(MODULE), torch.ones(NUM_AGENTS)
    own.stats.add(everyone, everyone, present=everyone > 0)
    pairs = own.merge(rows)
    return None if pairs is None else torch.cat([gradient.flatten() for _, gradient in pairs])


def test_every_network_is_exchanged_each_second_step(setup: Any) -> None:
    make, _, _, spaces = setup
    learner = make(aggregation="mean", interval=2).build_learner(spaces=spaces)
    size = sum(int(columns.sum()) for columns in networks(learner))
    for seed in range(2):
        steps = torch.randn(2, NUM_AGENTS, size, generator=torch.Generator().manual_seed(seed))
        assert merged(learner, steps[0].clone()) is None
        found = merged(learner, steps[1].clone())
        for columns in networks(learner):
            check(found[columns], steps.mean((0, 1))[columns])


@pytest.mark.parametrize("rule", ["agreement", "snr_weighted"])
def test_a_rule_remembers_signals_of_every_network(rule: str, setup: Any) -> None:
    make, _, samples, spaces = setup
    learner = make(aggregation=rule).build_learner(spaces=spaces)
    for _ in range(3):
        applied(learner, samples)
    groups = learner.aggregator(MODULE)._groups
    assert len(groups) == len(networks(learner))
    for exchange, _ in groups:
        found = exchange.weigh(Signals(present=[True] * NUM_AGENTS))
        assert float(found.max() - found.min()) > 1e-6  # unknown signals count alike


@pytest.mark.parametrize("settings", [{}, {"compression": "float16"}])
def test_each_networks_gradient_is_a_message(settings: dict[str, Any], setup: Any) -> None:
    make, _, samples, spaces = setup
    learner = make(aggregation="mean", **settings).build_learner(spaces=spaces)
    applied(learner, samples)
    ledger = learner.aggregator(MODULE).exchange.ledger
    assert ledger.messages_per_agent.tolist() == [len(networks(learner))] * NUM_AGENTS


def test_a_gate_knows_what_all_optimisers_make_of_gradients(setup: Any) -> None:
    make, _, samples, spaces = setup
    learner = make(aggregation="mean", communication="lag").build_learner(spaces=spaces)
    own, parameters = learner.aggregator(MODULE), trained_parameters(learner.module[MODULE])
    assert joint_step_scale(own._optimizers, parameters) is None  # nobody has stepped yet
    applied(learner, samples)
    scale = joint_step_scale(own._optimizers, parameters)
    assert scale is not None
    expected_ = {
        item: 1 / ((state["exp_avg_sq"] / (1 - 0.999)).sqrt() + optimizer.param_groups[0]["eps"])
        for optimizer in own._optimizers
        for item, state in optimizer.state.items()
    }
    torch.testing.assert_close(scale, torch.cat([expected_[item].flatten() for item in parameters]), rtol=1e-4, atol=0)


def test_an_agent_is_masked_by_any_networks_gradient(setup: Any) -> None:
    make, _, _, spaces = setup
    learner = make(aggregation="median").build_learner(spaces=spaces)
    for number, columns in enumerate(networks(learner)):
        rows = torch.ones(NUM_AGENTS, len(columns))
        rows[number, columns] = torch.nan
        assert bool((merged(learner, rows) == 1).all())
        assert learner.aggregator(MODULE).stats.last.masked.tolist() == [agent == number for agent in range(NUM_AGENTS)]


@pytest.mark.parametrize(
    "rule", ["median", *(pytest.param(name, marks=pytest.mark.slow) for name in ("trimmed_mean", "krum"))]
)
def test_combiners_merge_the_agents_own_gradients(rule: str, setup: Any) -> None:
    assert rule in COMBINERS
    make, _, samples, spaces = setup
    settings = {"num_byzantine": 0} if rule == "krum" else {}
    learner = make(aggregation=rule, aggregation_kwargs=settings).build_learner(spaces=spaces)
    rows, _, _, alpha = expected(setup, learner)
    gradient, own_alpha = applied(learner, samples)
    for columns in networks(learner):
        check(gradient[columns], combine(rule, rows[:, columns], **settings))
    if alpha is not None:
        check(own_alpha, alpha)


def fix_noise(*_: Any) -> None:
    """Let SAC draw the same noise for a sample, whichever learner has it."""
    normal: Any = torch.distributions.Normal
    normal.sample = normal.rsample = lambda self, *shape: self.loc + 0.5 * self.scale


@pytest.fixture(scope="module", params=[("DQN", 1), ("DQN", 2), ("SAC", 2)], ids=lambda case: f"{case[0]}, learners{case[1]}")
def group(request: pytest.FixtureRequest, ray_session: None) -> Iterator[Any]:
    name, num_learners = request.param
    make, _ = SETUPS[name]
    samples, spaces = drawn(make())
    config = make().learners(num_learners=num_learners)
    config.validate()
    group = config.build_learner_group(spaces=spaces)
    stock = make(make=STOCK[type(config)])
    with pytest.MonkeyPatch.context() as patched:
        for method in ("sample", "rsample"):  # put back at the end
            patched.setattr(torch.distributions.Normal, method, getattr(torch.distributions.Normal, method))
        fix_noise()
        on_each(group, fix_noise)
        yield group, stock, with_returns(samples, [3.0, -1.0, 10.0, 4.0]), spaces
    group.shutdown()


@pytest.mark.remote
@pytest.mark.parametrize("rule", ["mean", "l_weighted", "r_weighted", "median"])
def test_several_learners_step_with_the_gradient_over_all_samples(rule: str, group: Any) -> None:
    learners, stock, samples, spaces = group
    configure(learners, aggregation=rule)
    state = learners.get_weights()
    log_alpha, *others = on_each(learners, log_alpha_of)
    assert all(other == log_alpha for other in others)
    rows, losses, counts, alpha = separate(stock, samples, spaces, state, log_alpha)
    signals = Signals(returns=[3.0, -1.0, 10.0, 4.0], losses=losses, num_samples=counts)
    shares = torch.tensor(counts) * NUM_AGENTS / sum(counts)
    results = learners.update(episodes=copy.deepcopy(samples), **UPDATE)
    for gradients, own_alpha in on_each(learners, all_gradients):
        for columns in on_each(learners, networks)[0]:
            own = rows[:, columns].double()
            check(gradients[columns], combine(rule, own) if rule in COMBINERS else (weights(rule, signals) * shares) @ own)
        if alpha is not None:
            check(own_alpha, alpha)
    stock_learner, columns = stock_batch(stock, samples, spaces, state, log_alpha)
    fwd_out = stock_learner.module[MODULE].forward_train(columns)
    stock_learner.compute_loss_for_module(module_id=MODULE, config=stock_learner.config, batch=columns, fwd_out=fwd_out)
    expected = td_errors(stock_learner.metrics.peek((MODULE, TD_ERROR_KEY)))
    errors = np.concatenate([td_errors(result[MODULE][TD_ERROR_KEY].peek()) for result in results])
    np.testing.assert_allclose(errors, expected, rtol=1e-4, atol=1e-6)  # in the order of a replay's samples


def td_errors(logged: Any) -> Any:
    return np.concatenate([np.asarray(convert_to_numpy(own)) for own in logged])


def log_alpha_of(learner: Any) -> float | None:
    return learner.curr_log_alpha[MODULE].item() if hasattr(learner, "curr_log_alpha") else None


def all_gradients(learner: Any) -> tuple[Tensor, Any]:
    """Of the module, and of the entropy coefficient."""
    module = learner.module[MODULE].unwrapped()
    gradients = torch.cat([own.grad.flatten() for own in module.parameters() if own.requires_grad])
    return gradients, learner.curr_log_alpha[MODULE].grad if hasattr(learner, "curr_log_alpha") else None
