"""Evaluation: tasks, few-shot draws, filters, metrics, the scorer and the record."""
