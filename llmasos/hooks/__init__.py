"""Hook specifications and the four ways to call them."""
