"""Putting it into service."""
