"""Values over a task, their standard errors and intervals, and comparisons of runs."""
