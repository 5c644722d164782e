"""Data modules over integer tensors, and a person's own files as rows of a model."""
