"""What a fit is worth: whether its gradients are those of its bound."""

from pyro_dsvi.diagnostics.certificate import Certificate, Row, Verdict, compare
from pyro_dsvi.diagnostics.check_unbiased import check_unbiased
from pyro_dsvi.diagnostics.decomposition import BoundDecomposition, bound_decomposition
from pyro_dsvi.diagnostics.enumeration import Enumeration
from pyro_dsvi.diagnostics.gradient import Gradient
from pyro_dsvi.diagnostics.log_evidence import LogEvidence, log_evidence
from pyro_dsvi.diagnostics.second_estimator import SecondEstimator

__all__ = [
    "BoundDecomposition",
    "Certificate",
    "Enumeration",
    "Gradient",
    "LogEvidence",
    "Row",
    "SecondEstimator",
    "Verdict",
    "bound_decomposition",
    "check_unbiased",
    "compare",
    "log_evidence",
]
