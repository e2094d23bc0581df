"""Lanes through the kernels or the naive oracle, and the book of what became of them."""
