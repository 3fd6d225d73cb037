r"""Gated recurrent units, for many networks at once, with a backward pass of its own.

Axes: m networks, T time, K sequences of each network, d inputs, H units.

.. math::
    r, z &= \sigma(x_t V_{rz} + h_{t-1} W_{rz} + b_{rz}) \\
    c &= \tanh(x_t V_c + b_c + r (h_{t-1} W_c + b)) \\
    h_t &= c + z (h_{t-1} - c)

Both passes do all of a step's work at once: its numbers fit into the cache, where those of all steps are fetched from memory,
and a product of all steps is hardly faster than those of each. Sequences may have different lengths, the longest first; steps
after the end of one are left out.

Source: Cho et al. (2014), in the form of ``torch.nn.GRUCell``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


class Recurrence(torch.autograd.Function):
    """Hidden states of all steps. The first one is not differentiated."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        running: Sequence[int],
        start: Tensor,
        weight_ih: Tensor,
        bias: Tensor,
        weight_hh: Tensor,
        share_bias: Tensor,
    ) -> Tensor:
        """Run all steps.

        :param inputs: x ``[m, T, K, d]``.
        :param running: How many of the K sequences, the first ones, have each step ``[T]``, descending.
        :param start: The hidden states before the first step ``[m, K, H]``.
        :param weight_ih: V, of r, z and c one after another ``[m, d, 3 H]``.
        :param bias: Of them ``[m, 1, 3 H]``.
        :param weight_hh: W, in the same order ``[m, H, 3 H]``.
        :param share_bias: b ``[m, 1, H]``.
        :return: ``[m, T, K, H]``, 0 where a sequence has no such step.
        """
        size = start.shape[-1]
        candidates, shares = (inputs.new_empty(*inputs.shape[:-1], size) for _ in range(2))
        gates, hidden = inputs.new_empty(*inputs.shape[:-1], 2 * size), inputs.new_zeros(*inputs.shape[:-1], size)
        step = Step(start, weight_ih, bias, weight_hh, share_bias)
        current = start
        for count, *arrays in by_step(running, inputs, hidden, gates, candidates, shares):
            given, now, *kept = arrays
            current = step(given, current[:, :count], now, *kept)
        ctx.running = running
        ctx.save_for_backward(inputs, start, weight_ih, weight_hh, hidden, gates, candidates, shares)
        return hidden

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, Tensor, Tensor, Tensor, Tensor]:
        """Run all steps back."""
        inputs, start, weight_ih, weight_hh, hidden, gates, candidates, shares = ctx.saved_tensors
        size = start.shape[-1]
        weights_to_hidden = torch.cat([weight_hh[..., 2 * size :], weight_hh[..., : 2 * size]], dim=-1).transpose(1, 2)
        weights_to_inputs = weight_ih.transpose(1, 2)
        of_v, of_w = torch.zeros_like(weight_ih), torch.zeros_like(weight_hh)
        of_biases = start.new_zeros(*start.shape[:-1], 4 * size)
        whole, carried, scratch = torch.empty_like(of_biases), torch.zeros_like(start), start.new_empty(*gates[:, 0].shape)
        of_x = torch.zeros_like(inputs)
        before = [start, *hidden[:, :-1].unbind(1)]
        steps = by_step(ctx.running, inputs, gradients[0], gates, candidates, shares, of_x)
        for former, (count, *arrays) in reversed(list(zip(before, steps, strict=True))):
            given, gradient, gate, candidate, share, of_given = arrays
            previous, both = former[:, :count], scratch[:, :count]
            # A step's gradients of h W_c + b, of r and z, and of c: W's are the first three, V's the last three.
            step = whole[:, :count]
            of_share, of_gates, of_candidate = torch.split(step, [size, 2 * size, size], dim=-1)
            to_hidden, to_inputs = step[..., : 3 * size], step[..., size:]
            now = gradient + carried[:, :count]
            kept = now * gate[..., size:]
            torch.ops.aten.tanh_backward(now - kept, candidate, grad_input=of_candidate)
            torch.mul(of_candidate, share, out=both[..., :size])
            torch.mul(now, previous - candidate, out=both[..., size:])
            torch.ops.aten.sigmoid_backward(both, gate, grad_input=of_gates)
            torch.mul(of_candidate, gate[..., :size], out=of_share)
            torch.baddbmm(kept, to_hidden, weights_to_hidden, out=carried[:, :count])
            torch.bmm(to_inputs, weights_to_inputs, out=of_given)
            of_v.baddbmm_(given.transpose(1, 2), to_inputs)
            of_w.baddbmm_(previous.transpose(1, 2), to_hidden)
            of_biases[:, :count] += step
        of_biases = of_biases.sum(1, keepdim=True)
        in_order = torch.cat([of_w[..., size:], of_w[..., :size]], dim=-1)
        return of_x, None, None, of_v, of_biases[..., size:], in_order, of_biases[..., :size]


