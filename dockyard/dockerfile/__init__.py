"""What a build is written in: Dockerfiles, .dockerignore files, addresses of git contexts.

Standard library and oci/ alone, so that clients have it too.
"""
