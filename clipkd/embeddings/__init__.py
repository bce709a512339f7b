"""The embeddings stage: the teacher is run once, everything else reads what it left."""
