"""The CPU back end: prepacked oneDNN operators and a native library of kernels."""
