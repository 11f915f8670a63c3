"""Data set → candidate → gate → production.

In: a data set folder. Out: a model bundle in the registry, its figures on patients never seen,
and the gate's word on it.
"""
