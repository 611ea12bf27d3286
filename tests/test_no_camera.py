"""A network that says a field of view of 0: its focal length is long, and not infinite, so that everything else can be written."""

import numpy as np
import pytest

from ivggt_jax.model.vggt import Predictions
from ivggt_jax.options.export import ExportOptions
from ivggt_jax.runs.run import make_result
from ivggt_jax.sources import Fit, Frame
from ivggt_jax.writers import Writers

HEIGHT, WIDTH = 28, 42


@pytest.mark.parametrize("angles", [(0.0, 0.0), (0.0, 1.0), (1.0, 4.0)])
def test_the_run_goes_on_and_says_so(angles, tmp_path):
    """Vertical and horizontal field of view in radians; the first three frames have a camera."""
    writers = Writers(["tum", "intrinsics"], tmp_path, ExportOptions())
    for index in range(5):
        image = np.roll(np.arange(WIDTH, dtype=np.uint8) * 6, 5 * index)[None, :, None].repeat(HEIGHT, 0).repeat(3, 2)
        frame = Frame(image, index, None, f"{index}", Fit((WIDTH, HEIGHT), (1.0, 1.0), (0.0, 0.0)))
        pose = np.array((0, 0, 0, 0, 0, 0, 1, *((1.0, 1.2) if index < 3 else angles)), np.float32)
        host = Predictions(pose_encoding=pose, depth=np.ones((HEIGHT, WIDTH), np.float32))
        result = make_result(frame, host, points_from_depth=True)
        assert np.isfinite(result.intrinsics).all() and np.isfinite(result.points).all()
        writers.write(result)
    writers.close()
    assert np.isfinite(np.loadtxt(tmp_path / "intrinsics.txt")).all()
    assert writers.evidence.doubt() == (
        "the geometry of 2 of 5 frames means nothing: the network says that their field of view is 0° or over 180°, as "
        "untrained or damaged weights do"
    )
