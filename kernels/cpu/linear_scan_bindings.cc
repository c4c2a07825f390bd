// The linear scan's handlers. Operands and results are described in ../../fastscan/primitives.py.
#include <cstdint>
#include <optional>
#include <utility>

#include "handler.h"
#include "linear_scan.h"

namespace fastscan {
namespace {

Shape ShapeOf(const ffi::AnyBuffer& full, int64_t axis) {
  const auto dims = full.dimensions();
  return {dims.begin(), static_cast<int>(dims.size()), static_cast<int>(axis)};
}

template <class Problem>
ffi::Future Run(ffi::ThreadPool pool, ffi::DataType dtype, Problem problem) {
  const std::optional<Dtype> known = DtypeOf(dtype);
  if (!known.has_value()) return Refuse("the native kernels have no such dtype");
  if (problem.shape.rank > kMaxRank) return Refuse("the native kernels have no such rank");
  problem.dtype = *known;
  return Start(pool, [&](int64_t threads) { return MakeJob(problem, threads); });
}

ffi::Future LinearScan(ffi::ThreadPool pool, ffi::AnyBuffer a, ffi::AnyBuffer x, ffi::AnyBuffer h0,
                       ffi::RemainingArgs reset, ffi::Result<ffi::AnyBuffer> h_last,
                       ffi::Result<ffi::AnyBuffer> h, int64_t axis, bool reverse) {
  Scan scan;
  scan.shape = ShapeOf(*h, axis);
  scan.reverse = reverse;
  scan.a = ArrayOf(a);
  scan.x = ArrayOf(x);
  scan.h0 = ArrayOf(h0);
  scan.reset = ArrayOf(reset);
  scan.h_last = ArrayOf(*h_last);
  scan.h = ResultOf(*h);
  return Run(pool, x.element_type(), std::move(scan));
}

Backward Adjoint(const ffi::AnyBuffer& g_last, const ffi::AnyBuffer& g, const ffi::AnyBuffer& a,
                 const ffi::RemainingArgs& reset, const ffi::AnyBuffer& dx,
                 const ffi::AnyBuffer& dh0, int64_t axis, bool reverse) {
  Backward backward;
  backward.shape = ShapeOf(dx, axis);
  backward.reverse = reverse;
  backward.g_last = ArrayOf(g_last);
  backward.g = ArrayOf(g);
  backward.a = ArrayOf(a);
  backward.reset = ArrayOf(reset);
  backward.dx = ResultOf(dx);
  backward.dh0 = ArrayOf(dh0);
  return backward;
}

ffi::Future LinearBackward(ffi::ThreadPool pool, ffi::AnyBuffer g_last, ffi::AnyBuffer g,
                           ffi::AnyBuffer a, ffi::AnyBuffer h, ffi::AnyBuffer h0,
                           ffi::RemainingArgs reset, ffi::Result<ffi::AnyBuffer> da,
                           ffi::Result<ffi::AnyBuffer> dx, ffi::Result<ffi::AnyBuffer> dh0,
                           int64_t axis, bool reverse) {
  Backward backward = Adjoint(g_last, g, a, reset, *dx, *dh0, axis, reverse);
  backward.h = ArrayOf(h);
  backward.h0 = ArrayOf(h0);
  backward.da = ResultOf(*da);
  return Run(pool, g.element_type(), std::move(backward));
}

ffi::Future LinearAdjoint(ffi::ThreadPool pool, ffi::AnyBuffer g_last, ffi::AnyBuffer g,
                          ffi::AnyBuffer a, ffi::RemainingArgs reset,
                          ffi::Result<ffi::AnyBuffer> dx, ffi::Result<ffi::AnyBuffer> dh0,
                          int64_t axis, bool reverse) {
  return Run(pool, g.element_type(), Adjoint(g_last, g, a, reset, *dx, *dh0, axis, reverse));
}

}  // namespace
}  // namespace fastscan

// What Python looks up by name; all else is hidden.
#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(fastscan_linear_scan, fastscan::LinearScan,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attr<int64_t>("axis")
                                  .Attr<bool>("reverse"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(fastscan_linear_backward, fastscan::LinearBackward,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attr<int64_t>("axis")
                                  .Attr<bool>("reverse"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(fastscan_linear_adjoint, fastscan::LinearAdjoint,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attr<int64_t>("axis")
                                  .Attr<bool>("reverse"));

#pragma GCC visibility pop
