"""Doing what a plan says, and showing it."""
