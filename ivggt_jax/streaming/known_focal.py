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
        depth is multiplied by c: then points keep their distance from the axis, and agree with pixels and poses.
        """
        pose = found.pose_encoding
        height, width = found.depth.shape[-2:]
        camera, said = geometry.cameras_from_pose(pose, height, width)
        lengths = jnp.stack((said[..., 0, 0], said[..., 1, 1]), axis=-1)
        sound = jnp.all(
            (lengths > 0) & jnp.isfinite(lengths), axis=-1, keepdims=True
        )  # no view of half a sphere or none
        lengths = jnp.where(sound, lengths, self.length[:, None])
        ratio = jnp.sqrt(jnp.prod(self.length[:, None] / lengths, axis=-1))
        view = 2 * jnp.arctan(jnp.asarray((height, width)) / (2 * self.length[:, ::-1]))
        view = jnp.broadcast_to(view[:, None], (*pose.shape[:-1], 2))
        points = found.points
        if points is not None:
            flat = geometry.transform_points(camera, points.reshape(*pose.shape[:-1], -1, 3))
            flat = flat * jnp.stack((jnp.ones_like(ratio), jnp.ones_like(ratio), ratio), axis=-1)[..., None, :]
            points = geometry.transform_points(geometry.invert(camera), flat).reshape(points.shape)
        counted = replace(
            self,
            said=self.said + jnp.sum(jnp.where(sound, jnp.log(lengths), 0), axis=1),
            frames=self.frames + jnp.sum(sound, axis=(1, 2)),
        )
        return counted, replace(
            found,
            pose_encoding=jnp.concatenate((pose[..., :7], view), axis=-1),
            depth=found.depth * ratio[..., None, None],
            points=points,
        )
