// The divergence of a teacher's distribution p and a student's q over the same classes: value, and derivative by the
// student's logits. row_loss_rows.h includes this; fastkd/ops/row_loss/reference.py is the definition.
//
// Both come as logits and as exponentials of these above some origin. With d the difference of the logits, at the
// temperature, log q - log p is d and a constant c of the row, so that with w = p (q for the reverse KL, and -d)
//   KL = -Σ w d - c, or log(1 + Σ w (e^u - 1 - u)), u = d - Σ w d, where the networks are near each other:
// there every error is a share of the result, and the sum would have one of the size of log p.

// The classes that are compared, or a chunk of them.
struct Classes {
  const float *z, *t;  // logits; what is -inf in both is no class
  const float *q, *p;  // exp((z - peak) / τ), and the teacher's
  int64_t width;
};

// Logits' greatest, and what they are multiplied by: one over the temperature.
struct Scale {
  float peak, rate;
};

struct Comparison {
  Scale of_q, of_p;
  float q_origin, p_origin;  // subtracted from the logits, for the sake of the digits of their difference
  float ratio;               // of_p.rate / of_q.rate
  float beta;
  bool normalised;  // whether p is: else it is of any mass
  bool meant_whole = false;  // whether that mass is meant to be 1: what rounding has made of it does not count
  Divergence kind;

  Total q_sum, p_sum, gap_sum, bend_sum, of_student_sum;
  Floats least = all(INFINITY), most = all(-INFINITY);

  double constant = 0, log_mass = 0;
  float constant_of_mass = 0;        // that of log q - log p where p has its mass
  float q_unit = 0, p_unit = 0;      // one over the totals
  float p_scale = 0, mass = 0;       // p is its exponentials times this; their sum
  float mean_gap = 0, of_student = 0;  // Σ w d; what the student's part of the mixture adds
  double value = 0;

  FASTKD_INLINE Comparison(Divergence divergence, float beta, Scale q, Scale p, bool normalised)
      : of_q(q), of_p(p), q_origin(q.peak), p_origin(p.peak), ratio(p.rate / q.rate), beta(beta),
        normalised(normalised), kind(divergence) {
    if (kind == Divergence::JSD && beta == 0.0f) kind = Divergence::FORWARD;
    if (kind == Divergence::JSD && beta == 1.0f) kind = Divergence::REVERSE;
    if (ratio != 1.0f) return;
    q_origin = std::nearbyint(q.peak - p.peak);  // whole, so that close logits are subtracted exactly
    p_origin = 0;
  }

  // log q - log p, but for the constant.
  FASTKD_INLINE Floats gap(const Classes& c, int64_t k) const {
    return ((load(c.z + k) - q_origin) - (load(c.t + k) - p_origin) * ratio) * of_q.rate;
  }

  static FASTKD_INLINE Floats weighed(const Floats& weight, const Floats& value) {
    return weight == 0.0f ? Floats{} : weight * value;
  }

  template <bool FORWARD>
  FASTKD_INLINE void add_gaps(const Classes& c) {
    for (int64_t k = 0; k < c.width; k += LANES) {
      const Floats d = gap(c, k);
      gap_sum.add(weighed(load((FORWARD ? c.p : c.q) + k), d));
      most = greater(d, most);
      least = d < least ? d : least;
    }
  }

  // The first pass over the classes.
  FASTKD_INLINE void add(const Classes& c) {
    for (int64_t k = 0; k < c.width; k += LANES) {
      q_sum.add(load(c.q + k));
      p_sum.add(load(c.p + k));
    }
    if (kind == Divergence::FORWARD) add_gaps<true>(c);
    if (kind == Divergence::REVERSE) add_gaps<false>(c);
  }

  // What the sums give; returns whether the value needs a second pass.
  FASTKD_INLINE bool know_totals() {
    const float q_total = q_sum.whole(), p_total = p_sum.whole();
    q_unit = 1.0f / q_total;
    p_unit = p_total == 0.0f ? 0.0f : 1.0f / p_total;  // of no mass: it is compared with nothing
    const double log_p_total = std::log(double{p_total}), p_peak = double{of_p.peak} * of_p.rate;
    const double without_p =
        double{q_origin - of_q.peak} * of_q.rate - double{p_origin} * of_p.rate - std::log(double{q_total});
    constant = without_p + p_peak + log_p_total;
    constant_of_mass = static_cast<float>(normalised ? constant : without_p);
    p_scale = normalised ? p_unit : std::exp(static_cast<float>(p_peak));
    mass = normalised ? 1.0f : p_total * p_scale;
    if (!normalised) log_mass = p_peak + log_p_total;
    if (kind == Divergence::JSD) return true;
    const bool forward = kind == Divergence::FORWARD;
    mean_gap = gap_sum.whole() * (forward ? p_unit : q_unit);
    const bool is_near = greatest(most) - mean_gap < FAR && greatest(-least) + mean_gap < FAR;
    if (!is_near) set_value(forward ? -(mean_gap + constant) : mean_gap + constant);
    return is_near;
  }

  // From KL between the two, if both were normalised.
  FASTKD_INLINE void set_value(double kl) {
    const double missed = meant_whole ? std::expm1(log_mass) : 0.0;
    if (normalised)
      value = kl;
    else if (kind == Divergence::REVERSE)
      value = p_unit == 0.0f ? INFINITY : kl - log_mass + missed;
    else
      value = p_unit == 0.0f ? 0.0 : mass * (kl + log_mass) - missed;
  }

  // The second pass, and its end.
  FASTKD_INLINE void add_value(const Classes& c) {
    if (kind == Divergence::JSD)
      for (int64_t k = 0; k < c.width; k += LANES) {
        const Mixed mixed = mixture(c, k);
        bend_sum.add(mixed.of_teacher + mixed.of_student);
        of_student_sum.add(mixed.of_student);
      }
    else if (kind == Divergence::FORWARD)
      for (int64_t k = 0; k < c.width; k += LANES)
        bend_sum.add(weighed(load(c.p + k), beyond_linear(gap(c, k) - mean_gap)));
    else
      for (int64_t k = 0; k < c.width; k += LANES)
        bend_sum.add(weighed(load(c.q + k), beyond_linear(mean_gap - gap(c, k))));
  }

  FASTKD_INLINE void know_value() {
    of_student = of_student_sum.whole();
    if (kind == Divergence::JSD)
      value = bend_sum.whole();
    else
      set_value(std::log1p(double{bend_sum.whole()} * (kind == Divergence::FORWARD ? p_unit : q_unit)));
  }

  struct Mixed {
    Floats of_teacher, of_student;
  };

  FASTKD_INLINE Mixed mixture(const Classes& c, int64_t k) const {
    const Floats d = gap(c, k) + constant_of_mass;
    const OverMixture over = over_mixture(greater(d, all(-3.4028234663852886e38f)), beta);
    return {beta * probability(c, k) * over.p, (1.0f - beta) * load(c.q + k) * q_unit * over.q};
  }

  FASTKD_INLINE Floats probability(const Classes& c, int64_t k) const { return load(c.p + k) * p_scale; }

  // The derivative by the student's logits at the temperature.
  FASTKD_INLINE Floats pull(const Classes& c, int64_t k) const {
    const Floats q = load(c.q + k) * q_unit;
    if (kind == Divergence::FORWARD) return q * mass - probability(c, k);
    if (kind == Divergence::REVERSE) return weighed(q, gap(c, k) - mean_gap);
    return mixture(c, k).of_student - q * of_student;
  }
};
