"""Keras's conventions behind :class:`~numba_rnnlm.sequential.Sequential`: arrays, and fitting examples."""
