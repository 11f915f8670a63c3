"""The service: slides come in, answers go out, unattended. `histo-nb serve --watch FOLDER …`.

One supervisor with parts, each a process of its own: `intake` (one a hot folder), `dicom`,
`analysis`, `pages`. A part is told what to do on its stdin, says on its stdout that it is well, and
ends when its supervisor has gone. What a part loses by being killed, it does again; what it had
finished lies in the catalogue.
"""
