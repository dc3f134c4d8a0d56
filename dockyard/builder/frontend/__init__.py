"""From a Dockerfile into a graph: what its instructions mean, once all variables are replaced."""
