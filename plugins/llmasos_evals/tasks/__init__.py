"""Tasks: from a task file to documents, prompts, requests, and what the answers are worth."""
