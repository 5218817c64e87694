"""Keras's conventions behind :class:`~numba_rnnlm.sequential.Sequential`: arrays, weights, and fitting examples."""
