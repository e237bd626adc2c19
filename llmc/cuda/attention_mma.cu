#include "llmc/cuda/attention_mma.cuh"
