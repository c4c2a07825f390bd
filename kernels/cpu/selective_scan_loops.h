// The loops of the selective scan over some channels of one batch entry, as plain functions of
// pointers. `selective_scan_isa.cc` compiles them once per instruction set.
#pragma once

#include <cstdint>

#include "selective_scan.h"

namespace fastscan::selective {

// The arrays of one batch entry; those left out are null.
struct ForwardEntry {
  const void *u, *dt, *a, *b, *c, *d, *h0;
  const uint8_t* reset;
  void *h_last, *y, *starts;
};

struct BackwardEntry {
  const void *g_last, *g_y, *u, *dt, *a, *b, *c, *d;
  const uint8_t* reset;
  const void* starts;
  void *du, *ddt, *da, *dd, *dh0;
  void *db, *dc;
  bool partial;  // db and dc are sums over these channels only, in the dtype of the states
};

struct Loops {
  // Channels from `begin` to `end`; begin is a multiple of `lanes`.
  void (*forward)(const Extents&, const ForwardEntry&, int64_t begin, int64_t end, void* workspace);
  void (*backward)(const Extents&, const BackwardEntry&, int64_t begin, int64_t end,
                   void* workspace);
  // The bytes of a workspace for this many channels.
  int64_t (*forward_bytes)(const Extents&, int64_t channels);
  int64_t (*backward_bytes)(const Extents&, int64_t channels);
  // The sum of `terms` arrays that follow each other, into elements of the dtype.
  void (*reduce)(void* to, const void* from, int64_t count, int64_t terms);
  void (*exponentials)(const void* dt, const void* a, bool care, bool zoh, void* e, int64_t count);
  int64_t lanes;
  // Of u and dt; of B, C and y; of D; of A and the states.
  int64_t input_bytes, element_bytes, scalar_bytes, state_bytes;
};

namespace baseline {
const Loops& LoopsOf(Dtype dtype);
}
namespace avx2 {
const Loops& LoopsOf(Dtype dtype);
}
namespace avx512 {
const Loops& LoopsOf(Dtype dtype);
}

}  // namespace fastscan::selective
