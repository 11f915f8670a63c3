"""Mask → tile table, labels.

In: slides, their masks and, where there are any, files of annotations; labels by hand come from the
catalogue. Out: one row a tile; a row alone is enough to read and to draw its tile. And a ledger of
what is missing.
"""
