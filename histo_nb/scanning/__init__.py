"""Glass → slides in the catalogue.

In: glass slides (virtual here), or files that a scanner wrote. Out: one catalogue row and one
pyramidal file a slide; what cannot be used lies in quarantine with its reason.
"""
