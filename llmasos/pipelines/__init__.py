"""Thin drivers that the command line and Python users call. Each takes the Hub first."""
