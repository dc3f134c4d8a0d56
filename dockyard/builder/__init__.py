"""The builder: a Dockerfile becomes stages, stages become steps, steps become layers and images."""
