"""High dynamic range video to the eight bits that the model knows: PQ and HLG in BT.2020, to BT.709's colours and curve.

SMPTE ST 2084 (PQ), ITU-R BT.2100 (HLG and its display), BT.2087 (colours), BT.2408 (white of ordinary video at 203 cd/m²).
What is no brighter than ordinary white comes out as ordinary video would show it; highlights are rolled off.
"""

from functools import cache

import numpy as np
from PIL import Image, ImageFilter

PQ, HLG = 16, 18
"""Transfer characteristics, by the numbers of ITU-T H.273."""
NAMES = {PQ: "PQ", HLG: "HLG"}
BT2020 = 9
"""Colour primaries, as above."""
WHITE = 203.0
"""cd/m² of ordinary white."""
PEAK = 1000.0
"""cd/m² that are shown at most; what HLG calls 1 is this."""
KNEE = 0.9
"""Share of ordinary white from where on highlights are rolled off."""
NODES = 65
"""Nodes of the table along each colour: the most that Pillow takes. Between them it interpolates."""
BT709_FROM_BT2020 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float64
)


def tone_mapped(image: Image.Image, transfer: int, primaries: int) -> Image.Image:
    """An RGB image with eight bits in PQ or HLG, as RGB of ordinary video."""
    return image.filter(_table(transfer, primaries == BT2020))


@cache
def _table(transfer: int, wide: bool) -> ImageFilter.Color3DLUT:
    steps = np.linspace(0, 1, NODES)
    signal = np.stack(np.meshgrid(steps, steps, steps, indexing="ij")[::-1], axis=-1)  # red changes fastest
    table = ordinary(signal, transfer, wide).reshape(-1)
    return ImageFilter.Color3DLUT(NODES, table.tolist())


def ordinary(signal: np.ndarray, transfer: int, wide: bool) -> np.ndarray:
    """R'G'B' [...,3] in [0,1] of PQ or HLG to that of BT.709.

    wide: whether the primaries are those of BT.2020.
    """
    light = (_pq_light(signal) if transfer == PQ else _hlg_light(signal)) / WHITE
    if wide:
        light = light @ BT709_FROM_BT2020.T
    light = np.clip(light, 0, None)
    peak = light.max(-1, keepdims=True)
    light = np.clip(light * _rolled_off(peak) / np.maximum(peak, 1e-9), 0, 1)
    return np.where(light < 0.018, 4.5 * light, 1.099 * light**0.45 - 0.099)


def _pq_light(signal: np.ndarray) -> np.ndarray:
    """cd/m² of a PQ signal (ST 2084's EOTF)."""
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    power = signal ** (1 / m2)
    return 10_000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)


def _hlg_light(signal: np.ndarray) -> np.ndarray:
    """cd/m² that a display of 1,000 shows for an HLG signal (BT.2100's inverse OETF and OOTF)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593])
    return PEAK * np.maximum(luminance, 1e-9)[..., None] ** 0.2 * scene


def _rolled_off(light: np.ndarray) -> np.ndarray:
    """Light, 1 being ordinary white, into [0,1]: unchanged up to the knee, from there bent towards 1 at the peak."""
    room, reach = 1 - KNEE, PEAK / WHITE - KNEE
    over = np.clip(light - KNEE, 0, reach)
    # A hyperbola with slope 1 at the knee and the value `room` at `reach`.
    bend = (reach - room) / (reach * room)
    return np.where(light <= KNEE, light, KNEE + over / (1 + bend * over))
