"""Codecs of integers on a lattice, each under a table that its neighbours choose."""
