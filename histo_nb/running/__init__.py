"""A notebook, a cohort, a page, the command line.

In: a home, and what a person asks for. Out: executed notebooks in `runs/`, pages on 127.0.0.1, and
exit codes. Nothing imports this room.
"""
