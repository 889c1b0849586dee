"""What a fit is worth: its gradients, and how near the guide is to the posterior."""

from pyro_dsvi.diagnostics.auto_select import auto_select
from pyro_dsvi.diagnostics.bound_decomposition import BoundDecomposition, bound_decomposition
from pyro_dsvi.diagnostics.budget import Draws, Seconds
from pyro_dsvi.diagnostics.calibration import Calibration, calibration
from pyro_dsvi.diagnostics.certificate import Certificate, Row, Verdict, compare
from pyro_dsvi.diagnostics.check_unbiased import check_unbiased
from pyro_dsvi.diagnostics.compare_estimators import compare_estimators
from pyro_dsvi.diagnostics.comparison import Comparison, Measurement, Quality
from pyro_dsvi.diagnostics.decomposition import Decomposition, Part, PlateSplit, Split
from pyro_dsvi.diagnostics.enumeration import Enumeration
from pyro_dsvi.diagnostics.gradient import Gradient
from pyro_dsvi.diagnostics.importance_weights import importance_weights
from pyro_dsvi.diagnostics.log_evidence import LogEvidence, log_evidence
from pyro_dsvi.diagnostics.second_estimator import SecondEstimator
from pyro_dsvi.diagnostics.simulated_calibration import SimulatedCalibration
from pyro_dsvi.diagnostics.variance_decomposition import variance_decomposition
from pyro_dsvi.diagnostics.vsbc import vsbc
from pyro_dsvi.diagnostics.weights import ImportanceWeights, WeightGroup

__all__ = [
    "BoundDecomposition",
    "Calibration",
    "Certificate",
    "Comparison",
    "Decomposition",
    "Draws",
    "Enumeration",
    "Gradient",
    "ImportanceWeights",
    "LogEvidence",
    "Measurement",
    "Part",
    "PlateSplit",
    "Quality",
    "Row",
    "SecondEstimator",
    "Seconds",
    "SimulatedCalibration",
    "Split",
    "Verdict",
    "WeightGroup",
    "auto_select",
    "bound_decomposition",
    "calibration",
    "check_unbiased",
    "compare",
    "compare_estimators",
    "importance_weights",
    "log_evidence",
    "variance_decomposition",
    "vsbc",
]
