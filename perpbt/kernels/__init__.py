"""Compiled loops: the only room that imports numba, and it imports nothing else of perpbt.

In and out: the tables of `tables`. The rules they follow are written out at each function.
"""
