"""What a return counts in the gradient of an evolution strategy. Axis A: agents whose return is known or imputed."""

import numpy as np
import torch
from torch import Tensor

from rl_agg.rules.base import required
from rl_agg.signals import Signals


def raw(signals: Signals) -> Tensor:
    """The returns themselves: :math:`w_a = r_a`.

    Source: Gunn (2023), equation 2.1.
    """
    return required(signals, "returns")


def centered(signals: Signals) -> Tensor:
    r"""Returns less their mean: :math:`w_a = r_a - \bar r`. Adding a constant to all of them changes nothing."""
    returns = required(signals, "returns")
    values = returns.cpu().numpy()
    with np.errstate(over="ignore"):
        mean = values.mean()
        if not np.isfinite(mean):  # though the values are
            mean = (values / len(values)).sum()
        return torch.from_numpy(np.nan_to_num(values - mean)).to(returns)


def ranks(signals: Signals) -> Tensor:
    """Ranks spread evenly over [-0.5, 0.5]; equal returns share the mean of their ranks.

    Source: Salimans et al. (2017), section 2.1.
    """
    returns = required(signals, "returns")
    if len(returns) < 2:
        return torch.zeros_like(returns)
    _, kind, counts = np.unique(returns.cpu().numpy(), return_inverse=True, return_counts=True)
    middle = counts.cumsum() - (counts + 1) / 2  # mean rank of each distinct return, from 0
    return torch.from_numpy(middle[kind] / (len(returns) - 1) - 0.5).to(returns)
