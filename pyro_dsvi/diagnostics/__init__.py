"""What a fit is worth: its gradients, and how near the guide is to the posterior."""

from pyro_dsvi.diagnostics.budget import Draws, Seconds
from pyro_dsvi.diagnostics.certificate import Certificate, Row, Verdict, compare
from pyro_dsvi.diagnostics.check_unbiased import check_unbiased
from pyro_dsvi.diagnostics.compare_estimators import compare_estimators
from pyro_dsvi.diagnostics.comparison import Comparison, Measurement, Quality
from pyro_dsvi.diagnostics.decomposition import Decomposition, Part, PlateSplit, Split
from pyro_dsvi.diagnostics.enumeration import Enumeration
from pyro_dsvi.diagnostics.gradient import Gradient
from pyro_dsvi.diagnostics.second_estimator import SecondEstimator
from pyro_dsvi.diagnostics.variance_decomposition import variance_decomposition

__all__ = [
    "Certificate",
    "Comparison",
    "Decomposition",
    "Draws",
    "Enumeration",
    "Gradient",
    "Measurement",
    "Part",
    "PlateSplit",
    "Quality",
    "Row",
    "SecondEstimator",
    "Seconds",
    "Split",
    "Verdict",
    "check_unbiased",
    "compare",
    "compare_estimators",
    "variance_decomposition",
]
