"""Files for animators: people in motion written in the formats of other programs.

`exporter.export_people` does all of it; every format has a module of its own, `scene` is what they are given.
"""
