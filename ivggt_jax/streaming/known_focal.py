"""A stream whose focal length is known: what the network says of it is counted, and replaced."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from ivggt_jax import geometry
from ivggt_jax.model.vggt import Predictions


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KnownFocal:
    """What is known of B cameras, and what the network thought of them."""

    length: jax.Array
    """[B,2] along x and y, in pixels of the input."""
    said: jax.Array
    """[B,2] sums of the logarithms of the focal lengths that the network said..."""
    frames: jax.Array
    """[B] int32: ... of so many frames."""

    @classmethod
    def of(cls, length: jax.Array) -> "KnownFocal":
        """Lengths [B,2] before the first frame."""
        return cls(length, jnp.zeros(length.shape), jnp.zeros(length.shape[:1], jnp.int32))

    def corrected(self, found: Predictions) -> tuple["KnownFocal", Predictions]:
        """Predictions [B,S,…] as they are with the known focal length, and what was counted.

        A scene seen with the focal length f at the depth z looks as one with c·f at c·z does, if the camera moves sideways. So
        depth is multiplied by c: then points keep their distance from the axis, and agree with pixels and poses. It is known
        over what was said in the mean so far, for that wavers from frame to frame more than it errs.
        """
        pose = found.pose_encoding
        height, width = found.depth.shape[-2:]
        camera, said = geometry.cameras_from_pose(pose, height, width)
        counted = self._counted(jnp.stack((said[..., 0, 0], said[..., 1, 1]), axis=-1))
        mean = counted.said / jnp.maximum(counted.frames, 1)[:, None]
        away = jnp.where(counted.frames > 0, jnp.mean(jnp.log(self.length) - mean, axis=-1), 0)
        ratio = jnp.broadcast_to(jnp.exp(away)[:, None], pose.shape[:-1])
        view = 2 * jnp.arctan(jnp.asarray((height, width)) / (2 * self.length[:, ::-1]))
        view = jnp.broadcast_to(view[:, None], (*pose.shape[:-1], 2))
        points = found.points
        if points is not None:
            flat = geometry.transform_points(camera, points.reshape(*pose.shape[:-1], -1, 3))
            flat = flat * jnp.stack((jnp.ones_like(ratio), jnp.ones_like(ratio), ratio), axis=-1)[..., None, :]
            points = geometry.transform_points(geometry.invert(camera), flat).reshape(points.shape)
        return counted, replace(
            found,
            pose_encoding=jnp.concatenate((pose[..., :7], view), axis=-1),
            depth=found.depth * ratio[..., None, None],
            points=points,
        )

    def _counted(self, lengths: jax.Array) -> "KnownFocal":
        """With the focal lengths [B,S,2] that frames said, of those that are some: fewer than 180 degrees across."""
        sound = jnp.all((lengths > 0) & jnp.isfinite(lengths), axis=-1, keepdims=True)
        said = jnp.sum(jnp.where(sound, jnp.log(jnp.where(sound, lengths, 1)), 0), axis=1)
        return replace(self, said=self.said + said, frames=self.frames + jnp.sum(sound, axis=(1, 2)))
