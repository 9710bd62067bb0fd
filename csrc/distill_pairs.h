// What compares a student's row with its teacher's: DKD, and the methods of 2022 to 2025. The definition is
// fastkd/ops/distill_loss/reference_pairs.py; distill_rows.h includes this, and has the words.

FASTKD_INLINE double log_sigmoid(double x) { return (x < 0 ? x : 0) - std::log1p(std::exp(x < 0 ? x : -x)); }
FASTKD_INLINE double kl_term(double log_p, double log_q) {
  const double p = std::exp(log_p);
  return p == 0 ? 0 : p * (log_p - log_q);  // 0 log 0 is 0
}

// The softmax without a class: its logit leaves the row, and the peak is that of the others.
FASTKD_INLINE Softmax others(const Row& row, Logits& z, int64_t left_out, float rate, int place) {
  z.values[left_out] = -INFINITY;
  z.peak = row.peak(z.values);
  return row.softmax(z, rate, place);
}

// Adds squared · KL between (a class, all others) of the teacher and (label, all others) of the student, given both
// log(p_class / p_others), and the gradient: slope is that by the student's.
FASTKD_INLINE void add_binary(Row& row, double teacher, double student, const Softmax& of_others, float squared,
                              float slope) {
  const double label = kl_term(log_sigmoid(teacher), log_sigmoid(student));
  const double rest = kl_term(log_sigmoid(-teacher), log_sigmoid(-student));
  row.sums.pair += (label + rest) * squared;
  const double excess = std::exp(log_sigmoid(student)) - std::exp(log_sigmoid(teacher));
  const float by_label = slope * static_cast<float>(excess), by_others = by_label / of_others.total;
  float* const gradient = row.at(Row::GRADIENT);
  for (int64_t k = 0; k < row.width; k += LANES)
    store(gradient + k, load(gradient + k) - load(of_others.values + k) * by_others);
  gradient[row.label] += by_label;
}

// Adds τ² KL(teacher ‖ student) of what is left of both rows to the third part.
FASTKD_INLINE void add_third(Row& row, const Logits z[2], const Softmax& student, const Softmax& teacher, float share) {
  const double mean_gap = row.gaps_between(z[1], z[0], teacher, student);
  row.sums.third += (mean_gap - teacher.log_total + student.log_total) * row.squared * share;
  row.add_difference(row.at(Row::GRADIENT), student, teacher, row.third_slope * row.squared * row.rate * share);
}

// DKD: KL between (label, all other classes) in the pair part, that within the other classes in the third.
FASTKD_INLINE void decoupled(Row& row, Anchor& anchor) {
  Logits z[2] = {anchor.z, row.load_compared(1, Row::PARTNER)};
  const Softmax student = others(row, z[0], row.label, row.rate, Row::ANCHOR_KL);
  const Softmax teacher = others(row, z[1], row.label, row.rate, Row::PARTNER_KL);
  const float share = row.share(0);
  add_binary(row, teacher.log_probability(z[1]), student.log_probability(z[0]), student, row.squared * share,
             row.pair_slope * share);
  add_third(row, z, student, teacher, share);
}

// NKD: the cross-entropy with the teacher's probability of the label, and that within the other classes.
FASTKD_INLINE void normalised(Row& row, Anchor& anchor) {
  Logits z[2] = {anchor.z, row.load_compared(1, Row::PARTNER)};
  const float share = row.share(0);
  const double sure = std::exp(row.softmax(z[1], 1.0f, Row::PARTNER_CE).log_probability(z[1]));
  row.sums.pair -= (sure == 0 ? 0 : sure * anchor.p.log_probability(z[0])) * share;
  const float slope = row.given.numbers[PAIR_WEIGHT] * row.given.per_row * share * static_cast<float>(sure);
  const float by = slope / anchor.p.total;
  float* const gradient = row.at(Row::GRADIENT);
  for (int64_t k = 0; k < row.width; k += LANES)
    store(gradient + k, load(gradient + k) + load(anchor.p.values + k) * by);
  gradient[row.label] -= slope;
  const Softmax student = others(row, z[0], row.label, row.rate, Row::ANCHOR_KL);
  const Softmax teacher = others(row, z[1], row.label, row.rate, Row::PARTNER_KL);
  Total total;
  for (int64_t k = 0; k < row.width; k += LANES) {
    const Floats weight = load(teacher.values + k), below = (load(z[0].values + k) - z[0].peak) * row.rate;
    total.add(weight == 0.0f ? Floats{} : weight * below);
  }
  row.sums.third += (student.log_total - total.whole() / teacher.total) * row.squared * share;
  row.add_difference(gradient, student, teacher, row.third_slope * row.squared * row.rate * share);
}

