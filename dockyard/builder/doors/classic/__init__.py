"""The classic API's door: `POST /build` as clients without BuildKit use it.

options.py      what a client may say
builds.py       the builds under way
build.py        one build: its stages, in the order of the Dockerfile, because the output numbers them so
steps.py        instructions → steps of the graph
vertices.py     what the classic builder does otherwise than BuildKit when a step is made
images.py       the policy of this door: an image after each step, found again by its parent
cache.py        which image came of which step on which image
client.py       what the graph asks of a client; this one has sent all it has at the beginning
output.py       what a build says
"""
