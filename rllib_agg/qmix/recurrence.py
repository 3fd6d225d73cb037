r"""The recurrent part of gated recurrent units, for many networks at once, with a backward pass of its own.

Axes: m networks, T time, K sequences of each network, H units.

.. math::
    r, z &= \sigma(i_{rz} + h_{t-1} W_{rz} + b_{rz}) \\
    c &= \tanh(i_c + r (h_{t-1} W_c + b_c)) \\
    h_t &= c + z (h_{t-1} - c)

where i, the inputs' share of the gates, was computed for all steps at once. Backwards, only
:math:`\partial h_t / \partial h_{t-1}` must go step by step; all of a step's factors, and the gradients of W and b, are one
product over all steps.

Source: Cho et al. (2014), in the form of ``torch.nn.GRUCell``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Recurrence(torch.autograd.Function):
    """Hidden states of all steps. The first one is not differentiated."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, start: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Run all steps.

        :param inputs: i, of r, z and c one after another ``[m, T, K, 3 H]``.
        :param start: The hidden states before the first step ``[m, K, H]``.
        :param weight: W ``[m, H, 3 H]``.
        :param bias: b ``[m, 1, 3 H]``.
        :return: ``[m, T, K, H]``.
        """
        size = start.shape[-1]
        hidden = torch.empty_like(inputs[..., :size], memory_format=torch.contiguous_format)
        gates = torch.empty_like(inputs[..., : 2 * size], memory_format=torch.contiguous_format)
        candidates, recurrent = torch.empty_like(hidden), torch.empty_like(hidden)
        current = start
        steps = zip(*(each.unbind(1) for each in (inputs, hidden, gates, candidates, recurrent)), strict=True)
        for given, now, gate, candidate, share in steps:
            product = torch.baddbmm(bias, current, weight)
            torch.add(given[..., : 2 * size], product[..., : 2 * size], out=gate).sigmoid_()
            share.copy_(product[..., 2 * size :])
            torch.addcmul(given[..., 2 * size :], gate[..., :size], share, out=candidate).tanh_()
            current = torch.lerp(candidate, current, gate[..., size:], out=now)
        ctx.save_for_backward(start, weight, hidden, gates, candidates, recurrent)
        return hidden

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        """Run all steps back."""
        start, weight, hidden, gates, candidates, recurrent = ctx.saved_tensors
        networks, steps, sequences, size = hidden.shape
        reset, update = gates[..., :size], gates[..., size:]
        before = torch.cat([start.unsqueeze(1), hidden[:, :-1]], dim=1)
        to_candidate = (1 - update) * (1 - candidates * candidates)
        # What a hidden state's gradient is multiplied by for that of (r, z, the recurrent share of c).
        factors = torch.cat(
            [
                to_candidate * recurrent * reset * (1 - reset),
                (before - candidates) * update * (1 - update),
                to_candidate * reset,
            ],
            dim=-1,
        ).view(networks, steps, sequences, 3, size)
        of_hidden, of_products = torch.empty_like(hidden), torch.empty_like(factors)
        transposed = weight.transpose(1, 2)
        carried = torch.zeros_like(start)
        for step in reversed(range(steps)):
            now = torch.add(gradients[0][:, step], carried, out=of_hidden[:, step])
            product = torch.mul(now.unsqueeze(2), factors[:, step], out=of_products[:, step])
            carried = torch.baddbmm(now * update[:, step], product.flatten(2), transposed)
        products = of_products.view(networks, steps * sequences, 3 * size)
        of_weight = torch.bmm(before.reshape(networks, steps * sequences, size).transpose(1, 2), products)
        of_bias = products.sum(1, keepdim=True)
        of_inputs = of_products.view(networks, steps, sequences, 3 * size)
        of_inputs = torch.cat([of_inputs[..., : 2 * size], of_hidden * to_candidate], dim=-1)
        return of_inputs, None, of_weight, of_bias


def recur(inputs: Tensor, start: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Hidden states of all steps, see :meth:`Recurrence.forward`."""
    hidden: Tensor = Recurrence.apply(inputs, start, weight, bias)  # type: ignore[no-untyped-call]
    return hidden
