"""Frames to arrays: prices, signals, rules and margin rates as kernels read them."""
