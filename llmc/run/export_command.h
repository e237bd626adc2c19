// export: a model for other programs, from files to files; a model in memory on a device is not needed.
#pragma once
#include "llmc/run/options.h"

int export_command(const Options& options, const ProgramInfo& program);
