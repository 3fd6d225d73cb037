r"""The recurrent part of gated recurrent units, for many networks at once, with a backward pass of its own.

Axes: m networks, T time, K sequences of each network, H units.

.. math::
    r, z &= \sigma(i_{rz} + h_{t-1} W_{rz}) \\
    c &= \tanh(i_c + r (h_{t-1} W_c + b)) \\
    h_t &= c + z (h_{t-1} - c)

where i, the inputs' share of the gates with the biases of r and z, was computed for all steps at once. Backwards, only
:math:`\partial h_t / \partial h_{t-1}` must go step by step; all of a step's factors, and the gradients of W and b, are one
product over all steps.

Source: Cho et al. (2014), in the form of ``torch.nn.GRUCell``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Recurrence(torch.autograd.Function):
    """Hidden states of all steps. The first one is not differentiated.

    Elementwise work goes step by step as well: a step's numbers fit into the cache, those of all steps do not.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, start: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Run all steps.

        :param inputs: i, of r, z and c one after another ``[m, T, K, 3 H]``.
        :param start: The hidden states before the first step ``[m, K, H]``.
        :param weight: W ``[m, H, 3 H]``.
        :param bias: b ``[m, 1, H]``.
        :return: ``[m, T, K, H]``.
        """
        size = start.shape[-1]
        hidden, candidates, shares = (inputs.new_empty(*inputs.shape[:-1], size) for _ in range(3))
        gates = inputs.new_empty(*inputs.shape[:-1], 2 * size)
        current = start
        steps = zip(*(each.unbind(1) for each in (inputs, hidden, gates, candidates, shares)), strict=True)
        for given, now, gate, candidate, share in steps:
            product = torch.bmm(current, weight)
            torch.add(product[..., 2 * size :], bias, out=share)
            current = _step(given, product, share, current, gate, candidate, now)
        ctx.save_for_backward(start, weight, hidden, gates, candidates, shares)
        return hidden

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        """Run all steps back."""
        start, weight, hidden, gates, candidates, shares = ctx.saved_tensors
        size = start.shape[-1]
        of_inputs, of_shares = hidden.new_empty(*hidden.shape[:-1], 3 * size), torch.empty_like(hidden)
        to_gates, to_candidate = (part.transpose(1, 2) for part in weight.split((2 * size, size), dim=-1))
        before = [start, *hidden[:, :-1].unbind(1)]
        carried, both = torch.zeros_like(start), start.new_empty(*start.shape[:-1], 2 * size)
        steps = zip(
            before, *(each.unbind(1) for each in (gradients[0], gates, candidates, shares, of_inputs, of_shares)), strict=True
        )
        for previous, gradient, gate, candidate, share, of_input, of_share in reversed(list(steps)):
            now = gradient + carried
            kept = now * gate[..., size:]
            of_candidate = torch.ops.aten.tanh_backward(now - kept, candidate)
            of_input[..., 2 * size :] = of_candidate
            torch.mul(of_candidate, share, out=both[..., :size])
            torch.mul(now, previous - candidate, out=both[..., size:])
            of_gates = torch.ops.aten.sigmoid_backward(both, gate)
            of_input[..., : 2 * size] = of_gates
            torch.mul(of_candidate, gate[..., :size], out=of_share)
            carried = torch.baddbmm(kept, of_gates, to_gates).baddbmm_(of_share, to_candidate)
        earlier = torch.cat([start.unsqueeze(1), hidden[:, :-1]], dim=1).flatten(1, 2).transpose(1, 2)
        parts = of_inputs[..., : 2 * size].flatten(1, 2), of_shares.flatten(1, 2)
        of_weight = torch.cat([torch.bmm(earlier, part) for part in parts], dim=-1)
        return of_inputs, None, of_weight, parts[1].sum(1, keepdim=True)


def _step(
    given: Tensor, product: Tensor, share: Tensor, current: Tensor, gate: Tensor, candidate: Tensor, out: Tensor
) -> Tensor:
    """One step.

    :param given: Of i ``[m, K, 3 H]``.
    :param product: ``h W`` ``[m, K, 3 H]``.
    :param share: ``h W_c + b`` ``[m, K, H]``.
    :param current: h ``[m, K, H]``.
    :param gate: Where r and z go ``[m, K, 2 H]``.
    :param candidate: Where c goes ``[m, K, H]``.
    :param out: Where the next h goes ``[m, K, H]``.
    :return: The last.
    """
    size = current.shape[-1]
    torch.add(given[..., : 2 * size], product[..., : 2 * size], out=gate).sigmoid_()
    torch.addcmul(given[..., 2 * size :], gate[..., :size], share, out=candidate).tanh_()
    return torch.lerp(candidate, current, gate[..., size:], out=out)


def recur(inputs: Tensor, start: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Hidden states of all steps, see :meth:`Recurrence.forward`."""
    if torch.is_grad_enabled():
        differentiated: Tensor = Recurrence.apply(inputs, start, weight, bias)  # type: ignore[no-untyped-call]
        return differentiated
    size, current = start.shape[-1], start
    hidden = inputs.new_empty(*inputs.shape[:-1], size)
    gate, candidate = start.new_empty(*start.shape[:-1], 2 * size), torch.empty_like(start)
    for given, now in zip(inputs.unbind(1), hidden.unbind(1), strict=True):
        product = torch.bmm(current, weight)
        share = product[..., 2 * size :].add_(bias)
        current = _step(given, product, share, current, gate, candidate, now)
    return hidden
