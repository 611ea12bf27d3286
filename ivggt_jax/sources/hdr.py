"""High dynamic range to the model's eight bits: PQ and HLG in BT.2020, to BT.709's colours and transfer curve.

SMPTE ST 2084 (PQ), ITU-R BT.2100 (HLG and its display), BT.2087 (colours), BT.2408 (white of ordinary video at 203 cd/m²). Values
up to ordinary white come out as in ordinary video; highlights are compressed.
"""

from functools import cache

import numpy as np

PQ, HLG = 16, 18
"""Transfer characteristics, as numbered in ITU-T H.273."""
NAMES = {PQ: "PQ", HLG: "HLG"}
BT2020 = 9
"""Colour primaries, as numbered there."""
WHITE = 203.0
"""Luminance of ordinary white in cd/m²."""
PEAK = 1000.0
"""Largest luminance shown in cd/m²; HLG's 1 stands for it."""
KNEE = 0.9
"""Share of ordinary white from which highlights are compressed."""
ROWS = 64
"""Rows of a picture that are computed at a time, to bound memory."""
STEPS = 8192
"""Entries of the table of BT.709's curve; computing a power for every pixel would take longer than everything else."""
BT709_FROM_BT2020 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)


def tone_mapped(values: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
    """R'G'B' of a picture in PQ or HLG, uint8 or uint16 [H,W,3], as uint8 of ordinary video."""
    bands = [ordinary(values[row : row + ROWS], transfer, primaries == BT2020) for row in range(0, len(values), ROWS)]
    return np.concatenate(bands)


def ordinary(values: np.ndarray, transfer: int, wide: bool) -> np.ndarray:
    """R'G'B' [...,3] in PQ or HLG, uint8 or uint16, to uint8 of BT.709.

    wide: whether the primaries are BT.2020's.
    """
    light = _table(transfer, int(np.iinfo(values.dtype).max))[values]
    if transfer == HLG:  # BT.2100's OOTF for a display of 1,000 cd/m²
        luminance = light @ np.array([0.2627, 0.6780, 0.0593], np.float32)
        light *= PEAK / WHITE * np.maximum(luminance, 1e-9)[..., None] ** np.float32(0.2)
    if wide:
        light = np.maximum(light @ BT709_FROM_BT2020.T, 0)
    peak = np.maximum(light.max(-1, keepdims=True), 1e-9)
    light *= _rolled_off(peak) / peak
    return _curve()[(np.sqrt(np.minimum(light, 1)) * (STEPS - 1) + 0.5).astype(np.intp)]


@cache
def _curve() -> np.ndarray:
    """BT.709's curve as uint8, indexed by the square root of light."""
    light = np.linspace(0, 1, STEPS) ** 2
    return np.rint(255 * np.where(light < 0.018, 4.5 * light, 1.099 * light**0.45 - 0.099)).astype(np.uint8)


@cache
def _table(transfer: int, largest: int) -> np.ndarray:
    """The meaning of each value from 0 to the largest, float32: display light in units of white for PQ, scene light for HLG."""
    signal = np.arange(largest + 1) / largest
    if transfer == PQ:  # ST 2084's EOTF
        m1, m2 = 2610 / 16384, 2523 / 4096 * 128
        c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
        power = signal ** (1 / m2)
        table = 10_000 / WHITE * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
    else:  # BT.2100's inverse OETF
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        table = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    return table.astype(np.float32)


def _rolled_off(light: np.ndarray) -> np.ndarray:
    """Map light, with ordinary white at 1, to [0,1]: unchanged up to the knee, then compressed towards 1 at the peak."""
    room, reach = 1 - KNEE, PEAK / WHITE - KNEE
    over = np.clip(light - KNEE, 0, reach)
    # A hyperbola with slope 1 at the knee and the value `room` at `reach`.
    bend = (reach - room) / (reach * room)
    return np.where(light <= KNEE, light, KNEE + over / (1 + bend * over))
