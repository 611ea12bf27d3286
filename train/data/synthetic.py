"""Batches of synthetic clips with exact ground truth, rendered for each step from the seed."""

from dataclasses import dataclass, fields
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ivggt_jax.synthetic import Clip, clip
from ivggt_jax.synthetic.paths import Look
from ivggt_jax.synthetic.scenes import Kind
from train.data.batches import Batch

FIELDS = ("images", "depth", "valid", "points", "cam_from_world", "intrinsics", "query_points", "tracks", "visibility")


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """Size and variety of synthetic batches. Raises ValueError where fields make no sense."""

    batch_size: int = 4
    """Clips of a batch over all processes."""
    frames: tuple[int, int] = (8, 8)
    """Fewest and most frames of a clip; drawn for each batch."""
    width: int = 112
    """Of a frame, in pixels; a multiple of the patch size, as the height."""
    height: int = 84
    kinds: tuple[Kind, ...] = ("room", "street", "corridor")
    """Scenes to draw from."""
    looks: tuple[Look, ...] = ("ahead", "aside")
    """Directions of view to draw from."""
    speed: tuple[float, float] = (0.5, 4.0)
    """Slowest and fastest camera, relative to a walk at 30 frames per second."""
    query_points: int = 0
    """Points of the first frame that are tracked."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")
        for name in ("frames", "speed"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be (low, high) with 0 < low ≤ high, not {(low, high)}")
        if not self.kinds or not self.looks:
            raise ValueError(f"kinds {self.kinds} and looks {self.looks} need an entry each")


class SyntheticBatches:
    """Batches rendered on the fly: a pure function of seed and step. Different seeds give different scenes.

    Rendering runs on JAX's default device, so it must stay in the training process (no loader workers).
    """

    def __init__(self, config: SyntheticConfig, steps: int, seed: int = 0, rows: slice = slice(None)):
        """steps: of the run. rows: of a batch that this process renders."""
        self._config, self._steps, self._seed = config, steps, seed
        self._rows = range(config.batch_size)[rows]

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> Batch:
        config = self._config
        frames = int(np.random.default_rng([self._seed, step]).integers(*config.frames, endpoint=True))
        clips, names = zip(*(self._clip(step, row, frames) for row in self._rows), strict=True)
        names = tuple(f"{name}, seed {self._seed}, step {step}" for name in names)
        return Batch({name: np.stack([clip[name] for clip in clips]) for name in clips[0]}, names)

    def _clip(self, step: int, row: int, frames: int) -> tuple[dict[str, np.ndarray], str]:
        config = self._config
        generator = np.random.default_rng([self._seed, step, row + 1])
        kind, look = (options[generator.integers(len(options))] for options in (config.kinds, config.looks))
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self._seed), step), row)
        speed = jnp.float32(np.exp(generator.uniform(*np.log(config.speed))))
        arrays = jax.device_get(
            _render(key, speed, frames, config.height, config.width, kind, look, config.query_points)
        )
        arrays = {name: array for name, array in arrays.items() if array.size}
        return arrays, f"synthetic {kind} looking {look}, clip {row}"


@partial(jax.jit, static_argnums=(2, 3, 4, 5, 6, 7))
def _render(
    key: jax.Array, speed: jax.Array, frames: int, height: int, width: int, kind: Kind, look: Look, queries: int
) -> dict[str, jax.Array]:
    """The arrays of one clip by name, images rounded to uint8 as a camera does."""
    rendered: Clip = clip(key, frames, height, width, kind=kind, look=look, speed=speed, queries=queries)
    arrays = {field.name: getattr(rendered, field.name) for field in fields(rendered)}
    images = jnp.round(255 * jnp.clip(arrays["images"], 0, 1)).astype(jnp.uint8)
    return {name: arrays[name] for name in FIELDS} | {"images": images}
