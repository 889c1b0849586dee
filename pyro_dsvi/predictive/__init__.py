"""The posterior predictive: probabilities averaged over the posterior's draws, and nothing else."""

from pyro_dsvi.predictive.classes import ClassPrediction
from pyro_dsvi.predictive.mixture import MixturePrediction
from pyro_dsvi.predictive.predict import predict
from pyro_dsvi.predictive.prediction import LogScore, Prediction

__all__ = ["ClassPrediction", "LogScore", "MixturePrediction", "Prediction", "predict"]
