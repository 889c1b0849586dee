"""Logistic regression on scikit-learn's breast cancer data, minibatches of 64, ``AutoNormal``."""

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from sklearn.datasets import load_breast_cancer

from benchmarks.training import Program


def logistic_regression(minibatch: int = 64) -> Program:
    """Build it; the features are standardised."""
    features, labels = load_breast_cancer(return_X_y=True)
    x = torch.as_tensor((features - features.mean(0)) / features.std(0), dtype=torch.float32)
    y = torch.as_tensor(labels, dtype=torch.float32)

    def model(x, y):
        weights = pyro.sample("weights", dist.Normal(torch.zeros(x.shape[1]), 1.0).to_event(1))
        bias = pyro.sample("bias", dist.Normal(0.0, 5.0))
        with pyro.plate("data", len(x), subsample_size=minibatch) as rows:
            pyro.sample("y", dist.Bernoulli(logits=x[rows] @ weights + bias), obs=y[rows])

    return Program(model, AutoNormal(model), (x, y))
