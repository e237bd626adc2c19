// The GPU of this process: found, checked, described. (What is known of it stands in device(), common.cuh.)
#pragma once
#include <string>
#include <vector>
#include "llmc/cuda/common.cuh"
#include "llmc/base/device_options.h"
#include "llmc/model/activations.h"
#include "llmc/model/config.h"

// Takes the GPU of this number among the machine's ranks and fills in device(); options get what they leave to the GPU.
// Prints nothing. Error: one line.
void open_device(DeviceOptions& options, int local_rank);

// Once all options are known (a resumed run brings some): how this run uses the GPU. Fills in what they leave to it.
void configure_device(DeviceOptions& options, bool bf16);

// What a training run should say about it: by whom attention and products are.
std::vector<std::string> device_choices(const DeviceOptions& options, const ModelConfig& model, const StepOptions& o);

// cuBLASLt's algorithms (cublaslt_choice.h). begin: as the options say; false: what a checkpoint recorded in them is of
// another GPU or version of the library. timed: in this rank's first step, "" if nothing is. take: what the ranks agree on
// from then on, as it is recorded.
bool begin_algorithms(const DeviceOptions& options);
bool algorithms_are_timed();
std::string timed_algorithms();
std::string take_algorithms(const std::vector<std::string>& timed_by_ranks);

// Of the memory that cuBLASLt is recommended to have, what a run takes.
size_t cublaslt_workspace_bytes();

// The most FLOP/s that this GPU's data sheet promises for matrix products in bf16, or in TF32 for fp32; 0: not known.
double device_peak_flops(bool bf16);

// "1980 MHz, 512 W, 63 C": the GPU at this moment; what the driver does not tell is left out.
std::string device_health();
