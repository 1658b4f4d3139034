"""Steering vectors in the files and objects of other software."""
