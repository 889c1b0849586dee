"""The stochastic computation graph of a pair of programs, to be asked and to be looked at."""
