"""Slide + production model → regions, heatmap, slide class.

In: a slide row and the bundle in production. Out: one `SlideResult` a slide, in the catalogue and
in a folder of its own. Reading results loads no torch.
"""
