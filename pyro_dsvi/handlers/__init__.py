"""Effect handlers around a step or a guide: one a file."""

from pyro_dsvi.handlers.antithetic import antithetic
from pyro_dsvi.handlers.common_random_numbers import common_random_numbers
from pyro_dsvi.handlers.flipout import flipout
from pyro_dsvi.handlers.local_reparameterization import local_reparameterization
from pyro_dsvi.handlers.quasi_monte_carlo import quasi_monte_carlo

__all__ = [
    "antithetic",
    "common_random_numbers",
    "flipout",
    "local_reparameterization",
    "quasi_monte_carlo",
]
