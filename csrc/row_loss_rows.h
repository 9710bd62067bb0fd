// The losses of rows, in vectors of LANES: values, gradients and ranks. fastkd/ops/row_loss/reference.py is the
// definition; each_target.h includes this once for each instruction set.
//
// A row is turned into float32 chunk by chunk: one that fits is read once and stays in the first cache, a longer one is
// read again in each pass, for its greatest logits, the sums, the value where that needs one, and the gradient. Behind
// the last class logits are -inf. Where a teacher keeps some classes, they are compared among themselves with one more,
// the rest, whose logit is that of all others.

#include "rows.h"
#include "row_loss_divergence.h"

constexpr int64_t CHUNK = 2048;

// Hyperbolic tangent.
FASTKD_INLINE Floats bent(const Floats& x) {
  const Floats fall = exponential_minus_1(x < 0.0f ? x + x : -x - x), size = -fall / (fall + 2.0f);
  return x < 0.0f ? -size : size;
}

// The logarithm of any probability; -inf of 0.
FASTKD_INLINE Floats log_of(const Floats& p) {
  const Ints small = (Ints)(p < 1.17549435e-38f);
  const Floats normal = logarithm(small ? p * 1.8446744073709552e19f : p) - (small ? all(44.3614196f) : Floats{});
  return p > 0.0f ? normal : p == 0.0f ? all(-INFINITY) : all(NAN);
}

struct RowOfLogits {
  const RowLosses& given;
  const int64_t width;        // of a chunk's room
  const int64_t kept_width;   // of the kept classes and their rest
  float* const room;
  const float* const numbers;
  const bool compares, has_labels, keeps, rest_exists;
  const float rate, beta;

  int64_t index = 0, batch = 0, inner = 0, label = 0;
  std::vector<KeptClass> kept;

  // The chunk that is in the room.
  int64_t start = 0, count = 0, padded = 0;
  bool is_loaded = false, has_exponentials = false, is_ranked = false;

  // What is known of the row.
  float own = 0, peak = 0, q_peak = 0, p_peak = 0;  // q_peak: that of the classes which are compared in chunks
  Total ce_sum, share_sum, product_sum, rest_sum;
  float ce_total = 0, share_total = 1, rest_total = 0;
  Ints ahead = {};

  // The rows of the room; OTHERS and REST are the student's logits without the kept ones, and their exponentials.
  enum { STUDENT, TEACHER, SHARES, CE, Q, P, GRADIENT, PLACES, OTHERS = TEACHER, REST = Q };
  enum { KEPT_Z, KEPT_T, KEPT_Q, KEPT_P, KEPT_PULL, KEPT_PLACES };

  static FASTKD_INLINE int64_t whole_vectors(int64_t count) { return (count + LANES - 1) / LANES * LANES; }
  static FASTKD_INLINE int64_t room_for(const RowLosses& given) {
    const int64_t kept = given.kept.classes == nullptr ? 0 : whole_vectors(given.kept.count + 1);
    return PLACES * whole_vectors(std::min(given.classes, CHUNK)) + KEPT_PLACES * kept;
  }

  FASTKD_INLINE RowOfLogits(const RowLosses& given, float* room)
      : given(given),
        width(whole_vectors(std::min(given.classes, CHUNK))),
        kept_width(given.kept.classes == nullptr ? 0 : whole_vectors(given.kept.count + 1)),
        room(room),
        numbers(given.numbers),
        compares(given.teacher != Teacher::NONE),
        has_labels(given.kind_of_labels != Labels::NONE),
        keeps(given.kept.classes != nullptr),
        rest_exists(keeps && given.teacher != Teacher::RENORMALISED),
        rate(1.0f / given.numbers[TEMPERATURE]),
        beta(given.numbers[MIXTURE]) {}

  FASTKD_INLINE float* at(int place) const { return room + place * width; }
  FASTKD_INLINE float* kept_at(int place) const { return room + PLACES * width + place * kept_width; }
  FASTKD_INLINE bool is_alone() const { return given.classes <= CHUNK; }

