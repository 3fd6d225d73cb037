r"""A policy's and a value network, evaluated and differentiated together. Axes: A agents, B samples, P parameters.

Layers that both networks use are evaluated once. Then, for as long as both have layers of the same shape, these are evaluated
in one batched product, and what remains one after the other: a step of a small network takes as long as its calls of torch.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from rl_agg.closed_form.factors import Factors, by_agent
from rl_agg.closed_form.layers import Dense, LinearLayer
from rl_agg.closed_form.memory import Memory


class ActorCritic:
    """Two perceptrons over the same inputs.

    :param policy: Layers from the features to the distribution's parameters.
    :param value: Layers from the features to the value.
    :param memory: Where parameters and gradients are. If each of A agents has its own, features, outputs and their gradients
        have a leading axis A, and B counts the samples of each.
    :raises ValueError: if a layer is used twice in another way than by both networks from the first layer on.
    """

    def __init__(self, policy: Sequence[LinearLayer], value: Sequence[LinearLayer], memory: Memory) -> None:
        self.memory = memory
        num_shared = _count(policy, value, lambda one, other: one.weight is other.weight and one.bias is other.bias)
        num_paired = num_shared
        if memory.is_shared:
            num_paired += _count(policy[num_shared:], value[num_shared:], self._can_pair)
        distinct = [*policy, *value[num_shared:]]
        parameters = [id(item) for layer in distinct for item in (layer.weight, layer.bias) if item is not None]
        if len(set(parameters)) < len(parameters):
            raise ValueError("layers share a parameter")
        self._layers = (policy, value)
        self._pairs = list(zip(policy[num_shared:num_paired], value[num_shared:num_paired], strict=True))
        shared = [self._single(layer) for layer in policy[:num_shared]]
        paired = [self._pair(*pair) for pair in self._pairs]
        own = [[self._single(layer) for layer in layers[num_paired:]] for layers in self._layers]
        self._shared = Chain(shared, earlier=False)
        self._paired = Chain(paired, earlier=self._shared.is_trained)
        earlier = self._paired.is_trained or self._shared.is_trained
        self._own = [Chain(layers, earlier=earlier) for layers in own]
        self._reaches_trained = earlier
        self._of_pairs: Tensor | None = None

    def _single(self, layer: LinearLayer) -> Dense:
        memory, bias = self.memory, layer.bias
        return Dense(
            memory.value(layer.weight),
            None if bias is None else memory.value(bias),
            memory.gradient(layer.weight),
            None if bias is None else memory.gradient(bias),
            layer.activation,
        )

    def _can_pair(self, one: LinearLayer, other: LinearLayer) -> bool:
        """Whether two layers are alike, trained, and the second one lies behind the first one in memory."""
        if one.weight.shape != other.weight.shape or one.activation != other.activation:
            return False
        if (one.bias is None) != (other.bias is None):
            return False
        columns = self.memory.columns
        pairs = [(one.weight, other.weight)]
        if one.bias is not None and other.bias is not None:
            pairs.append((one.bias, other.bias))
        return all(
            id(first) in columns and id(second) in columns and columns[id(first)].start < columns[id(second)].start
            for first, second in pairs
        )

    def _pair(self, one: LinearLayer, other: LinearLayer) -> Dense:
        def both(flat: Tensor, first: Tensor, second: Tensor) -> Tensor:
            start, next_start = (self.memory.columns[id(item)].start for item in (first, second))
            return flat.as_strided((2, *first.shape), (next_start - start, *first.stride()), flat.storage_offset() + start)

        values, gradients = self.memory.values, self.memory.gradients
        biases: list[Tensor | None] = [None, None]
        if one.bias is not None and other.bias is not None:
            biases = [both(flat, one.bias, other.bias) for flat in (values, gradients)]
        weights = [both(flat, one.weight, other.weight) for flat in (values, gradients)]
        return Dense(weights[0], biases[0], weights[1], biases[1], one.activation)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate.

        :param features: ``[B, in]``.
        :return: Parameters of the distribution ``[B, n]`` and values ``[B, 1]``, valid until the next call.
        """
        hidden = self._shared.forward(features)
        both = self._paired.forward(hidden.expand(2, *hidden.shape)) if self._paired.layers else (hidden, hidden)
        policy, value = self._own
        return policy.forward(both[0]), value.forward(both[1])

    def backward(self, policy_gradient: Tensor, value_gradient: Tensor) -> None:
        """Write the gradients of all parameters, summed over the samples of the last :meth:`forward`.

        :param policy_gradient: Of the loss with respect to the distribution's parameters ``[B, n]``; overwritten.
        :param value_gradient: With respect to the values ``[B, 1]``; overwritten.
        """
        self.differentiate(policy_gradient, value_gradient)
        for chain in (self._shared, self._paired, *self._own):
            for layer in chain.layers:
                layer.write_gradients()

    def differentiate(self, policy_gradient: Tensor, value_gradient: Tensor) -> None:
        """As :meth:`backward`, but only up to the layers' own outputs; for :meth:`factors`."""
        into = self._gradients_of_pairs(policy_gradient)
        gradients = [
            chain.backward(gradient, None if into is None else into[network])
            for network, (chain, gradient) in enumerate(zip(self._own, (policy_gradient, value_gradient), strict=True))
        ]
        if not self._reaches_trained:
            return
        if self._paired.layers:
            both = self._paired.backward(torch.stack(gradients) if into is None else into)
            gradients = [both[0], both[1]]
        if self._shared.is_trained:
            self._shared.backward(gradients[0].add_(gradients[1]))

    def _gradients_of_pairs(self, like: Tensor) -> Tensor | None:
        """Memory for the gradient of the paired layers' outputs ``[2, B, out]``, if both networks write there."""
        if not self._paired.layers or not all(chain.layers for chain in self._own):
            return None
        shape = (2, like.shape[-2], self._paired.layers[-1].weight.shape[-2])
        if self._of_pairs is None or self._of_pairs.shape != shape:
            self._of_pairs = like.new_empty(shape)
        return self._of_pairs

    def factors(self, num_agents: int, slots: Tensor | None, num_slots: int) -> list[Factors]:
        """The gradients of each agent, in factors; after :meth:`differentiate`.

        :param num_agents: A, one after the other in the batch.
        :param slots: See :func:`rl_agg.closed_form.factors.by_agent`.
        :param num_slots: See there.
        """
        columns = self.memory.columns
        return [
            Factors(
                by_agent(dense.deltas[part], num_agents, slots, num_slots),
                by_agent(dense.inputs[part], num_agents, slots, num_slots),
                columns.get(id(layer.weight)),
                columns.get(id(layer.bias)),
            )
            for layer, dense, part in self._places()
            if id(layer.weight) in columns or id(layer.bias) in columns
        ]

    def _places(self) -> Iterator[tuple[LinearLayer, Dense, Any]]:
        """Each layer, what evaluates it, and its part in that."""
        policy, value = self._layers
        for layer, dense in zip(policy, self._shared.layers, strict=False):
            yield layer, dense, ...
        for pair, dense in zip(self._pairs, self._paired.layers, strict=True):
            for part, layer in enumerate(pair):
                yield layer, dense, part
        for layers, chain in zip((policy, value), self._own, strict=True):
            if chain.layers:
                for layer, dense in zip(layers[-len(chain.layers) :], chain.layers, strict=True):
                    yield layer, dense, ...


