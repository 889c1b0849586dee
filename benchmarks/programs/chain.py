r"""A chain of Bernoulli latents, :math:`z_i \mid z_{i-1}`, in model and guide alike.

The guide's logits are :math:`\eta_{i0} + \eta_{i1} z_{i-1}`, all in one parameter.  Written as for
Pyro's ``TraceGraph_ELBO``: the sites depend on each other through tensors, so that what each draw
is answerable for can be found.
"""

import pyro
import pyro.distributions as dist
import torch

from benchmarks.problem import Program


def chain(sites: int, *, observed: str) -> Program:
    """Build the chain.

    Args:
        sites: how many latents.
        observed: ``"each"`` for an observation at each site, ``"end"`` for one at the last.
    """
    data = torch.randn(sites).unbind()
    eta = 0.5 * torch.randn(sites, 2)

    def model():
        z = torch.tensor(0.0)
        for i in range(sites):
            z = pyro.sample(f"z{i}", dist.Bernoulli(logits=1.6 * z - 0.8))
            if observed == "each" or i == sites - 1:
                pyro.sample(f"x{i}", dist.Normal(z, 1.0), obs=data[i])

    def guide():
        logits = pyro.param("eta", lambda: eta)
        z = torch.tensor(0.0)
        for i in range(sites):
            z = pyro.sample(f"z{i}", dist.Bernoulli(logits=logits[i, 0] + logits[i, 1] * z))

    return Program(model, guide)
