"""Training data and training of the volumetric estimator."""