  FASTKD_INLINE Matrix part_of(const Dense& dense, int64_t first) const {
    const int64_t size = dense.rows.type == Type::FLOAT32 ? 4 : 2, columns = dense.rows.column_stride;
    const int64_t place = batch * dense.batch_stride + inner * dense.rows.row_stride + first * columns;
    return {static_cast<const char*>(dense.rows.data) + place * size, dense.rows.type, 0, columns};
  }

  FASTKD_INLINE float raw_logit(int64_t place) const {
    float number[LANES];
    widen(number, part_of(given.student, place), 0, 1);
    return number[0];
  }

  static FASTKD_INLINE Floats transformed(const Floats& raw, float scale, float cap, bool capped) {
    return capped ? cap * bent(raw * scale / cap) : raw * scale;
  }

  FASTKD_INLINE Floats transformed(const Floats& raw) const {
    return transformed(raw, numbers[LOGIT_SCALE], numbers[SOFTCAP], given.capped);
  }

  FASTKD_INLINE Ints is_class(int64_t k) const { return static_cast<int32_t>(count - k) - lanes() > 0; }

  FASTKD_INLINE void transform(float* values, float scale, float cap, bool capped) const {
    if (!capped && scale == 1.0f) return;
    for (int64_t k = 0; k < padded; k += LANES)
      store(values + k, is_class(k) ? transformed(load(values + k), scale, cap, capped) : all(-INFINITY));
  }

  // Puts the chunk at `first` into the room, unless it is there.
  FASTKD_INLINE void read(int64_t first) {
    if (is_loaded && start == first) return;
    is_loaded = true;
    has_exponentials = false;
    start = first;
    count = std::min(given.classes - first, CHUNK);
    padded = whole_vectors(count);
    widen(at(STUDENT), part_of(given.student, first), 0, count);
    if (has_labels && !is_ranked) count_ahead();
    transform(at(STUDENT), numbers[LOGIT_SCALE], numbers[SOFTCAP], given.capped);
    if (rest_exists)
      read_others();
    else if (compares && !keeps)
      read_teacher();
    if (given.kind_of_labels == Labels::PROBABILITIES) {
      widen(at(SHARES), part_of(given.shares, first), 0, count);
      clear_padding(at(SHARES));
    }
  }

  // Logits that are no classes are compared with nothing; a probability is added.
  FASTKD_INLINE void clear_padding(float* values) const {
    for (int64_t k = count; k < padded; ++k) values[k] = 0;
  }

  FASTKD_INLINE void read_teacher() {
    widen(at(TEACHER), part_of(given.teacher_rows, start), 0, count);
    if (given.teacher == Teacher::LOGITS)
      return transform(at(TEACHER), numbers[TEACHER_LOGIT_SCALE], numbers[TEACHER_SOFTCAP], given.teacher_capped);
    clear_padding(at(TEACHER));
    for (int64_t k = 0; k < padded; k += LANES) {
      const Floats p = load(at(TEACHER) + k);
      store(at(P) + k, p);
      store(at(TEACHER) + k, log_of(p));
    }
  }

  // The student's logits, -inf where the teacher keeps the class.
  FASTKD_INLINE void read_others() {
    std::copy_n(at(STUDENT), padded, at(OTHERS));
    for (size_t i = first_kept(kept, start); i < kept.size() && kept[i].place < start + count; ++i)
      at(OTHERS)[kept[i].place - start] = -INFINITY;
  }

  // Counts what ranks before the label: greater logits, and equal ones of a lower class.
  FASTKD_INLINE void count_ahead() {
    const Floats of_label = all(own);
    Ints before = lanes() + static_cast<int32_t>(start - label);
    for (int64_t k = 0; k < padded; k += LANES, before += static_cast<int32_t>(LANES)) {
      const Floats raw = load(at(STUDENT) + k);
      ahead -= (Ints)(raw > of_label) | ((Ints)(raw == of_label) & (before >> 31));
    }
  }

