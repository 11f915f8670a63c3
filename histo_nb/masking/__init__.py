"""Slide → tissue mask.

In: catalogue rows of slides. Out: one mask a slide, a PNG that knows its scale and how it was
made, and what could not be masked with its reason.
"""
