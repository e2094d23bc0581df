"""Kernels of the coupled market: accounts that meet in a fund, in auto-deleveraging, and in the price they push."""
