"""Heads: what is compressed with a model, and how. A recipe's YAML names one; all are a `toolkit.run.Head`."""
