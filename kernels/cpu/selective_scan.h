// The selective scan and its adjoint: the interface of the CPU kernels.
//
//   h[t] = exp(dt[t] A) h[t-1] + Bbar[t] u[t],   y[t] = sum_n C[t, n] h[t, :, n] + D u[t]
//
// Nothing here knows of XLA. `selective_scan_job.cc` cuts the work into tasks, the loops are in
// `selective_scan_isa.cc`, compiled once per instruction set. ../README.md has the equations.
#pragma once

#include <cstdint>
#include <memory>

#include "job.h"

namespace fastscan::selective {

// The extents of all operands. `dtype` is that of B, C, y and their cotangents. For a complex one A
// and the states are in it too, while u, dt, D and their cotangents are real; for a real one u and dt
// are in it, and all else in that of the states, which is float for the 16-bit dtypes.
struct Extents {
  Dtype dtype{};
  const int64_t* batch = nullptr;  // is read while the job is made and not kept
  int batch_rank = 0;
  int64_t steps = 0, channels = 0, states = 0;
  int64_t chunk = 0;  // steps between two states that are kept
  bool zoh = false;
  bool reverse = false;
};

// Operands have the batch axes in front, each with its extent or 1. In `starts` the states are
// (chunk, state, channel), in all else (channel, state).
struct Scan {
  Extents extents;
  Array u, dt, a, b, c, d, h0, reset;  // d and reset may be left out
  Array h_last, y, starts;
};

// The cotangents have all batch axes.
struct Backward {
  Extents extents;
  Array g_last, g_y, u, dt, a, b, c, d, reset, starts;
  Array du, ddt, da, db, dc, dd, dh0;
};

// The results are the same bits for the same arguments. `threads` is how many may take part.
std::unique_ptr<Job> MakeJob(const Scan& scan, int64_t threads);
std::unique_ptr<Job> MakeJob(const Backward& backward, int64_t threads);

// exp(dt[i] a[i]) of `count` real dt and real or complex a in float or double (`dtype` is that of a),
// as the kernels compute it (exponential.h, complex_exponential.h), with zoh or without: with `care`
// for every size of dt[i] a[i], else where it is well inside the range.
void Exponentials(Dtype dtype, const void* dt, const void* a, bool care, bool zoh, void* e,
                  int64_t count);

}  // namespace fastscan::selective
