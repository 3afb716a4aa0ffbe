"""Where the documents of tasks come from."""
