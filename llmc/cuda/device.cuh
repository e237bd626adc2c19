// The GPU of this process: found, checked, described. (What is known of it stands in device(), common.cuh.)
#pragma once
#include <string>
#include "llmc/cuda/common.cuh"
#include "llmc/base/device_options.h"

// Takes the GPU of this number among the machine's ranks and fills in device(); options get what they leave to the GPU.
// Prints nothing. Error: one line.
void open_device(DeviceOptions& options, int local_rank);

// Once all options are known (a resumed run brings some): how this run uses the GPU.
void configure_device(const DeviceOptions& options, bool bf16);

// Of the memory that cuBLASLt is recommended to have, what a run takes.
size_t cublaslt_workspace_bytes();

// The most FLOP/s that this GPU's data sheet promises for matrix products in bf16, or in TF32 for fp32; 0: not known.
double device_peak_flops(bool bf16);

// "1980 MHz, 512 W, 63 C": the GPU at this moment; what the driver does not tell is left out.
std::string device_health();
