"""Gradients of QTRAN and Weighted QMIX against plain loops over episodes, steps and agents, in double precision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from rllib_agg.qmix.episodes import TeamEpisodes
from rllib_agg.qmix.learner import QMIXLearner
from tests.rllib.test_qmix_targets import GAMMA, SPEC, episodes, learner

H, N, A = 8, SPEC.num_agents, SPEC.num_actions
OPT, NOPT, ALPHA = 0.7, 0.3, 0.25

LOSSES = {
    "qmix": {},
    "vdn": {"mixer": "vdn"},
    "iql": {"mixer": None},
    "qtran": {"mixer": "qtran", "lambda_opt": OPT, "lambda_nopt": NOPT},
    "optimistic": {"weighting": "optimistic", "weighting_alpha": ALPHA},
    "central": {"weighting": "central", "weighting_alpha": ALPHA},
}


class Plain:
    """The module's formulas, one agent and one step at a time, with leaves of its own.

    :param own: Whose parameters to copy.
    :param settings: As of the learner.
    """

    def __init__(self, own: QMIXLearner, **settings: Any) -> None:
        self.leaves = {name: value.detach().clone().requires_grad_() for name, value in own.team.named_parameters()}
        self.shared, self.ids = own.team.networks.shared, own.team.networks.agent_ids
        self.settings = settings
        self.counts = dict.fromkeys(("full", "reduced", "below"), 0)

    def network(self, prefix: str, agent: int, made: TeamEpisodes, episode: int) -> tuple[list[Tensor], list[Tensor]]:
        """Hidden states and values of all steps of an episode."""
        row = 0 if self.shared else agent
        w = {name.removeprefix(f"{prefix}."): leaf[row] for name, leaf in self.leaves.items() if name.startswith(f"{prefix}.")}
        hidden, states, values = torch.zeros(H, dtype=torch.float64), [], []
        for step in range(int(made.lengths[episode]) + 1):
            last = torch.zeros(A, dtype=torch.float64)
            if step:
                last[int(made.actions[episode, step - 1, agent])] = 1
            seen = [torch.from_numpy(made.observations[episode, step, agent]).double(), last]
            if self.ids:
                seen.append(torch.eye(N, dtype=torch.float64)[agent])
            feature = (torch.cat(seen) @ w["feature.weight"] + w["feature.bias"][0]).clamp(min=0)
            new = (feature @ w["rnn.weight_ih"] + w["rnn.bias_ih"][0]).split(H)
            old = (hidden @ w["rnn.weight_hh"] + w["rnn.bias_hh"][0]).split(H)
            reset, keep = torch.sigmoid(new[0] + old[0]), torch.sigmoid(new[1] + old[1])
            hidden = (1 - keep) * torch.tanh(new[2] + reset * old[2]) + keep * hidden
            states.append(hidden)
            values.append(hidden @ w["head.weight"] + w["head.bias"][0])
        return states, values

    def feed(self, prefix: str, inputs: Tensor) -> Tensor:
        """Linear layers with rectifiers between them."""
        places = [name for name in self.leaves if name.startswith(f"{prefix}.") and name.endswith(".weight")]
        for place in places:
            inputs = self.leaves[place] @ inputs + self.leaves[place.replace("weight", "bias")]
            if place != places[-1]:
                inputs = inputs.clamp(min=0)
        return inputs

    def monotonic(self, prefix: str, values: list[Tensor], state: Tensor) -> Tensor:
        """QMIX's mixer, with 32 units and hypernetworks of 6."""

        def linear(name: str, given: Tensor) -> Tensor:
            return self.leaves[f"{prefix}.{name}.weight"] @ given + self.leaves[f"{prefix}.{name}.bias"]

        first, second, bias, value = linear("state_layer", state).split([6, 6, 32, 32])
        weights = linear("first", first.clamp(min=0)).abs().reshape(N, 32)
        hidden = bias
        for agent in range(N):
            hidden = hidden + values[agent] * weights[agent]
        hidden = torch.where(hidden > 0, hidden, hidden.exp() - 1)
        return linear("second", second.clamp(min=0)).abs() @ hidden + linear("value", value.clamp(min=0))[0]

    def joint(self, prefix: str, hidden: list[Tensor], actions: list[int], state: Tensor) -> Tensor:
        """QTRAN's value of a joint action."""
        one_hot = torch.eye(A, dtype=torch.float64)
        encoded = [self.feed(f"{prefix}.encoding", torch.cat([h, one_hot[u]])) for h, u in zip(hidden, actions, strict=True)]
        return self.feed(f"{prefix}.action_value", torch.cat([state, torch.stack(encoded).sum(0)]))[0]

    def mixed(self, prefix: str, values: list[Tensor], state: Tensor) -> Tensor:
        """The team's values by the mixer, of any number."""
        mixer = self.settings.get("mixer", "qmix")
        if mixer == "qmix":
            return self.monotonic(prefix, values, state).reshape(1)
        return torch.stack(values) if mixer is None else torch.stack(values).sum().reshape(1)

    def central(self, prefix: str, values: list[Tensor], state: Tensor) -> Tensor:
        """The unrestricted value of Weighted QMIX."""
        return self.feed(f"{prefix}.mixer", torch.cat([state, torch.stack(values)])).reshape(1)

    def loss(self, made: TeamEpisodes) -> Tensor:
        """The mean over all steps."""
        terms = [term for episode in range(len(made)) for term in self.terms(made, episode)]
        return torch.stack(terms).mean()

    def terms(self, made: TeamEpisodes, episode: int) -> Iterator[Tensor]:
        """A step's losses, from the last step to the first."""
        length, weighting = int(made.lengths[episode]), self.settings.get("weighting")
        qtran, masks = self.settings.get("mixer") == "qtran", made.unpacked_masks(A)[episode]
        states = torch.from_numpy(made.states[episode]).double()

        def all_agents(prefix: str) -> tuple[list[Any], list[Any]]:
            pairs = [self.network(prefix, agent, made, episode) for agent in range(N)]
            return [hidden for hidden, _ in pairs], [values for _, values in pairs]

        def best(values: list[Any], step: int) -> list[int]:
            legal = [[action for action in range(A) if masks[step, agent, action]] for agent in range(N)]
            return [max(legal[agent], key=lambda u, agent=agent: values[agent][step][u].item()) for agent in range(N)]

        def of(values: list[Any], step: int, actions: list[int]) -> list[Tensor]:
            return [values[agent][step][actions[agent]] for agent in range(N)]

        hidden, values = all_agents("networks")
        with torch.no_grad():
            target_hidden, target_values = all_agents("target_networks")
            if weighting:
                _, judged = all_agents("target_central.networks")
        if weighting:
            _, central_values = all_agents("central.networks")
        following = torch.zeros(1, dtype=torch.float64)
        for step in reversed(range(length)):
            state, after = states[step], states[step + 1]
            taken = [int(action) for action in made.actions[episode, step]]
            now = best(values, step)
            with torch.no_grad():
                onward = best(values if self.settings["double_q"] else target_values, step + 1)
                if qtran:
                    bootstrap = self.joint("target_mixer", [h[step + 1] for h in target_hidden], onward, after).reshape(1)
                elif weighting:
                    bootstrap = self.central("target_central", of(judged, step + 1, onward), after)
                else:
                    bootstrap = self.mixed("target_mixer", of(target_values, step + 1, onward), after)
                lambda_ = 0.0 if step == length - 1 else self.settings["td_lambda"]
                ends = step == length - 1 and bool(made.terminated[episode])
                ahead = 0 if ends else GAMMA * ((1 - lambda_) * bootstrap + lambda_ * following)
                goal = following = float(made.rewards[episode, step]) + ahead + torch.zeros_like(bootstrap)
            if qtran:
                seen = [h[step] for h in hidden]
                value, offset = self.joint("mixer", seen, taken, state), self.feed("mixer.state_value", state)[0]
                gap = torch.stack(of(values, step, now)).sum() + offset - self.joint("mixer", seen, now, state).detach()
                short = torch.stack(of(values, step, taken)).sum() + offset - value.detach()
                self.counts["below"] += int(short < 0)
                yield (value - goal[0]) ** 2 + OPT * gap**2 + NOPT * (short**2 if short < 0 else 0 * short)
                continue
            mixed = self.mixed("mixer", of(values, step, taken), state)
            if not weighting:
                yield ((mixed - goal) ** 2).mean()
                continue
            if weighting == "optimistic":
                good = bool(mixed < goal)
            else:
                with torch.no_grad():
                    good = taken == now or bool(goal > self.central("target_central", of(judged, step, now), state))
            self.counts["full" if good else "reduced"] += 1
            star = self.central("central", of(central_values, step, taken), state)
            yield ((1.0 if good else ALPHA) * (mixed - goal) ** 2 + (star - goal) ** 2)[0]


