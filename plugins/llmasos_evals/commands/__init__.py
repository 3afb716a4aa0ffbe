"""Commands of `llmasos eval` and `llmasos data`, a module each."""
