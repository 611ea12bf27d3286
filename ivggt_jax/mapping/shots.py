"""Whether two images can be neighbours in one shot: their details agree after a shift. Depends on the images alone.

The cross-correlation over all shifts is one product of Fourier transforms; its peak serves to detect cuts as in Porter, Mirmehdi
and Thomas, "Video cut detection using frequency domain correlation", ICPR 2000.
"""

import jax
import jax.numpy as jnp
import numpy as np


def details(levels: jax.Array) -> jax.Array:
    """What only the sharpest of levels [level,H,W] (`pyramid`) shows, [H,W], fading to 0 at the border; 0 where unknown."""
    window = np.outer(*(np.hanning(size + 2)[1:-1] for size in levels.shape[1:])).astype(np.float32)
    sharp = levels[-1] - levels[0]
    return jnp.where(jnp.isfinite(sharp), window * sharp, 0)


def agreement(one: jax.Array, other: jax.Array) -> jax.Array:
    """Correlation [] of the details of two images [H,W] at the shift at which they agree best; 0 if one of them has none."""
    spectra = jnp.fft.rfft2(jnp.stack((one, other)))
    product = jnp.fft.irfft2(spectra[0] * spectra[1].conj(), one.shape)
    spread = jnp.sqrt(jnp.sum(one**2) * jnp.sum(other**2))
    return jnp.where(spread > 0, jnp.max(product) / jnp.where(spread > 0, spread, 1), 0)
