"""Network sizes of the weighting paper, for every framework."""

from rl_agg.validation import check_choice

HIDDEN_LAYERS: dict[str, list[int]] = {
    "small": [64] * 2,
    "medium": [85] * 4,
    "large": [273] * 6,
}
"""Units of the hidden layers by size; actor and critic have one such network each.

On CartPole: small 9,155 parameters, medium 44,968, large 751,572.

Source: Holen et al. (2023), section 3.4, which gives depths (1, 4 and 6 hidden layers) and totals (about 9,000, 45,000 and
750,000 parameters) but no widths. Differs: small has two hidden layers, because with one of 64 units it would have about 1,000
parameters, not 9,000.
"""


def hidden_layers(size: str) -> list[int]:
    """Units of a size's hidden layers.

    :raises ValueError: if the size is unknown.
    """
    check_choice("network size", size, HIDDEN_LAYERS)
    return list(HIDDEN_LAYERS[size])