def compare(made: TeamEpisodes, **settings: Any) -> Plain:
    """Losses and gradients, to a millionth of each parameter's largest gradient."""
    own = learner(**settings)
    own.team.double()
    plain = Plain(own, **{"double_q": True, "td_lambda": 0.0, **settings})
    expected = plain.loss(made)
    expected.backward()
    found = own.td_loss(made)["total_loss"]
    found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    learned = {name: value.grad for name, value in own.team.named_parameters() if value.requires_grad}
    assert all(name.startswith(("target_", "average_")) == (name not in learned) for name in plain.leaves)
    for name, gradient in learned.items():
        wanted = plain.leaves[name].grad
        assert gradient is not None, name
        assert wanted is not None, name
        assert wanted.abs().max() > 0, name
        torch.testing.assert_close(gradient, wanted, rtol=1e-6, atol=1e-6 * float(wanted.abs().max()))
    return plain


@pytest.mark.parametrize("sharing", ["none", "full"])
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_those_of_plain_loops(loss: str, sharing: str) -> None:
    plain = compare(episodes(), **LOSSES[loss], parameter_sharing=sharing, td_lambda=0.6)
    if loss == "qtran":
        assert 0 < plain.counts["below"] < 42
    if "weighting" in LOSSES[loss]:
        assert plain.counts["full"] > 0
        assert plain.counts["reduced"] > 0


