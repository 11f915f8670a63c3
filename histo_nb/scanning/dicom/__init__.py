"""Whole-slide images in DICOM: received, checked, converted, freed of what names a patient.

In: instances by C-STORE or in a folder, slides to convert. Out: complete series for the intake
desk, series and copies in folders.
"""
