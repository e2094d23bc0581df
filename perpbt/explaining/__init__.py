"""One position worked out step by step: what a person says about it, and the formulas that answer."""