class Step:
    """One step of all networks, into memory that is used again for the next.

    Parameters as of :meth:`Recurrence.forward`.
    """

    def __init__(self, start: Tensor, weight_ih: Tensor, bias: Tensor, weight_hh: Tensor, share_bias: Tensor) -> None:
        self.weight_ih, self.bias, self.weight_hh, self.share_bias = weight_ih, bias, weight_hh, share_bias
        self.size = start.shape[-1]
        self._given, self._remembered = (start.new_empty(*start.shape[:-1], 3 * self.size) for _ in range(2))

    def __call__(self, inputs: Tensor, current: Tensor, out: Tensor, gate: Tensor, candidate: Tensor, share: Tensor) -> Tensor:
        """Take it.

        :param inputs: x ``[m, K, d]``.
        :param current: h ``[m, K, H]``.
        :param out: Where the next h goes ``[m, K, H]``.
        :param gate: Where r and z go ``[m, K, 2 H]``.
        :param candidate: Where c goes ``[m, K, H]``.
        :param share: Where ``h W_c + b`` goes ``[m, K, H]``.
        :return: The next h.
        """
        gates, count = 2 * self.size, current.shape[1]
        given = torch.baddbmm(self.bias, inputs, self.weight_ih, out=self._given[:, :count])
        remembered = torch.bmm(current, self.weight_hh, out=self._remembered[:, :count])
        torch.add(remembered[..., gates:], self.share_bias, out=share)
        torch.add(given[..., :gates], remembered[..., :gates], out=gate).sigmoid_()
        torch.addcmul(given[..., gates:], gate[..., : self.size], share, out=candidate).tanh_()
        return torch.lerp(candidate, current, gate[..., self.size :], out=out)


def by_step(running: Sequence[int], *arrays: Tensor) -> Iterator[tuple[Any, ...]]:
    """Each step's number of running sequences, and what arrays ``[m, T, K, ...]`` have of them."""
    for count, *now in zip(running, *(array.unbind(1) for array in arrays), strict=True):
        yield count, *(array[:, :count] for array in now)


def recur(
    inputs: Tensor,
    start: Tensor,
    weight_ih: Tensor,
    bias: Tensor,
    weight_hh: Tensor,
    share_bias: Tensor,
    running: Sequence[int] | None = None,
) -> Tensor:
    """Hidden states of all steps, see :meth:`Recurrence.forward`; ``running`` ``None``: all sequences have all steps."""
    running = [inputs.shape[2]] * inputs.shape[1] if running is None else running
    parameters = start, weight_ih, bias, weight_hh, share_bias
    if torch.is_grad_enabled():
        differentiated: Tensor = Recurrence.apply(inputs, running, *parameters)  # type: ignore[no-untyped-call]
        return differentiated
    hidden = inputs.new_zeros(*inputs.shape[:-1], start.shape[-1])
    gate = start.new_empty(*start.shape[:-1], 2 * start.shape[-1])
    candidate, share = torch.empty_like(start), torch.empty_like(start)
    step, current = Step(*parameters), start
    for count, given, now in by_step(running, inputs, hidden):
        scratch = (array[:, :count] for array in (gate, candidate, share))
        current = step(given, current[:, :count], now, *scratch)
    return hidden
