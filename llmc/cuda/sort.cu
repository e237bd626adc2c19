#include "llmc/cuda/sort.cuh"
