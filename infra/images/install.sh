#!/bin/sh
# Makes the Python environment of an image, in its build stage, in the folder of pyproject.toml.
#
#   install.sh VENV EXTRAS    what the extras need: changes seldom, so it is a layer of its own
#   install.sh VENV           our own code, once the environment is there
#
# PIP_INDEX_URL and PIP_EXTRA_INDEX_URL are build arguments of every image, ONNXRUNTIME of the predictor.
set -eu

venv=$1
extras=${2:-}
# Also for what builds the wheel, not only for what is installed.
export PIP_CONSTRAINT="$PWD/constraints.txt"

install() {
    pip --python "$venv/bin/python" install --quiet --no-cache-dir --no-compile "$@"
}

if [ -n "$extras" ]; then
    python -m venv --without-pip "$venv"
    install ".[$extras]"
    # OpenCV as the libraries ask for it opens windows, and wants a graphics stack for that. The
    # other build of the same version does not.
    version=$(sed -n 's/^opencv-python==//p' constraints.txt)
    pip --python "$venv/bin/python" uninstall --quiet --yes opencv-python
    install --no-deps "opencv-python-headless==$version"
    # Another build of ONNX Runtime, of the same version: onnxruntime-gpu[cuda,cudnn].
    if [ -n "${ONNXRUNTIME:-}" ]; then
        version=$(sed -n 's/^onnxruntime==//p' constraints.txt)
        pip --python "$venv/bin/python" uninstall --quiet --yes onnxruntime
        install "$ONNXRUNTIME==$version"
    fi
else
    install --no-deps --force-reinstall .
fi
