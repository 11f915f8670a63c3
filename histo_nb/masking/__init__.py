"""Slide → tissue mask.

In: catalogue rows of slides. Out: one mask a slide, a PNG that knows its scale, its quality, how it
was made and who corrected it; and what could not be masked with its reason.
"""
