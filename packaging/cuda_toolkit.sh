#!/usr/bin/env bash
# The CUDA compiler and runtime in a manylinux_2_28 container, which is AlmaLinux 8; CMake finds them by CUDACXX.
set -euo pipefail
dnf install --assumeyes --quiet dnf-plugins-core
dnf config-manager --add-repo https://developer.download.nvidia.com/compute/cuda/repos/rhel8/x86_64/cuda-rhel8.repo
dnf install --assumeyes --quiet cuda-nvcc-13-0 cuda-cudart-devel-13-0 cuda-cccl-13-0
/usr/local/cuda-13.0/bin/nvcc --version
