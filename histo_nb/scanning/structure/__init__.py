"""Is a slide file whole, and safe to hand to a reader? Asked before anything opens it.

In: an unknown file, read by its bytes alone, within bounds. Out: nothing, or the error that says
what is wrong with it. Which formats are looked at how is told in `docs/damage.md`.
"""
