"""Entropy coders on tensors: batched ANS messages, integer frequencies, invertible codecs. Knows torch only."""
