"""Ready models, each an ordinary Pyro model and guide."""

from pyro_dsvi.models.kernels import RBF, Kernel, Linear, Polynomial, median_distance
from pyro_dsvi.models.likelihoods import BernoulliLikelihood, GaussianLikelihood, Likelihood
from pyro_dsvi.models.relevance import FullRank, MeanField, Relevance
from pyro_dsvi.models.relevance_vector_machine import RelevanceVectorMachine

__all__ = [
    "RBF",
    "BernoulliLikelihood",
    "FullRank",
    "GaussianLikelihood",
    "Kernel",
    "Likelihood",
    "Linear",
    "MeanField",
    "Polynomial",
    "Relevance",
    "RelevanceVectorMachine",
    "median_distance",
]
