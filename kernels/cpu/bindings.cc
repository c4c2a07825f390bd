// What Python asks of the library besides its handlers.
#include "job.h"

#pragma GCC visibility push(default)

extern "C" const char* fastscan_instruction_set() { return fastscan::InstructionSet(); }

#pragma GCC visibility pop