// Both rows with the classes to which the teacher gives less than to the label; returns whether there is one.
FASTKD_INLINE bool keep_less_likely(const Row& row, Logits z[2], float* student) {
  const Floats own = all(z[1].own);
  for (int64_t k = 0; k < row.width; k += LANES) {
    const Floats teacher = load(z[1].values + k);
    const Ints kept = (Ints)(teacher < own);
    store(student + k, kept ? load(z[0].values + k) : all(-INFINITY));
    store(z[1].values + k, kept ? teacher : all(-INFINITY));
  }
  z[0] = {student, row.peak(student), z[0].own};
  z[1].peak = row.peak(z[1].values);
  return z[1].peak > -INFINITY;
}

// RLD: KL between (the teacher's greatest class, all others) and the student's (label, all others) in the pair part,
// that within the less likely classes in the third.
FASTKD_INLINE void refined(Row& row, Anchor& anchor) {
  if (row.given.classes == 1) return;
  Logits z[2] = {anchor.z, row.load_compared(1, Row::PARTNER)};
  const float own = anchor.z.own, share = row.share(0), heat = row.given.numbers[TARGET_TEMPERATURE];
  const float slope = row.given.numbers[PAIR_WEIGHT] * row.given.per_row * heat * share;
  int64_t greatest = 0;
  while (greatest + 1 < row.given.classes && z[1].values[greatest] != z[1].peak) ++greatest;
  Logits top = {z[1].values, z[1].peak, z[1].peak};
  const Softmax teacher = others(row, top, greatest, 1.0f / heat, Row::PARTNER_KL);
  const Softmax student = others(row, z[0], row.label, 1.0f / heat, Row::ANCHOR_KL);
  add_binary(row, teacher.log_probability(top), student.log_probability(z[0]), student, heat * heat * share, slope);
  z[0].values[row.label] = own;
  z[1].values[greatest] = top.own;
  if (!keep_less_likely(row, z, row.at(Row::ANCHOR_CE))) return;
  const Softmax less = row.softmax(z[0], row.rate, Row::ANCHOR_KL);
  add_third(row, z, less, row.softmax(z[1], row.rate, Row::PARTNER_KL), share);
}

// TTM and WTTM (WEIGHTED): KL from the powers of the teacher's probabilities, over their sum, to the student's.
template <bool WEIGHTED>
FASTKD_INLINE void transformed(Row& row, Anchor& anchor) {
  const Logits z = row.load_compared(1, Row::PARTNER);
  const float exponent = std::max(row.given.numbers[TEACHER_EXPONENT], 1.17549435e-38f);  // 0 times -inf is no number
  const Softmax powers = row.softmax(z, exponent, Row::PARTNER_KL);
  double weight = row.share(0);
  if (WEIGHTED) weight *= std::exp(powers.log_total - exponent * row.softmax(z, 1.0f, Row::PARTNER_CE).log_total);
  const double mean_gap = row.gaps_between(z, anchor.z, powers, anchor.p);
  row.sums.pair += (mean_gap - powers.log_total + anchor.p.log_total) * weight;
  row.add_difference(row.at(Row::GRADIENT), anchor.p, powers, row.pair_slope * static_cast<float>(weight));
}

// Both networks' softmax at τ, and what a divergence D(p, q) of the teacher's p and the student's q is made of.
struct Compare {
  Row& row;
  Logits p_logits, q_logits;
  Softmax p, q;

  FASTKD_INLINE Compare(Row& row, Anchor& anchor)
      : row(row),
        p_logits(row.load_compared(1, Row::PARTNER)),
        q_logits(anchor.z),
        p(row.softmax(p_logits, row.rate, Row::PARTNER_KL)),
        q(row.softened(anchor.z, anchor.p, Row::ANCHOR_KL)) {}

  // log q - log p, out of differences of the logits.
  FASTKD_INLINE Floats difference(int64_t k) const {
    const Floats apart = (load(q_logits.values + k) - q_logits.peak) - (load(p_logits.values + k) - p_logits.peak);
    return apart * row.rate - static_cast<float>(q.log_total - p.log_total);
  }

  // Adds the divergence, and the gradient by the student's logits out of the derivatives by log q, which are the GAPS.
  FASTKD_INLINE void add(const Total& terms, const Total& derivatives, float weight) const {
    row.sums.pair += double{terms.whole()} * weight;
    const float slope = row.pair_slope * weight, by = derivatives.whole() / q.total;
    float* const gradient = row.at(Row::GRADIENT);
    for (int64_t k = 0; k < row.width; k += LANES)
      store(gradient + k, load(gradient + k) + (load(row.at(Row::GAPS) + k) - load(q.values + k) * by) * slope);
  }
};

// β KL(p ‖ m) + (1 - β) KL(q ‖ m), m = β p + (1 - β) q.
FASTKD_INLINE void jensen_shannon(Row& row, Anchor& anchor) {
  const float beta = row.given.numbers[MIXTURE], rest = 1.0f - beta;
  if (beta == 0.0f) return divergence<false>(row, anchor);
  if (beta == 1.0f) return divergence<true>(row, anchor);
  const Compare both(row, anchor);
  const Floats least = all(-3.4028234663852886e38f);  // finite where a probability is 0
  const float of_p = 1.0f / both.p.total, of_q = 1.0f / both.q.total;
  Total terms, derivatives;
  for (int64_t k = 0; k < row.width; k += LANES) {
    const OverMixture over = over_mixture(greater(both.difference(k), least), beta);
    const Floats p = load(both.p.values + k) * of_p, q = load(both.q.values + k) * of_q;
    const Floats derivative = rest * q * over.q;
    store(row.at(Row::GAPS) + k, derivative);
    terms.add(beta * p * over.p + derivative);
    derivatives.add(derivative);
  }
  both.add(terms, derivatives, row.share(0));
}

