"""Wheels, read and checked without being installed."""
