"""Results as DICOM objects that refer to the slide they are about, and their way to an archive.

In: a slide's result, the DICOM series of the slide. Out: a segmentation of probabilities, one of
the abnormal regions, annotations, a structured report; sent by C-STORE, read back.
"""
