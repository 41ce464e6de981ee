"""Kubeflow pipelines, and the two engines that run them."""
