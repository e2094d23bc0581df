"""The doors: a table of positions, strategies under policies, and a specification."""
