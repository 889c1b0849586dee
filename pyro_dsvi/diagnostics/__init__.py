"""What a fit is worth: whether its gradients are those of its bound."""

from pyro_dsvi.diagnostics.calibration import Calibration, calibration
from pyro_dsvi.diagnostics.certificate import Certificate, Row, Verdict, compare
from pyro_dsvi.diagnostics.check_unbiased import check_unbiased
from pyro_dsvi.diagnostics.enumeration import Enumeration
from pyro_dsvi.diagnostics.gradient import Gradient
from pyro_dsvi.diagnostics.second_estimator import SecondEstimator

__all__ = [
    "Calibration",
    "Certificate",
    "Enumeration",
    "Gradient",
    "Row",
    "SecondEstimator",
    "Verdict",
    "calibration",
    "check_unbiased",
    "compare",
]
