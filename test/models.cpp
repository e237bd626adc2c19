#include "test/models.h"
#include "llmc/gpt2.h"

template class GPT2<float, Cpu>;
template class GPT2<double, Cpu>;
template class GPT2<bf16, Cpu>;
template class GPT2<float, PlainCpu>;
template class GPT2<double, PlainCpu>;