class Chain:
    """Layers one after the other.

    :param layers: From the first to the last.
    :param earlier: Whether something before them is trained, so that the gradient of their inputs is needed.
    """

    def __init__(self, layers: list[Dense], *, earlier: bool) -> None:
        self.layers = layers
        trained = list(itertools.accumulate((layer.is_trained for layer in layers), initial=earlier, func=operator.or_))
        self.is_trained = any(layer.is_trained for layer in layers)
        self._backwards = list(zip(layers, trained, strict=False))[::-1]

    def forward(self, inputs: Tensor) -> Tensor:
        """Evaluate."""
        for layer in self.layers:
            inputs = layer.forward(inputs)
        return inputs

    def backward(self, gradient: Tensor, out: Tensor | None = None) -> Tensor:
        """Differentiate, as far as anything is trained.

        :param gradient: With respect to the outputs; overwritten.
        :param out: Where that of the inputs is written.
        :return: The gradient with respect to the inputs, if something earlier is trained.
        """
        for layer, continues in self._backwards:
            layer.differentiate(gradient)
            if not continues:
                break
            gradient = layer.gradient_of_inputs(out if layer is self.layers[0] else None)
        return gradient


def _count(one: Sequence[LinearLayer], other: Sequence[LinearLayer], agree: Callable[[LinearLayer, LinearLayer], bool]) -> int:
    """For how many layers from the first one on two networks agree."""
    return len(list(itertools.takewhile(bool, (agree(*pair) for pair in zip(one, other, strict=False)))))
