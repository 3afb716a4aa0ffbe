"""From requests to responses: token ids, engines, generation."""
