"""Train probabilistic models and turn them into working compressors."""