// (e^top - e^base) / c, where top = base + c · d; e^base · d for c = 0. The powers are given.
FASTKD_INLINE Floats rise(float c, const Floats& base, const Floats& top, const Floats& d) {
  if (c == 0.0f) return base == 0.0f ? Floats{} : base * d;
  const Floats x = d * c, negative = x > 0.0f ? -x : x;
  const Floats size = greater(top, base) * exponential_minus_1(negative);
  return (x > 0.0f ? -size : size) / c;
}

// What the authors' code has the limits of the alpha-beta divergence times: see the definition.
FASTKD_INLINE float factor_of_limits(float a, float b) {
  if (a == 0.0f) return b == 0.0f ? 1.0f : b;
  return b == 0.0f || a + b == 0.0f ? a : 1.0f;
}

// The alpha-beta divergence: Σ p^(a+b) [S(a+b, d) - S(b, d)] / a, S(c, x) = (e^(cx) - 1) / c, and its limits.
template <bool CONTINUOUS>
FASTKD_INLINE void alpha_beta(Row& row, Anchor& anchor) {
  const float a = row.given.numbers[TEACHER_EXPONENT], b = row.given.numbers[STUDENT_EXPONENT];
  const Compare both(row, anchor);
  Total terms, derivatives;
  for (int64_t k = 0; k < row.width; k += LANES) {
    const Floats p = both.p.log_probabilities(both.p_logits, k), q = both.q.log_probabilities(both.q_logits, k);
    const Ints impossible = (Ints)(p == -INFINITY) & (Ints)(q == -INFINITY);
    const Floats log_p = impossible ? Floats{} : p, log_q = impossible ? Floats{} : q;
    const Floats d = impossible ? Floats{} : both.difference(k);
    const Floats base = any_exponential(log_p * (a + b)), top = any_exponential(log_q * (a + b));
    const Floats mixed = any_exponential(log_p * a + log_q * b);
    const Floats lower = rise(b, base, mixed, d), derivative = rise(a, mixed, top, d);  // q^b (q^a - p^a) / a
    if (a != 0.0f)
      terms.add((rise(a + b, base, top, d) - lower) / a);
    else
      terms.add(b != 0.0f ? (d * mixed - lower) / b : 0.5f * d * d);
    store(row.at(Row::GAPS) + k, derivative);
    derivatives.add(derivative);
  }
  both.add(terms, derivatives, row.share(0) * (CONTINUOUS ? 1.0f : factor_of_limits(a, b)));
}

// Takes out of the gradient what changes mean or length of z, which standardisation gives back: twice, since what is
// left may be less than the rounding of the first time. Returns how much there was along z.
FASTKD_INLINE float keep_across(const Row& row, const float* z, float* gradient) {
  float along = 0;
  for (int time = 0; time < 2; ++time) {
    Total total, products, squares;
    for (int64_t k = 0; k < row.width; k += LANES) {
      const Floats slope = row.classes_of(gradient, k), value = row.classes_of(z, k);
      total.add(slope);
      products.add(slope * value);
      squares.add(value * value);
    }
    const float square = squares.whole(), share = square > 0 ? products.whole() / square : 0.0f;
    const float mean = total.whole() / static_cast<float>(row.given.classes);
    for (int64_t k = 0; k < row.width; k += LANES)
      store(gradient + k, load(gradient + k) - mean - load(z + k) * share);
    along += share;
  }
  return along;
}

// What ADD computes of the standardised logits. With c the centred logits and s their deviation, z = c / (s + ε), so
// that the gradient by c is (across + along · z · ε / (s + ε)) / (s + ε).
template <void (*ADD)(Row&, Anchor&)>
FASTKD_INLINE void standardised(Row& row, Anchor& anchor) {
  float *const gradient = row.at(Row::GRADIENT), *const of_ce = row.at(Row::PARTNER_GRADIENT);
  std::copy_n(gradient, row.width, of_ce);
  std::fill_n(gradient, row.width, 0.0f);
  const float inverse = row.standardise(anchor.z);
  anchor.p = row.softmax(anchor.z, row.ce_rate, Row::ANCHOR_CE);
  row.standardised = true;
  ADD(row, anchor);
  anchor.z.values[row.label] = anchor.z.own;  // ADD may have left it out
  const float* const z = anchor.z.values;
  const float along = keep_across(row, z, gradient) * STANDARD_EPSILON * inverse;
  for (int64_t k = 0; k < row.width; k += LANES)
    store(gradient + k, load(of_ce + k) + (load(gradient + k) + load(z + k) * along) * inverse);
}
