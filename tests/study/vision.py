"""How far apart colours look, to most people and to those with one kind of cone missing."""

import numpy as np

# Machado, Oliveira & Fernandes (2009), severity 1, on linear RGB
CONES_MISSING = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])
WHITE = TO_XYZ.sum(axis=1)


def linear(colors):
    """``#rrggbb`` as linear RGB ``[..., 3]`` in [0, 1]."""
    coded = np.array([[int(color[at : at + 2], 16) for at in (1, 3, 5)] for color in colors]) / 255
    return np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)


def contrast(color, ground):
    """WCAG's contrast ratio, 1 to 21."""
    first, second = linear([color, ground]) @ TO_XYZ[1] + 0.05
    return max(first, second) / min(first, second)


def lab(colors, missing="none"):
    """CIELAB of colours ``[N]`` as such an eye sees them ``[N, 3]``."""
    seen = np.clip(linear(colors) @ np.asarray(CONES_MISSING[missing]).T, 0, 1)
    ratio = seen @ TO_XYZ.T / WHITE
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def ciede2000(first, second):
    """Difference of CIELAB colours ``[..., 3]``, after Sharma, Wu & Dalal (2005)."""
    (l1, a1, b1), (l2, a2, b2) = np.moveaxis(np.asarray(first), -1, 0), np.moveaxis(np.asarray(second), -1, 0)
    mean_c7 = ((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2) ** 7
    stretch = 1.5 - 0.5 * np.sqrt(mean_c7 / (mean_c7 + 25.0**7))
    c1, c2 = np.hypot(a1 * stretch, b1), np.hypot(a2 * stretch, b2)
    h1, h2 = (np.degrees(np.arctan2(b, a * stretch)) % 360 for a, b in ((a1, b1), (a2, b2)))
    grey = c1 * c2 == 0
    turn = np.where(grey, 0, (h2 - h1 + 180) % 360 - 180)
    mean_l, mean_c = (l1 + l2) / 2, (c1 + c2) / 2
    # Half way from one hue to the other, on the shorter arc
    mean_h = np.where(grey, h1 + h2, np.where(abs(h1 - h2) <= 180, (h1 + h2) / 2, (h1 + h2 + 360) / 2 % 360))
    angles = [(-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.20, 4, -63)]
    t = 1 + sum(weight * np.cos(np.radians(times * mean_h + shift)) for weight, times, shift in angles)
    lightness = 1 + 0.015 * (mean_l - 50) ** 2 / np.sqrt(20 + (mean_l - 50) ** 2)
    chroma, hue = 1 + 0.045 * mean_c, 1 + 0.015 * mean_c * t
    rotation = -2 * np.sqrt(mean_c**7 / (mean_c**7 + 25.0**7)) * np.sin(np.radians(60 * np.exp(-(((mean_h - 275) / 25) ** 2))))
    dl, dc, dh = (l2 - l1) / lightness, (c2 - c1) / chroma, 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2)) / hue
    return np.sqrt(dl**2 + dc**2 + dh**2 + rotation * dc * dh)


def closest(colors):
    """The smallest difference of any two colours, by kind of eye."""
    pairs = np.triu_indices(len(colors), 1)
    return {
        eye: float(ciede2000(*(seen[pairs[at]] for at in (0, 1))).min())
        for eye, seen in ((eye, lab(colors, eye)) for eye in CONES_MISSING)
    }
