"""Many containers as one application: the Compose Specification, on the client of the Engine API alone.

model/   what the files say: load, merge, interpolate, validate
plan/    what there is, what must change for it to be as the files say, and in which order
run/     doing it, and showing what is being done
"""
