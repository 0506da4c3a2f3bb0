"""Poses of people in close contact from unposed volumes around their pelvis-neck axes (the volumetric estimator)."""
