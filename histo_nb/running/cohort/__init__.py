"""Many slides through all stages, on many processes.

In: slides of the catalogue, a folder or a table; the model in production.
Out: masks, tiles, results and reports; a table with a row a slide, and a page.

The ledger in the catalogue says what is done, and survives everything; the engine that runs the
work (this process, Dask's workers here or elsewhere) is replaceable and may die at any moment.
"""
