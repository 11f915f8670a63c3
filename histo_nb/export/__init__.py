"""Results for other programs.

In: slide results. Out: files that QuPath and others open; no name, label or macro image in them.
"""
