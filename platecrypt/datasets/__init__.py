"""Datasets: importing, dividing, checking and describing the images that a model learns from."""
