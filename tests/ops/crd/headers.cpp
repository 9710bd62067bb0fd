// csrc/*.h for Python: what the CPU twin and the CUDA kernel compute row by row. test_crd_headers.py builds this.
#include <pybind11/pybind11.h>

#include <tuple>

#include "draws.h"
#include "nce.h"

using namespace fastkd;

PYBIND11_MODULE(crd_headers, m) {
  m.def("philox", [](uint32_t k0, uint32_t k1, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    const Words w = philox(k0, k1, {a, b, c, d});
    return std::make_tuple(w.x, w.y, w.z, w.w);
  });
  m.def("permute", [](uint32_t place, uint32_t n, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    return Permutation(n, {a, b, c, d})(place);
  });
  m.def("pairs", [](uint32_t n) {
    const Permutation permutation(n, {0, 0, 0, 0});
    return std::make_tuple(permutation.a, permutation.b);
  });
  m.def("two_to", [](float x) { return two_to(x); });
  m.def("log_one_plus", [](float t) { return log_one_plus(t); });
  m.def("nce", [](float score, bool is_positive, float temperature, float z, int64_t negatives, int64_t rows,
                  int64_t batch) {
    const Nce nce(temperature, z, negatives, rows, batch);
    float derivative = 0;
    const float term = is_positive ? nce.positive(score, derivative) : nce.negative(score, derivative);
    return std::make_tuple(term, derivative);
  });
}
