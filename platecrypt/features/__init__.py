"""Image-quality features: computed once an image, kept in parquet, joined in time by Feast."""
