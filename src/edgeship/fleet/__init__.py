"""Many models on many devices: one preparation for each model, its trials on the workers of a cluster."""
