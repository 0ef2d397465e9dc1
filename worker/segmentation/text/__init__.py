"""Label words -> text embeddings: prompts, negatives, caches."""
