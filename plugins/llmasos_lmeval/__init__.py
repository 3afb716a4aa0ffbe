"""lm-evaluation-harness: every task of the installed package through our engine, and its own engine with our models."""
