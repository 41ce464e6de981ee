"""Data in: importing and validating."""