@pytest.mark.parametrize("loss", ["qtran", "optimistic", "central"])
def test_without_double_q(loss: str) -> None:
    compare(episodes(seed=2), **LOSSES[loss], double_q=False)


def test_the_taken_joint_action_may_be_the_greedy_one() -> None:
    """It counts fully in CW-QMIX even where the target is low."""
    made, settings = episodes(), {**LOSSES["central"], "parameter_sharing": "none"}
    made.rewards[...] -= 100
    own = learner(**settings)
    values, _ = own.team.networks(own.team.networks.arrange(*first_steps(made)), own.team.networks.start(len(made)))
    masks = torch.from_numpy(made.unpacked_masks(A)[:, 0])
    made.actions[:, 0] = values[:, 0].masked_fill(~masks, -torch.inf).argmax(-1).numpy()
    plain = compare(made, **settings)
    assert plain.counts["full"] >= len(made)
    assert plain.counts["reduced"] > 0


def first_steps(made: TeamEpisodes) -> tuple[Tensor, Tensor]:
    """Observations and last actions before the first step."""
    return torch.from_numpy(made.observations[:, :1]), torch.full((len(made), 1, N), -1)


@pytest.mark.parametrize(("weighting", "alpha"), [("optimistic", 0.5), ("central", 0.75)])
def test_the_default_alpha_is_the_papers(weighting: str, alpha: float) -> None:
    made = episodes()
    found, named = (
        learner(weighting=weighting).td_loss(made),
        learner(weighting=weighting, weighting_alpha=alpha).td_loss(made),
    )
    assert found["total_loss"] == named["total_loss"]


@pytest.mark.parametrize("loss", ["qtran", "optimistic"])
def test_all_targets_follow(loss: str) -> None:
    own = learner(**LOSSES[loss])
    own.learn(episodes())
    name = "mixer.action_value.0.weight" if loss == "qtran" else "central.mixer.0.weight"
    online, target = own.team.get_parameter(name), own.team.get_parameter(f"target_{name}")
    gap = (online - target).detach()
    assert gap.abs().max() > 0
    own.team.update_targets(0.25)
    torch.testing.assert_close(online - target, 0.75 * gap)


@pytest.mark.parametrize("loss", ["qtran", "optimistic", "central"])
def test_what_comes_after_the_end_changes_nothing(loss: str) -> None:
    made, own = episodes(), learner(**LOSSES[loss])
    once = {name: value.item() for name, value in own.td_loss(made).items()}
    for episode, length in enumerate(made.lengths):
        made.observations[episode, length + 1 :] = 1e6
        made.states[episode, length + 1 :] = 1e6
        made.rewards[episode, length:] = 1e6
    again = {name: value.item() for name, value in own.td_loss(made).items()}
    assert again == pytest.approx(once, rel=1e-5)
