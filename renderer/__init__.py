"""Layered volume rendering of people: canonical radiance fields, inverse skinning, sampling, compositing.

Tensors in, tensors out: nothing here knows files, sequences or body-model files.
"""
