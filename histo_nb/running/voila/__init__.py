"""Voila as we serve it: closed by default, with our own page and nothing fetched from outside.

In: a folder of dashboards, as a line of JSON on stdin. Out: pages on 127.0.0.1, and their port on
stdout. `histo_nb.running.serve` starts it in a process of its own.
"""
