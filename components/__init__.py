"""One Kubeflow component a file: a typed signature, a docstring, an import, one call."""
