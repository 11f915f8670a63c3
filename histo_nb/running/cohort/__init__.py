"""Many slides: what comes in is a list of slides, what goes out a table with one row a slide.

The ledger in the catalogue says what is done, and survives everything; the engine that runs the
work (this process, Dask's workers here or elsewhere) is replaceable and may die at any moment.
"""
