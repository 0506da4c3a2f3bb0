"""`results/report.html`: how good a run is, frame by frame, and which frames not to trust."""
