"""The kernel: finds plugins without importing them, loads one when it is used, and knows only hooks and contracts."""
