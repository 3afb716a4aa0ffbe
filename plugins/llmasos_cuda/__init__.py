"""The CUDA back end: Triton kernels for what PyTorch lacks or does slowly."""
