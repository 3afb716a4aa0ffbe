"""Metrics: what one document contributes, and the value over all of them."""
