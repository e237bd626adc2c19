#include "llmc/cuda/attention_fp32.cuh"
