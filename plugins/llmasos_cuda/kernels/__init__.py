"""Triton kernels, each beside the function that launches it. Importing them needs triton, not a device."""
