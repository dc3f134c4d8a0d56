"""Measurements that are part of the product."""
