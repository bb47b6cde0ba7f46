"""The twin net from scratch in NumPy and Numba; compare alone imports torch, to measure against it."""
