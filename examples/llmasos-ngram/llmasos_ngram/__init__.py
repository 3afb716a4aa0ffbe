"""n-gram language models for LLMasOS."""
