"""Kernels of accounts whose positions share one wallet: cross and portfolio margin (MODEL §4)."""
