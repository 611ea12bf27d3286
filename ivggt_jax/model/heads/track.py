"""Point tracker (CoTracker, arXiv 2307.07635): refines all points in all frames jointly, iteration by iteration."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from ivggt_jax.config import ModelConfig
from ivggt_jax.model.heads.correlation import correlate, pyramid, sample
from ivggt_jax.model.heads.update_transformer import UpdateTransformer
from ivggt_jax.model.layers import Mlp, gelu, layer_norm, linear

STRIDE = 2
"""Pixels of the model's input per pixel of a feature map."""
FLOW_SCALE = 518
"""Feature-map pixels by which displacements in the flow embedding are divided: the training size, whatever the input's size."""


class Tracker(nnx.Module):
    """Follows query points of frame 0 through a set of feature maps.

    Each iteration correlates a point's features with the maps around its current position, exchanges the results among points and
    frames (`UpdateTransformer`), and updates position and features.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        features = config.track_features
        offsets = (2 * config.track_radius + 1) ** 2
        width = token_width(features)
        self.iterations, self.levels, self.radius = config.track_iterations, config.track_levels, config.track_radius
        self.map_norm = layer_norm(features, epsilon=1e-5, rngs=rngs)
        self.correlation_mlp = Mlp(config.track_levels * offsets, config.track_hidden, features, rngs=rngs)
        self.frame_tokens = nnx.Param(jax.random.normal(rngs.params(), (2, width)))
        self.transformer = UpdateTransformer(config, width, features + 2, rngs=rngs)
        # The published network uses a group norm with one group per token, which is a LayerNorm.
        self.feature_norm = layer_norm(features, epsilon=1e-5, rngs=rngs)
        self.feature_update = linear(features, features, rngs=rngs)
        self.visibility = linear(features, 1, rngs=rngs)
        self.confidence = linear(features, 1, rngs=rngs)

    def __call__(
        self,
        feature_maps: jax.Array | np.ndarray,
        query_points: jax.Array | np.ndarray,
        *,
        start: jax.Array | np.ndarray | None = None,
        live: jax.Array | np.ndarray | None = None,
        iterations: int | None = None,
    ) -> tuple[Float[Array, "B S N 2"], Float[Array, "B S N"], Float[Array, "B S N"]]:
        """Tracks [B,S,N,2] in pixels of the model's input, visibility and confidence [B,S,N] in [0,1].

        Args:
            feature_maps: [B,S,h,w,features] float32, at half the input's resolution; the queries are in frame 0.
            query_points: [B,N,2] float32, (x,y) in pixels of the model's input.
            start: [B,S,N,2], initial positions in pixels; by default the queries. Frame 0 always starts at the queries.
            live: bool [B,S], the frames that take part; frame 0 must. The others influence nothing, whatever they hold, and
                what is returned for them means nothing.
            iterations: refinements; by default the configuration's number.

        Raises ValueError when shapes do not fit together.
        """
        _check(feature_maps, query_points, start, live, self.map_norm.num_features)
        feature_maps = jnp.asarray(feature_maps, jnp.float32)
        queries = jnp.asarray(query_points, jnp.float32) / STRIDE
        at_queries = jnp.broadcast_to(queries[:, None], (*feature_maps.shape[:2], *queries.shape[1:]))
        coordinates = at_queries if start is None else (jnp.asarray(start, jnp.float32) / STRIDE).at[:, 0].set(queries)
        live = None if live is None else jnp.asarray(live)
        if live is not None:
            # Frames interact only through attention over time. Its mask is enough once the dead frames hold finite numbers.
            feature_maps = jnp.where(live[:, :, None, None, None], feature_maps, 0)
            coordinates = jnp.where(live[:, :, None, None], coordinates, at_queries)

        maps = pyramid(self.map_norm(feature_maps), self.levels)
        context = self._context(queries, feature_maps.shape)
        features = jax.vmap(sample)(maps[0][:, 0], queries[..., ::-1])
        features = jnp.broadcast_to(features[:, None], (*at_queries.shape[:-1], features.shape[-1]))

        def refine(carry: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], None]:
            coordinates, features = carry
            # As published. Gradients through positions would explode, because the embedding has waves of up to 1000 radians a
            # pixel.
            coordinates = lax.stop_gradient(coordinates)
            correlation = self.correlation_mlp(correlate(features, maps, coordinates, self.radius))
            flow = flow_embedding(coordinates - coordinates[:, :1], features.shape[-1] // 2)
            tokens = jnp.concatenate([flow, correlation, features], axis=-1) + context
            change = self.transformer(tokens, live)
            features = features + gelu(self.feature_update(self.feature_norm(change[..., 2:])))
            coordinates = (coordinates + change[..., :2]).at[:, 0].set(queries)
            return (coordinates, features), None

        steps = self.iterations if iterations is None else iterations
        # The backward pass stores only what goes from one iteration to the next, not the patches and tokens within.
        (coordinates, features), _ = lax.scan(jax.checkpoint(refine), (coordinates, features), length=steps)
        visibility, confidence = (
            jax.nn.sigmoid(predict(features)[..., 0]) for predict in (self.visibility, self.confidence)
        )
        return coordinates * STRIDE, visibility, confidence

    def _context(self, queries: Float[Array, "B N 2"], shape: tuple[int, ...]) -> Float[Array, "B S N width"]:
        """What is added to the tokens [B,S,N,width]: embeddings of the query position and of whether this is the query frame."""
        frames, height, width = shape[1:4]
        position = position_embedding(queries, height, width, self.frame_tokens.shape[-1])
        first, other = self.frame_tokens[0], self.frame_tokens[1]
        is_first = (jnp.arange(frames) == 0)[:, None, None]
        return position[:, None] + jnp.where(is_first, first, other)


def token_width(features: int) -> int:
    """Channels of a token: flow embedding (`features` + 4), correlation and point features."""
    return 3 * features + 4


def flow_embedding(flow: Float[Array, "*axes 2"], channels: int) -> Float[Array, "*axes 2*{channels}+4"]:
    """Displacements [...,2] in feature-map pixels → [..., 2·channels + 4].

    For x, then y: alternating sine and cosine at the frequencies 1000·(0, 2, …, channels − 2)/channels; then the scaled
    displacement, twice.
    """
    frequencies = np.arange(0, channels, 2, dtype=np.float32) * np.float32(1000 / channels)
    angles = flow[..., None] * frequencies
    waves = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(*flow.shape[:-1], 2 * channels)
    return jnp.concatenate([waves, flow / FLOW_SCALE, flow / FLOW_SCALE], axis=-1)


def position_embedding(
    points: Float[Array, "B N 2"], height: int, width: int, channels: int
) -> Float[Array, "B N {channels}"]:
    """Sine-cosine embedding of points [B,N,2], in feature-map pixels → [B,N,channels].

    Half of the channels are for x, half for y; each half has sines, then cosines, at channels/4 frequencies
    10000^(−i/(channels/4)). They are tabulated at whole pixels and interpolated along their axis; points outside get the border's
    values.
    """
    frequencies = 10000.0 ** (-np.arange(channels // 4) / (channels // 4))
    halves = []
    for axis, size in enumerate((width, height)):
        angles = np.arange(size)[:, None] * frequencies
        table = jnp.asarray(np.concatenate([np.sin(angles), np.cos(angles)], axis=-1), jnp.float32)
        halves.append(sample(table, points[..., axis : axis + 1]))
    return jnp.concatenate(halves, axis=-1)


def _check(
    feature_maps: jax.Array | np.ndarray,
    query_points: jax.Array | np.ndarray,
    start: jax.Array | np.ndarray | None,
    live: jax.Array | np.ndarray | None,
    features: int,
) -> None:
    if feature_maps.ndim != 5 or feature_maps.shape[-1] != features:
        raise ValueError(f"feature_maps must be [batch,frame,height,width,{features}], not {feature_maps.shape}")
    batch, frames = feature_maps.shape[:2]
    if query_points.ndim != 3 or query_points.shape[::2] != (batch, 2) or not query_points.shape[1]:
        raise ValueError(f"query_points must be [{batch},points,2] with a point at least, not {query_points.shape}")
    wanted = (batch, frames, *query_points.shape[1:])
    if start is not None and start.shape != wanted:
        raise ValueError(f"start must be {list(wanted)}, not {start.shape}")
    if live is not None and live.shape != (batch, frames):
        raise ValueError(f"live must be {[batch, frames]}, not {live.shape}")
