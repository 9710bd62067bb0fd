// The entrances of test_crd_simulated.py, after the kernels of csrc/.

using namespace fastkd;

struct Arguments {  // of the tests' `arguments`, in this order
  const int64_t *rows, *chosen, *starts, *step;
  int64_t classes, n, negatives, first_place;
  int64_t seed, replacement, relaxed, scarce;
};

static Draws draws_of(const Arguments& a) {
  const uint64_t seed = static_cast<uint64_t>(a.seed);
  return {a.rows, a.chosen, a.starts, a.step, a.classes, a.n, a.negatives, a.first_place, static_cast<uint32_t>(seed),
          static_cast<uint32_t>(seed >> 32), a.replacement != 0, a.relaxed != 0, a.scarce != 0};
}

template <typename T, int V, int PIECES, int ROWS>
void simulate(const Pass& pass) {
  launch(dim3(pass.splits, pass.samples), THREADS, [&] { gather<T, V, PIECES, ROWS>(pass); });
}

extern "C" void simulated_pass(const Arguments* arguments, const char* variant, const float* student,
                               const float* teacher, const void* bank, const float* z, const float* numbers,
                               int samples, int dim, int splits, bool measures, float* total, float* sides,
                               float* student_gradient, float* teacher_gradient, float* new_z) {
  std::vector<float> gradients(static_cast<size_t>(samples) * splits * 2 * dim, NAN);
  std::vector<float> sums(static_cast<size_t>(samples) * splits * 2, NAN);
  const Pass pass{draws_of(*arguments), student,  teacher, bank,     z,
                  numbers,             samples,  dim,     splits,   measures,
                  gradients.data(),     sums.data()};
  const auto is = [&](const char* name) { return std::strcmp(variant, name) == 0; };
  if (is("float 4 1 8")) simulate<float, 4, 1, 8>(pass);
  if (is("float 4 2 8")) simulate<float, 4, 2, 8>(pass);
  if (is("float 4 4 4")) simulate<float, 4, 4, 4>(pass);
  if (is("float 1 8 4")) simulate<float, 1, 8, 4>(pass);
  if (is("float 1 16 2")) simulate<float, 1, 16, 2>(pass);
  if (is("bfloat16 8 1 8")) simulate<__nv_bfloat16, 8, 1, 8>(pass);
  if (is("bfloat16 8 2 8")) simulate<__nv_bfloat16, 8, 2, 8>(pass);
  if (is("bfloat16 1 8 4")) simulate<__nv_bfloat16, 1, 8, 4>(pass);
  if (is("bfloat16 1 16 2")) simulate<__nv_bfloat16, 1, 16, 2>(pass);
  if (measures)
    launch(dim3(1), THREADS, [&] { finish_normaliser(pass, new_z); });
  else
    launch(dim3(samples + 1), THREADS, [&] { finish(pass, total, sides, student_gradient, teacher_gradient); });
}

extern "C" void simulated_draw(const Arguments* arguments, int samples, int64_t* out) {
  const Draws draws = draws_of(*arguments);
  launch(dim3((draws.negatives + TILE) / TILE, samples), 32, [&] { draw(draws, out); });
}

extern "C" void simulated_update(bool narrow, void* bank, float* z, int64_t* step, const int64_t* rows,
                                 const float* student, const float* teacher, const float* new_z, const float* numbers,
                                 int samples, int dim, int64_t n) {
  launch(dim3(samples), UPDATE_THREADS, [&] {
    if (narrow)
      update(static_cast<__nv_bfloat16*>(bank), z, step, rows, student, teacher, new_z, numbers, samples, dim, n);
    else
      update(static_cast<float*>(bank), z, step, rows, student, teacher, new_z, numbers, samples, dim, n);
  });
}