  FASTKD_INLINE float greatest_of(int place, float so_far) const {
    Floats most = all(so_far);
    for (int64_t k = 0; k < padded; k += LANES) most = greater(load(at(place) + k), most);
    return greatest(most);
  }

  // exp((logit - peak) · rate). Only logits of -inf are above a peak of -inf.
  FASTKD_INLINE void exponentials(int from, float peak, float by, int to, Total& total) const {
    const float finite = peak == -INFINITY ? 0.0f : peak;
    for (int64_t k = 0; k < padded; k += LANES) {
      const Floats one = exponential((load(at(from) + k) - finite) * by);
      store(at(to) + k, one);
      total.add(one);
    }
  }

  // Puts a chunk's exponentials beside it; the sums grow, which counts in one pass.
  FASTKD_INLINE void weigh(int64_t first) {
    read(first);
    if (has_exponentials) return;
    has_exponentials = true;
    Total unused;
    if (has_labels) exponentials(STUDENT, peak, 1.0f, CE, ce_sum);
    if (rest_exists) exponentials(OTHERS, q_peak, rate, REST, rest_sum);
    if (!compares || keeps) return;
    if (!shares_exponentials()) exponentials(STUDENT, peak, rate, Q, unused);
    if (given.teacher == Teacher::LOGITS) exponentials(TEACHER, p_peak, rate, P, unused);
  }

  FASTKD_INLINE bool shares_exponentials() const { return has_labels && rate == 1.0f; }

  FASTKD_INLINE Classes chunk() const {
    return {at(STUDENT), at(TEACHER), at(shares_exponentials() ? CE : Q), at(P), padded};
  }

  FASTKD_INLINE void find_peaks() {
    peak = q_peak = p_peak = -INFINITY;
    for (int64_t first = 0; first < given.classes; first += CHUNK) {
      read(first);
      peak = greatest_of(STUDENT, peak);
      if (rest_exists) q_peak = greatest_of(OTHERS, q_peak);
      if (given.teacher == Teacher::LOGITS) p_peak = greatest_of(TEACHER, p_peak);
    }
    is_ranked = true;
    if (given.teacher != Teacher::LOGITS) p_peak = 0;
  }

  FASTKD_INLINE void add_shares() {
    for (int64_t k = 0; k < padded; k += LANES) {
      const Floats share = load(at(SHARES) + k);
      share_sum.add(share);
      product_sum.add(Comparison::weighed(share, load(at(STUDENT) + k) - peak));
    }
  }

  FASTKD_INLINE void find_sums(Comparison& dense) {
    ce_sum = share_sum = product_sum = rest_sum = Total{};
    for (int64_t first = 0; first < given.classes; first += CHUNK) {
      weigh(first);
      if (given.kind_of_labels == Labels::PROBABILITIES) add_shares();
      if (compares && !keeps) dense.add(chunk());
    }
    ce_total = ce_sum.whole();
    rest_total = rest_sum.whole();
    share_total = given.kind_of_labels == Labels::PROBABILITIES ? share_sum.whole() : 1.0f;
  }

  FASTKD_INLINE double cross_entropy() const {
    if (!has_labels) return 0;
    const double log_total = std::log(double{ce_total});
    if (given.kind_of_labels == Labels::CLASSES) return log_total - double{transformed(all(own))[0] - peak};
    return (share_total == 0.0f ? 0.0 : share_total * log_total) - product_sum.whole();
  }

  FASTKD_INLINE int64_t rank() const {
    if (!has_labels || own != own) return given.classes + MISS;
    int64_t found = 0;
    for (int64_t i = 0; i < LANES; ++i) found += ahead[i];
    return found;
  }

