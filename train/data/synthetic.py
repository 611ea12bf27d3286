"""Batches of synthetic clips with exact ground truth, rendered for each step from the seed."""

import itertools
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from ivggt_jax.synthetic import Clip, clip, measure, random_defects, random_sensor, taken
from ivggt_jax.synthetic.paths import Look
from ivggt_jax.synthetic.scenes import Kind
from ivggt_jax.train.data.batches import Batch

FIELDS = ("images", "depth", "valid", "points", "cam_from_world", "intrinsics", "query_points", "tracks", "visibility")
_SENSOR = 5
"""Number of the random stream of a clip's sensor. Those up to 4 are the clip's own: keys that `split` gives, and its bodies'."""
_DEFECTS = 6
"""Likewise that of its defects."""


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """Size and variety of synthetic batches. Raises ValueError for fields that make no sense."""

    batch_size: int = 4
    """Clips per batch, over all processes."""
    frames: tuple[int, int] = (8, 8)
    """Fewest and most frames of a clip; their number is drawn for each batch."""
    width: int = 112
    """Width of a frame in pixels; like the height a multiple of the patch size."""
    height: int = 84
    scales: tuple[float, ...] = (1.0,)
    """Factors on both sides of a frame to draw from for each batch, so that a network learns several sizes."""
    kinds: tuple[Kind, ...] = ("room", "street", "corridor")
    """Scenes to draw from."""
    looks: tuple[Look, ...] = ("ahead", "aside")
    """Directions of view to draw from."""
    speed: tuple[float, float] = (0.5, 4.0)
    """Slowest and fastest camera, relative to walking pace at 30 frames per second."""
    query_points: int = 0
    """Number of points of the first frame to track."""
    bodies: int = 0
    """Most bodies that move in a clip; their number is drawn from 0 to this."""
    defects: float = 0.0
    """Share of clips with noise, blur, other exposure or JPEG compression (`synthetic.random_defects`)."""
    sensor: tyro.conf.Suppress[bool] = False  # The command sets it from depth_input.
    """Also simulate a depth sensor, a different one for every clip (`synthetic.random_sensor`)."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")
        if self.bodies and self.query_points:
            raise ValueError(
                f"points are tracked in still scenes: of bodies {self.bodies} and query_points {self.query_points} one is 0"
            )
        if not 0 <= self.defects <= 1:
            raise ValueError(f"defects is a share from 0 to 1, not {self.defects}")
        if not self.scales or any(
            not (scale * side).is_integer() for scale in self.scales for side in (self.width, self.height)
        ):
            raise ValueError(f"scales must make whole pixels of {self.width}×{self.height}, not {self.scales}")
        for name in ("frames", "speed"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be (low, high) with 0 < low ≤ high, not {(low, high)}")
        if not self.kinds or not self.looks:
            raise ValueError(f"kinds {self.kinds} and looks {self.looks} need an entry each")

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Width and height of frames, for each of the scales."""
        return [(int(scale * self.width), int(scale * self.height)) for scale in self.scales]


class SyntheticBatches:
    """Batches rendered on the fly: a pure function of seed and step. Different seeds give different scenes.

    Rendering runs on JAX's default device, and the arrays stay there, so it belongs in the training process, not in loader
    workers.
    """

    def __init__(self, config: SyntheticConfig, steps: int, seed: int = 0, rows: slice = slice(None)):
        """steps: length of the run. rows: the part of a batch that this process renders."""
        self._config, self._steps, self._seed = config, steps, seed
        self._rows = range(config.batch_size)[rows]

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> Batch:
        config = self._config
        generator = np.random.default_rng([self._seed, step])
        frames = int(generator.integers(*config.frames, endpoint=True))
        options = list(itertools.product(config.kinds, config.looks))
        # Options take turns, so that each has about as many clips, which are rendered together.
        turns = (np.arange(config.batch_size) + generator.integers(len(options))) % len(options)
        slowest, fastest = np.log(config.speed)
        speeds = np.exp(generator.uniform(slowest, fastest, config.batch_size)).astype(np.float32)
        if config.scales != (1.0,):
            width, height = config.sizes[generator.choice(len(config.scales))]
            config = replace(config, width=width, height=height, scales=(1.0,))
        parts, names = [], []
        for turn, (kind, look) in enumerate(options):
            rows = [row for row in self._rows if turns[row] == turn]
            if rows:
                parts.append(
                    _render(
                        self._seed, step, jnp.asarray(rows), jnp.asarray(speeds[rows]),
                        frames, kind, look, config,
                    )
                )  # fmt: skip
            names += [f"synthetic {kind} looking {look}, clip {row}, seed {self._seed}, step {step}" for row in rows]
        arrays = {name: jnp.concatenate([part[name] for part in parts]) for name in parts[0]}
        return Batch({name: array for name, array in arrays.items() if array.size}, tuple(names))


@partial(jax.jit, static_argnums=(4, 5, 6, 7))
def _render(
    seed: int,
    step: int,
    rows: jax.Array,
    speeds: jax.Array,
    frames: int,
    kind: Kind,
    look: Look,
    config: SyntheticConfig,
) -> dict[str, jax.Array]:
    """Arrays of the clips of some rows, by name; images are rounded to uint8, as by a camera."""
    of_step = jax.random.fold_in(jax.random.key(seed), step)

    def one(row: jax.Array, speed: jax.Array) -> Clip:
        return clip(
            jax.random.fold_in(of_step, row), frames, config.height, config.width,
            kind=kind, look=look, speed=speed, queries=config.query_points, bodies=config.bodies,
        )  # fmt: skip

    clips = jax.vmap(one)(rows, speeds)
    images = jnp.clip(clips.images, 0, 1)
    if config.defects:
        images = jax.vmap(partial(_spoilt, of_step, config.defects))(rows, images)
    images = jnp.round(255 * images).astype(jnp.uint8)
    arrays = {name: getattr(clips, name) for name in FIELDS} | {"images": images}
    if config.bodies:
        arrays["moving"] = clips.moving
    if config.sensor:
        arrays["sensor_depth"] = jax.vmap(partial(_measured, of_step))(rows, clips.depth)
    return arrays


def _spoilt(of_step: jax.Array, share: float, row: jax.Array, images: jax.Array) -> jax.Array:
    """Images [T,H,W,3] of a row's clip with random defects; they do not change the rest of the clip."""
    key, taking_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(of_step, row), _DEFECTS))
    return taken(taking_key, images, random_defects(key, share))


def _measured(of_step: jax.Array, row: jax.Array, depth: jax.Array) -> jax.Array:
    """Simulated sensor depth for a row's clip with true depth [T,H,W]; it does not change the rest of the clip."""
    sensor_key, key = jax.random.split(jax.random.fold_in(jax.random.fold_in(of_step, row), _SENSOR))
    return measure(key, random_sensor(sensor_key), depth)
