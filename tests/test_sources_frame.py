from dataclasses import fields

import numpy as np
import pytest

from ivggt_jax.mapping.state import MapRecord, MapState
from ivggt_jax.sources import Fit, Frame
from ivggt_jax.synthetic.rendering import SyntheticFrame


@pytest.mark.parametrize("fit", [Fit((640, 480), (0.5, 0.25), (0.0, -9.0)), Fit((50, 80), (1.75, 1.7), (31.0, 0.0))])
def test_intrinsics_go_back_to_the_original(fit):
    """A ray that hits model pixel (u, v) hits the original where the fit, undone by hand, puts that pixel."""
    intrinsics = np.array([[300.0, 2.0, 120.0], [0.0, 310.0, 90.0], [0.0, 0.0, 1.0]])
    original = fit.intrinsics_to_original(intrinsics)
    assert original.dtype == np.float64
    for ray in ([0.0, 0.0, 1.0], [0.3, -0.2, 1.0], [-0.1, 0.4, 1.0]):
        pixel = (intrinsics @ ray)[:2]
        by_hand = (pixel + 0.5 - fit.offset) / fit.scale - 0.5
        np.testing.assert_allclose((original @ ray)[:2], by_hand, rtol=0, atol=1e-10)


def test_nothing_to_undo():
    intrinsics = np.array([[300.0, 0.0, 320.0], [0.0, 310.0, 240.0], [0.0, 0.0, 1.0]])
    undone = Fit((640, 480), (1.0, 1.0), (0.0, 0.0)).intrinsics_to_original(intrinsics)
    np.testing.assert_array_equal(undone, intrinsics)


def test_frames_are_compared_by_identity():
    """Their images have no single truth value."""
    frame, same = (SyntheticFrame(*(np.zeros((2, 2)) for _ in fields(SyntheticFrame))) for _ in range(2))
    assert frame == frame and frame != same and len({frame, same}) == 2
    for kind in (Frame, MapRecord, MapState, SyntheticFrame):
        assert kind.__eq__ is object.__eq__