  // The kept classes, and the rest behind them.
  FASTKD_INLINE Classes kept_classes() {
    const int64_t size = static_cast<int64_t>(kept.size()), end = size + rest_exists, whole = whole_vectors(end);
    float *z = kept_at(KEPT_Z), *t = kept_at(KEPT_T);
    for (int64_t i = 0; i < whole; ++i) z[i] = t[i] = -INFINITY;
    for (int64_t i = 0; i < size; ++i) {
      z[i] = is_alone() ? at(STUDENT)[kept[i].place] : raw_logit(kept[i].place);
      t[i] = kept[i].log_prob;
    }
    for (int64_t i = 0; i < size && !is_alone(); i += LANES) {
      const Ints is_kept = static_cast<int32_t>(size - i) - lanes() > 0;
      store(z + i, is_kept ? transformed(load(z + i)) : all(-INFINITY));
    }
    if (rest_exists) {
      z[size] = rest_total == 0.0f ? -INFINITY : q_peak + static_cast<float>(std::log(double{rest_total}) / rate);
      t[size] = given.kept.log_rest == nullptr ? -INFINITY : given.kept.log_rest[index];
    }
    return {z, t, kept_at(KEPT_Q), kept_at(KEPT_P), whole};
  }

  FASTKD_INLINE float greatest_kept(const float* values, int64_t size) const {
    Floats most = all(-INFINITY);
    for (int64_t i = 0; i < size; i += LANES) most = greater(load(values + i), most);
    const float found = greatest(most);
    return found == -INFINITY ? 0.0f : found;
  }

  FASTKD_INLINE double compare_kept() {
    const Classes classes = kept_classes();
    const Scale q{greatest_kept(classes.z, classes.width), rate}, p{greatest_kept(classes.t, classes.width), 1.0f};
    float *of_q = kept_at(KEPT_Q), *of_p = kept_at(KEPT_P), *pull = kept_at(KEPT_PULL);
    for (int64_t i = 0; i < classes.width; i += LANES) {
      store(of_q + i, exponential((load(classes.z + i) - q.peak) * rate));
      store(of_p + i, exponential(load(classes.t + i) - p.peak));
    }
    Comparison among(given.divergence, beta, q, p, given.teacher == Teacher::RENORMALISED);
    among.meant_whole = given.teacher == Teacher::LUMPED;
    among.add(classes);
    if (among.know_totals()) {
      among.add_value(classes);
      among.know_value();
    }
    for (int64_t i = 0; i < classes.width; i += LANES) store(pull + i, among.pull(classes, i));
    return among.value;
  }

  FASTKD_INLINE double compare_dense(Comparison& dense) {
    if (dense.know_totals()) {
      for (int64_t first = 0; first < given.classes; first += CHUNK) {
        weigh(first);
        dense.add_value(chunk());
      }
      dense.know_value();
    }
    return dense.value;
  }

  // The derivative of weight · CE.
  FASTKD_INLINE void set_cross_entropy(float by) const {
    float* const gradient = at(GRADIENT);
    const float of_all = has_labels ? by * share_total / ce_total : 0.0f;
    for (int64_t k = 0; k < padded; k += LANES) {
      Floats value = has_labels ? load(at(CE) + k) * of_all : Floats{};
      if (given.kind_of_labels == Labels::PROBABILITIES) value -= load(at(SHARES) + k) * by;
      store(gradient + k, value);
    }
    if (given.kind_of_labels == Labels::CLASSES && label >= start && label < start + count)
      gradient[label - start] -= by;
  }

  FASTKD_INLINE void add_divergence(const Comparison& dense, float by) const {
    float* const gradient = at(GRADIENT);
    const Classes classes = chunk();
    for (int64_t k = 0; k < padded; k += LANES)
      store(gradient + k, load(gradient + k) + dense.pull(classes, k) * by);
  }

