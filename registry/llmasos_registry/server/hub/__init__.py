"""Face 1: the Hugging Face Hub API."""
