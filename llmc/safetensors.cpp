#include "llmc/safetensors.h"
#include "llmc/error.h"
#include "llmc/model_files.h"
