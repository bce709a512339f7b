"""The runs stage: one loop trains a student with any method, recipe and teacher signal."""
