"""A network's outputs → predictions."""
