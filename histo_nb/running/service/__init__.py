"""The service, unattended: `histo-nb serve --watch FOLDER …`.

In: slides in hot folders and by DICOM, the model in production. Out: results in the catalogue and
on the pages; a log without names, and `histo-nb status`.

One supervisor with parts, each a process of its own: `intake` (one a hot folder), `dicom`,
`analysis`, `pages`. A part is told what to do on its stdin, says on its stdout that it is well, and
ends when its supervisor has gone. What a part loses by being killed it does again; what it had
finished lies in the catalogue.
"""
