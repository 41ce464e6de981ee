#!/bin/sh
# Takes out of a serving image's environment what never runs there: about 280 MB.
#
#   slim.sh VENV
set -eu

packages=$(echo "$1"/lib/python3.*/site-packages)

# The C sources of the many libjpegs that jpeglib is built from.
find "$packages/jpeglib/cjpeglib" -mindepth 1 -maxdepth 1 ! -name '*.so' -exec rm -rf {} +
# protoc, which kserve asks for and never calls: a compiler.
rm -rf "$packages"/grpc_tools
# OpenVINO works on CPUs here and reads ONNX.
if [ -d "$packages/openvino" ]; then
    rm -rf "$packages"/openvino/include "$packages"/openvino/libs/cache.json \
        "$packages"/openvino/libs/libopenvino_intel_[gn]pu_plugin.so
    for frontend in gguf jax paddle pytorch tensorflow tensorflow_lite; do
        rm -f "$packages/openvino/libs/libopenvino_${frontend}_frontend.so"*
    done
fi
# The runtime for programs in C; Python's module has it built in, where there is no CUDA.
if [ ! -e "$packages/onnxruntime/capi/libonnxruntime_providers_cuda.so" ]; then
    rm -f "$packages"/onnxruntime/capi/libonnxruntime.so.*
fi
find "$packages" -type d \( -name tests -o -name test \) -prune -exec rm -rf {} +
# Symbols serve debuggers. The libraries in *.libs were rewritten by their packagers in a way that
# `strip` would break.
find "$packages" -type f -name '*.so' ! -path '*.libs/*' -exec strip --strip-unneeded {} +
