"""Made-up markets. Each module of this folder is one scenario: parameters and a seed come in, bars go out."""
