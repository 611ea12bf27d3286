"""A stream with a known focal length: it replaces the predicted one, and depth is corrected to match."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from ivggt_jax import geometry
from ivggt_jax.model.vggt import Predictions


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KnownFocal:
    """Known focal lengths of B cameras, with statistics of the predicted ones."""

    length: jax.Array
    """[B,2] known, along x and y, in pixels of the input."""
    mean: jax.Array
    """[B,2] mean logarithm of the predicted focal lengths. A sum would lose its last digits on a long stream."""
    frames: jax.Array
    """[B] int32: frames in that mean."""

    @classmethod
    def of(cls, length: jax.Array) -> "KnownFocal":
        """Known lengths [B,2], before the first frame."""
        return cls(length, jnp.zeros(length.shape, jnp.float32), jnp.zeros(length.shape[:1], jnp.int32))

    def corrected(self, found: Predictions) -> tuple["KnownFocal", Predictions]:
        """Predictions [B,S,…] corrected to the known focal length, and the updated statistics.

        For a camera that moves sideways, a scene seen with focal length f at depth z looks like one seen with c·f at depth c·z.
        So depth is multiplied by c; points then keep their distance from the optical axis and agree with pixels and poses. c is
        the known length over the geometric mean of the predicted ones so far, because predictions vary from frame to frame more
        than they are biased.
        """
        pose = found.pose_encoding
        height, width = found.depth.shape[-2:]
        camera, said = geometry.cameras_from_pose(pose, height, width)
        mean, frames = self._counted(jnp.stack((said[..., 0, 0], said[..., 1, 1]), axis=-1))
        away = jnp.mean(jnp.log(self.length)[:, None] - mean, axis=-1)
        ratio = jnp.exp(jnp.where(frames > 0, away, 0))
        view = 2 * jnp.arctan(jnp.asarray((height, width)) / (2 * self.length[:, ::-1]))
        view = jnp.broadcast_to(view[:, None], (*pose.shape[:-1], 2))
        points = found.points
        if points is not None:
            flat = geometry.transform_points(camera, points.reshape(*pose.shape[:-1], -1, 3))
            flat = flat * jnp.stack((jnp.ones_like(ratio), jnp.ones_like(ratio), ratio), axis=-1)[..., None, :]
            points = geometry.transform_points(geometry.invert(camera), flat).reshape(points.shape)
        return replace(self, mean=mean[:, -1], frames=frames[:, -1]), replace(
            found,
            pose_encoding=jnp.concatenate((pose[..., :7], view), axis=-1),
            depth=found.depth * ratio[..., None, None],
            points=points,
        )

    def _counted(self, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The mean [B,S,2] and its number of frames [B,S] after each of the predicted focal lengths [B,S,2].

        Invalid ones, whose field of view is 180 degrees or more, do not count. Later frames of a pass have no influence.
        """
        sound = jnp.all((lengths > 0) & jnp.isfinite(lengths), axis=-1, keepdims=True)
        away = jnp.where(sound, jnp.log(jnp.where(sound, lengths, 1)) - self.mean[:, None], 0)
        frames = self.frames[:, None] + jnp.cumsum(sound[..., 0], axis=1, dtype=jnp.int32)
        mean = self.mean[:, None] + jnp.cumsum(away, axis=1) / jnp.maximum(frames, 1)[..., None]
        return mean, frames
