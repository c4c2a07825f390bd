// The selective scan's handlers. Operands and results are described in selective.py beside this file.
#include <cstdint>
#include <optional>
#include <utility>

#include "handler.h"
#include "selective_scan.h"

namespace fastscan::selective {
namespace {

// The operands that may be left out: d, then reset.
struct Optional {
  Array d, reset;

  Optional(const ffi::RemainingArgs& given, bool has_d, bool has_reset) {
    size_t next = 0;
    if (has_d) d = ArrayOf(given.get<ffi::AnyBuffer>(next++).value());
    if (has_reset) reset = ArrayOf(given.get<ffi::AnyBuffer>(next).value());
  }
};

// `inputs` is a result of the shape of u with all batch axes.
Extents ExtentsOf(const ffi::AnyBuffer& inputs, const ffi::AnyBuffer& a, int64_t chunk, bool zoh,
                  bool reverse) {
  const auto dims = inputs.dimensions();
  Extents extents;
  extents.batch = dims.begin();
  extents.batch_rank = static_cast<int>(dims.size()) - 2;
  extents.steps = dims[dims.size() - 2];
  extents.channels = dims[dims.size() - 1];
  extents.states = a.dimensions().back();
  extents.chunk = chunk;
  extents.zoh = zoh;
  extents.reverse = reverse;
  return extents;
}

template <class Problem>
ffi::Future Run(ffi::ThreadPool pool, ffi::DataType dtype, Problem problem) {
  const std::optional<Dtype> known = DtypeOf(dtype);
  if (!known.has_value()) return Refuse("the native kernels have no such dtype");
  problem.extents.dtype = *known;
  return Start(pool, [&](int64_t threads) { return MakeJob(problem, threads); });
}

ffi::Future SelectiveScan(ffi::ThreadPool pool, ffi::AnyBuffer u, ffi::AnyBuffer dt,
                          ffi::AnyBuffer a, ffi::AnyBuffer b, ffi::AnyBuffer c, ffi::AnyBuffer h0,
                          ffi::RemainingArgs rest, ffi::Result<ffi::AnyBuffer> h_last,
                          ffi::Result<ffi::AnyBuffer> y, ffi::Result<ffi::AnyBuffer> starts,
                          bool has_d, bool has_reset, int64_t chunk, bool zoh, bool reverse) {
  const Optional optional(rest, has_d, has_reset);
  Scan scan;
  scan.extents = ExtentsOf(*y, a, chunk, zoh, reverse);
  scan.u = ArrayOf(u);
  scan.dt = ArrayOf(dt);
  scan.a = ArrayOf(a);
  scan.b = ArrayOf(b);
  scan.c = ArrayOf(c);
  scan.d = optional.d;
  scan.h0 = ArrayOf(h0);
  scan.reset = optional.reset;
  scan.h_last = ArrayOf(*h_last);
  scan.y = ResultOf(*y);
  scan.starts = ResultOf(*starts);
  return Run(pool, b.element_type(), std::move(scan));
}

ffi::Future SelectiveBackward(ffi::ThreadPool pool, ffi::AnyBuffer g_last, ffi::AnyBuffer g_y,
                              ffi::AnyBuffer u, ffi::AnyBuffer dt, ffi::AnyBuffer a,
                              ffi::AnyBuffer b, ffi::AnyBuffer c, ffi::AnyBuffer starts,
                              ffi::RemainingArgs rest, ffi::Result<ffi::AnyBuffer> du,
                              ffi::Result<ffi::AnyBuffer> ddt, ffi::Result<ffi::AnyBuffer> da,
                              ffi::Result<ffi::AnyBuffer> db, ffi::Result<ffi::AnyBuffer> dc,
                              ffi::Result<ffi::AnyBuffer> dd, ffi::Result<ffi::AnyBuffer> dh0,
                              bool has_d, bool has_reset, int64_t chunk, bool zoh, bool reverse) {
  const Optional optional(rest, has_d, has_reset);
  Backward backward;
  backward.extents = ExtentsOf(*du, a, chunk, zoh, reverse);
  backward.g_last = ArrayOf(g_last);
  backward.g_y = ArrayOf(g_y);
  backward.u = ArrayOf(u);
  backward.dt = ArrayOf(dt);
  backward.a = ArrayOf(a);
  backward.b = ArrayOf(b);
  backward.c = ArrayOf(c);
  backward.d = optional.d;
  backward.reset = optional.reset;
  backward.starts = ArrayOf(starts);
  backward.du = ResultOf(*du);
  backward.ddt = ResultOf(*ddt);
  backward.da = ArrayOf(*da);
  backward.db = ArrayOf(*db);
  backward.dc = ArrayOf(*dc);
  backward.dd = ArrayOf(*dd);
  backward.dh0 = ArrayOf(*dh0);
  return Run(pool, b.element_type(), std::move(backward));
}

}  // namespace
}  // namespace fastscan::selective

#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(fastscan_selective_scan, fastscan::selective::SelectiveScan,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attr<bool>("has_d")
                                  .Attr<bool>("has_reset")
                                  .Attr<int64_t>("chunk")
                                  .Attr<bool>("zoh")
                                  .Attr<bool>("reverse"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(fastscan_selective_backward, fastscan::selective::SelectiveBackward,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attr<bool>("has_d")
                                  .Attr<bool>("has_reset")
                                  .Attr<int64_t>("chunk")
                                  .Attr<bool>("zoh")
                                  .Attr<bool>("reverse"));

#pragma GCC visibility pop
