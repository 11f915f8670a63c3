"""What notebooks and dashboards show.

In: slides on disk, results from the catalogue. Out: widgets. Nothing here computes an answer; the
one thing that flows back is what a person picked. Every text reaches the browser as text, never
as HTML, and nothing is fetched from outside: pixels travel over the widget's own channel.
"""
