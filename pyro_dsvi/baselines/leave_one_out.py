r"""The other particles as the baseline.

.. math:: b_k = B(\ell_1, \dots, \bar\ell_{-k}, \dots, \ell_K), \qquad
    \bar\ell_{-k} = \tfrac{1}{K-1} \textstyle\sum_{j \ne k} \ell_j

Under the evidence lower bound this is RLOO, applied to each site's own downstream credit and to
each plate element; under IWAE it is VIMCO.

References:
    :cite:p:`kool2019buy`, :cite:p:`mnih2016vimco`
"""

from torch import Tensor

from pyro_dsvi.baselines.baseline import Baseline
from pyro_dsvi.baselines.visit import Visit


class LeaveOneOut(Baseline):
    """Costs no further evaluation: the particles that are there anyway serve one another.

    Needs at least two particles; an objective with one refuses it by name.

    Example:
        >>> import pyro_dsvi as dsvi
        >>> elbo = dsvi.ScoreFunctionELBO(dsvi.baselines.LeaveOneOut(), num_particles=4)
    """

    min_particles: int = 2

    def predict(self, visit: Visit) -> Tensor:
        return visit.leave_one_out()
