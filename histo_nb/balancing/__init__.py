"""Labelled tiles → split, certificate, balanced training set.

In: a table of labelled tiles. Out: a data set folder: training rows with their split and their
balanced copies, the certificate that nothing leaks, the pixels, and their statistics.
"""
