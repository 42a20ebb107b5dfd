"""Quantization-aware training: the exported program with the rounding of its deployed graph, on the user's data."""
