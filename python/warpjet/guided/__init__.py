"""Constrained decoding: from a constraint to a grammar to masks."""
