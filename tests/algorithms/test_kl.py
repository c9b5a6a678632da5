"""The estimate of the KL divergence."""

import jax.numpy as jnp
import numpy as np

from r1jax.algorithms import kl


def test_k3_is_never_negative_and_estimates_the_kl():
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(5), size=2)
    k3 = kl.k3_kl(jnp.log(p), jnp.log(q))
    assert (k3 >= 0).all()
    np.testing.assert_allclose((p * k3).sum(), (p * np.log(p / q)).sum(), rtol=1e-5)