  // What the others have of the rest's derivative, and that of the kept classes.
  FASTKD_INLINE void add_kept(float by) const {
    float* const gradient = at(GRADIENT);
    const float* const pull = kept_at(KEPT_PULL);
    if (rest_total > 0.0f) {
      const float of_rest = by * pull[kept.size()] / rest_total;
      for (int64_t k = 0; k < padded; k += LANES)
        store(gradient + k, load(gradient + k) + load(at(REST) + k) * of_rest);
    }
    for (size_t i = first_kept(kept, start); i < kept.size() && kept[i].place < start + count; ++i)
      gradient[kept[i].place - start] += pull[i] * by;
  }

  FASTKD_INLINE void through_transformation() const {
    const float scale = numbers[LOGIT_SCALE], cap = numbers[SOFTCAP];
    float* const gradient = at(GRADIENT);
    if (!given.capped && scale == 1.0f) return;
    for (int64_t k = 0; k < padded; k += LANES) {
      const Floats bend = given.capped ? load(at(STUDENT) + k) / cap : Floats{};
      store(gradient + k, load(gradient + k) * ((1.0f - bend * bend) * scale));
    }
  }

  FASTKD_INLINE void write_gradient(int64_t first) const {
    const Matrix to = part_of(given.gradient, first);
    narrow({const_cast<void*>(to.data), to.type, 0, to.column_stride}, 0, at(GRADIENT), count);
  }

  FASTKD_INLINE void write(double ce, double divergence, int64_t rank) const {
    const float weight = given.weights[index];
    const double loss = numbers[ANCHOR_CE_WEIGHT] * ce + numbers[PAIR_WEIGHT] * divergence;
    given.losses[index] = static_cast<float>(weight * loss);
    given.parts[index] = static_cast<float>(ce);
    given.parts[given.samples + index] = static_cast<float>(divergence);
    given.ranks[index] = rank;
  }

  FASTKD_INLINE void write_nothing() {
    given.losses[index] = given.parts[index] = given.parts[given.samples + index] = 0;
    given.ranks[index] = given.classes + MISS;
    if (given.gradient.rows.data == nullptr) return;
    for (int64_t first = 0; first < given.classes; first += CHUNK) {
      count = std::min(given.classes - first, CHUNK);
      std::fill_n(at(GRADIENT), whole_vectors(count), 0.0f);
      write_gradient(first);
    }
  }

  FASTKD_INLINE void compute(int64_t row) {
    index = row;
    batch = row / given.rows_of_batch;
    inner = row % given.rows_of_batch;
    const float weight = given.weights[row];
    if (weight == 0.0f) return write_nothing();
    is_loaded = is_ranked = false;
    ahead = Ints{};
    if (keeps) gather_kept(given.kept, row, !is_alone(), kept);
    if (has_labels) {
      label = given.labels[row];
      own = raw_logit(label);
    }
    find_peaks();
    Comparison dense(given.divergence, beta, {peak, rate}, {p_peak, given.teacher == Teacher::LOGITS ? rate : 1.0f},
                     given.teacher == Teacher::LOGITS);
    find_sums(dense);
    const double divergence = !compares ? 0.0 : keeps ? compare_kept() : compare_dense(dense);
    const float squared = given.tau_squared ? numbers[TEMPERATURE] * numbers[TEMPERATURE] : 1.0f;
    write(cross_entropy(), divergence * squared, rank());
    if (given.gradient.rows.data == nullptr) return;
    const float ce_slope = weight * numbers[ANCHOR_CE_WEIGHT], slope = weight * numbers[PAIR_WEIGHT] * squared * rate;
    for (int64_t first = 0; first < given.classes; first += CHUNK) {
      weigh(first);
      set_cross_entropy(ce_slope);
      if (keeps) add_kept(slope);
      if (compares && !keeps) add_divergence(dense, slope);
      through_transformation();
      write_gradient(first);
    }
  }
};

// The rows first … end-1, one after the other.
inline void row_losses(const RowLosses& given, int64_t first, int64_t end) {
  Room room(RowOfLogits::room_for(given));
  RowOfLogits row(given, room.aligned);
  for (int64_t i = first; i < end; ++i) row.compute(i);
}
