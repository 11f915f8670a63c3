"""Mask → tile table, labels.

In: slides, their masks and, where there are any, outlines with classes. Out: one row a tile; a
row alone is enough to read and to draw its tile.
"""
