"""The registry of LLMasOS: one server that stock clients talk to, and the client that resolves, locks, verifies and installs."""
