"""What every estimator, bound and baseline must hold to, from one list of cases."""
