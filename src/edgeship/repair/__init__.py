"""Repairs of post-training quantization: steps from one FP32 graph to another that rounds with less noise."""
