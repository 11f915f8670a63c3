"""The virtual scanner and what it scans: glass slides that are drawn, or laid from real images.

In: a spec of the rack. Out: whole-slide files as a 20x scanner writes them, with their truth.
"""
