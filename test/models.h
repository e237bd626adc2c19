// The models that tests make, compiled once, in models.cpp: it would be half of the time that the tests take to compile.
#pragma once
#include "llmc/cpu/machine.h"
#include "llmc/gpt2.h"

extern template class GPT2<float, Cpu>;
extern template class GPT2<double, Cpu>;
extern template class GPT2<bf16, Cpu>;
extern template class GPT2<float, PlainCpu>;
extern template class GPT2<double, PlainCpu>;
