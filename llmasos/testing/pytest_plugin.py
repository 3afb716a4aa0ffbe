"""pytest fixtures (filled in by the testing room)."""
