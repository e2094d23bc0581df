"""What holds for a whole run, from its options to its result."""
