// The distillation losses of single rows, in vectors of LANES: values, gradients and hits. The definition is
// fastkd/ops/distill_loss/reference.py; each_target.h includes this once for each instruction set.
//
// A row is turned into float32, with -inf behind its last class, so that padding has probability 0 and ranks after
// every class; it then stays in the cache, and a form goes over it as often as that reads well. KL needs no normalised
// probabilities: with u = (z - max) / τ, log p = u - log Σ exp u, so that
//   KL(p ‖ q) = Σ p (u_p - u_q) - log Σ exp u_p + log Σ exp u_q,
// and in its gradient the logarithms cancel. FORMS, at the end, is the one place where a form is added.

#include "rows.h"

// One network's logits of the row.
struct Logits {
  float* values;
  float peak, own;  // the greatest one, the label's
};

// exp((z - peak) / τ): the softmax is these over their total.
struct Softmax {
  const float* values;
  float rate;  // 1 / τ
  float total;
  double log_total;

  FASTKD_INLINE double log_probability(const Logits& z) const {
    return static_cast<double>(z.own - z.peak) * rate - log_total;
  }

  FASTKD_INLINE Floats log_probabilities(const Logits& z, int64_t k) const {
    return (load(z.values + k) - z.peak) * rate - static_cast<float>(log_total);
  }
};

constexpr float STANDARD_EPSILON = 1e-7f;  // reference_parts.py has it

// One row, and the room that is needed for it.
struct Row {
  const Distillation& given;
  const Traits& form;
  int64_t index, label, width;  // width: the classes, rounded up to whole vectors
  float* const room;            // [ROOMS, width]
  Sums& sums;
  bool standardised = false;    // whether what is compared is
  float ce_rate = 1, rate = 1;  // one over the temperatures of cross-entropy and KL
  float squared = 1;            // τ², or 1
  float ce_slope = 0, pair_slope = 0, third_slope = 0;  // weight · per_row, divided by the temperature

  // The rows of the room.
  enum { ANCHOR, ANCHOR_CE, ANCHOR_KL, PARTNER, PARTNER_CE, PARTNER_KL, GAPS, GRADIENT, PARTNER_GRADIENT, ROOMS };
  FASTKD_INLINE float* at(int place) const { return room + place * width; }

  FASTKD_INLINE Logits load_logits(int64_t network, int place) const {
    float* const values = at(place);
    widen(values, given.logits[network], index, given.classes);
    return {values, peak(values), values[label]};
  }

  // A partner's, as they are compared.
  FASTKD_INLINE Logits load_compared(int64_t network, int place) const {
    Logits z = load_logits(network, place);
    if (standardised) standardise(z);
    return z;
  }

  // A vector of the row, 0 behind the last class.
  FASTKD_INLINE Floats classes_of(const float* values, int64_t k, float less = 0, float mean = 0) const {
    const Ints left = static_cast<int32_t>(given.classes - k) - lanes();
    return left > 0 ? load(values + k) - less - mean : Floats{};
  }

  // Subtracts the mean and divides by the deviation plus epsilon; returns one over that.
  FASTKD_INLINE float standardise(Logits& z) const {
    const float classes = static_cast<float>(given.classes), divisor = given.classes > 1 ? classes - 1.0f : 1.0f;
    Total below, squares;
    for (int64_t k = 0; k < width; k += LANES) below.add(classes_of(z.values, k, z.peak));
    const float mean = below.whole() / classes;  // relative to the peak
    for (int64_t k = 0; k < width; k += LANES) {
      const Floats apart = classes_of(z.values, k, z.peak, mean);
      squares.add(apart * apart);
    }
    const float inverse = 1.0f / (std::sqrt(squares.whole() / divisor) + STANDARD_EPSILON);
    for (int64_t k = 0; k < width; k += LANES)
      store(z.values + k, (load(z.values + k) - z.peak - mean) * inverse);
    z.own = z.values[label];
    z.peak = -mean * inverse;
    return inverse;
  }

  FASTKD_INLINE float peak(const float* values) const {
    Floats most = load(values);
    for (int64_t k = LANES; k < width; k += LANES) most = greater(load(values + k), most);
    return greatest(most);
  }

  // Counts a hit where few classes rank before the label: greater logits, and equal ones of a lower class.
  FASTKD_INLINE void count_hits(int64_t network, const Logits& z) const {
    const Floats own = all(z.own);
    Ints before = lanes() - static_cast<int32_t>(label), ahead = {};
    for (int64_t k = 0; k < width; k += LANES, before += static_cast<int32_t>(LANES)) {
      const Floats values = load(z.values + k);
      ahead -= (Ints)(values > own) | ((Ints)(values == own) & (before >> 31));
    }
    int32_t rank = 0;
    for (int64_t i = 0; i < LANES; ++i) rank += ahead[i];
    if (z.own != z.own) return;
    sums.hits[2 * network] += rank < 1;
    sums.hits[2 * network + 1] += rank < 5;
  }

  FASTKD_INLINE Softmax softmax(const Logits& z, float at_rate, int place) const {
    float* const values = at(place);
    Total total;
    for (int64_t k = 0; k < width; k += LANES) {
      const Floats one = exponential((load(z.values + k) - z.peak) * at_rate);
      store(values + k, one);
      total.add(one);
    }
    const float whole = total.whole();
    return {values, at_rate, whole, std::log(static_cast<double>(whole))};
  }

  // u_p - u_q of every class, finite where p is 0, so that it adds nothing there; returns their mean under p.
  FASTKD_INLINE float gaps_between(const Logits& p, const Logits& q, const Softmax& of_p, const Softmax& of_q) const {
    float* const gaps = at(GAPS);
    const float ratio = of_p.rate / of_q.rate;  // at 1, equal logits have no gap
    Total total;
    for (int64_t k = 0; k < width; k += LANES) {
      const Floats gap = ((load(p.values + k) - p.peak) * ratio - (load(q.values + k) - q.peak)) * of_q.rate;
      const Floats finite = greater(gap, all(-3.4028234663852886e38f));
      store(gaps + k, finite);
      total.add(load(of_p.values + k) * finite);
    }
    return total.whole() / of_p.total + 0.0f * of_q.total;  // NaN comes from the total
  }

  FASTKD_INLINE void set_probabilities(float* to, const Softmax& p, float slope) const {
    for (int64_t k = 0; k < width; k += LANES) store(to + k, load(p.values + k) * (slope / p.total));
  }

  FASTKD_INLINE void add_difference(float* to, const Softmax& p, const Softmax& q, float slope) const {
    const float of_p = 1.0f / p.total, of_q = 1.0f / q.total;
    for (int64_t k = 0; k < width; k += LANES)
      store(to + k, load(to + k) + (load(p.values + k) * of_p - load(q.values + k) * of_q) * slope);
  }

  // The derivative of KL(p ‖ q) by p's logits: p (gap - mean gap).
  FASTKD_INLINE void add_skewed(float* to, const Softmax& p, float mean_gap, float slope) const {
    const float by = slope / p.total;
    for (int64_t k = 0; k < width; k += LANES)
      store(to + k, load(to + k) + load(p.values + k) * (load(at(GAPS) + k) - mean_gap) * by);
  }

  // Sets the gradient of slope · CE with the label, and returns the cross-entropy.
  FASTKD_INLINE double cross_entropy(const Logits& z, const Softmax& p, float slope, int gradient) const {
    set_probabilities(at(gradient), p, slope);
    at(gradient)[label] -= slope;
    return -p.log_probability(z);
  }

  FASTKD_INLINE Softmax softened(const Logits& z, const Softmax& at_ce, int place) const {
    return rate == at_ce.rate ? at_ce : softmax(z, rate, place);
  }

  FASTKD_INLINE float share(int64_t partner) const {
    if (given.shares == nullptr) return 1.0f / static_cast<float>(given.networks - 1);
    return given.shares[partner * given.share_strides[0] + index * given.share_strides[1]];
  }

  FASTKD_INLINE void write_gradient(int64_t network, int place) const {
    const Gradient& to = given.gradients[network];
    if (to.data == nullptr) return;
    const Type type = to.bfloat16 ? Type::BFLOAT16 : Type::FLOAT32;
    narrow({to.data, type, given.classes, 1}, index, at(place), given.classes);
  }
};

// The anchor, after its cross-entropy: its logits as they are compared, and their softmax at `ce_rate`.
struct Anchor {
  Logits z;
  Softmax p;
};

FASTKD_INLINE void cross_entropy_alone(Row&, Anchor&) {}

// What a partner that learns has besides KL: hits, and its cross-entropy in the third part.
FASTKD_INLINE void partner_learns(Row& row, int64_t partner, const Logits& z, const Softmax& q) {
  const float mean = 1.0f / static_cast<float>(row.given.networks - 1);
  row.count_hits(partner + 1, z);
  const float slope = row.third_slope * row.ce_rate * mean;
  row.sums.third += row.cross_entropy(z, q, slope, Row::PARTNER_GRADIENT) * mean;
}

// Σ share · τ² KL(anchor ‖ partner) where FROM_ANCHOR, else of KL(partner ‖ anchor).
template <bool FROM_ANCHOR>
FASTKD_INLINE void divergence(Row& row, Anchor& anchor) {
  const Softmax a = row.softened(anchor.z, anchor.p, Row::ANCHOR_KL);
  for (int64_t i = 0; i + 1 < row.given.networks; ++i) {
    const Logits z = row.load_compared(i + 1, Row::PARTNER);
    const bool learns = row.form.partners_learn;
    const Softmax q = row.softmax(z, learns ? row.ce_rate : row.rate, Row::PARTNER_CE);
    const Softmax b = row.softened(z, q, Row::PARTNER_KL);
    const Softmax &p = FROM_ANCHOR ? a : b, &other = FROM_ANCHOR ? b : a;
    const Logits &of_p = FROM_ANCHOR ? anchor.z : z, &of_other = FROM_ANCHOR ? z : anchor.z;
    const float mean_gap = row.gaps_between(of_p, of_other, p, other);
    const float share = row.share(i), slope = row.pair_slope * share;
    row.sums.pair += (mean_gap - p.log_total + other.log_total) * row.squared * share;
    if (learns) {
      partner_learns(row, i, z, q);
      float* const gradient = row.at(Row::PARTNER_GRADIENT);
      FROM_ANCHOR ? row.add_difference(gradient, b, a, slope) : row.add_skewed(gradient, b, mean_gap, slope);
      row.write_gradient(i + 1, Row::PARTNER_GRADIENT);
    }
    if (row.given.detached) continue;
    float* const gradient = row.at(Row::GRADIENT);
    FROM_ANCHOR ? row.add_skewed(gradient, a, mean_gap, slope) : row.add_difference(gradient, a, b, slope);
  }
}

FASTKD_INLINE double times_log(double p) { return p == 0 ? 0 : p * std::log(p); }

enum class Virtual { PLAIN, SOFTENED, OTHERS, ALL };

// A teacher that is two numbers, the label's probability and that of every other class: its KL, or for the smoothed
// labels (OTHERS, ALL) its cross-entropy.
template <Virtual KIND>
FASTKD_INLINE void virtual_teacher(Row& row, Anchor& anchor) {
  constexpr bool SMOOTHED = KIND == Virtual::OTHERS || KIND == Virtual::ALL;
  const double classes = static_cast<double>(row.given.classes), wrong = classes > 1 ? classes - 1 : 1;
  const float* const numbers = row.given.numbers;
  double label = SMOOTHED ? 1.0 - double{numbers[SMOOTHING]} : double{numbers[LABEL_PROBABILITY]};
  double other = (1.0 - label) / (KIND == Virtual::ALL ? classes : wrong);
  if (KIND == Virtual::ALL) label += other;
  if (KIND == Virtual::SOFTENED) {  // the authors' code of Tf-KD: a second softmax, over the probabilities
    const double odds = std::exp((label - other) / numbers[TEMPERATURE]);
    label = odds / (odds + wrong);
    other = 1 / (odds + wrong);
  }
  float* const values = anchor.z.values;
  values[row.label] = anchor.z.peak;  // adds nothing to the sum over the others
  Floats below = {};
  Ints left = static_cast<int32_t>(row.given.classes) - lanes();
  for (int64_t k = 0; k < row.width; k += LANES, left -= static_cast<int32_t>(LANES))
    below += left > 0 ? load(values + k) - anchor.z.peak : Floats{};
  const double log_others = sum(below) - (classes - 1) * anchor.p.log_total;
  const double log_label = anchor.p.log_probability(anchor.z);
  row.sums.pair -= (label == 0 ? 0 : label * log_label) + (other == 0 ? 0 : other * log_others);
  if (!SMOOTHED) row.sums.pair += times_log(label) + wrong * times_log(other);
  if (classes == 1) return;  // its probability is 1 whatever the logit
  const float slope = row.pair_slope, each = static_cast<float>(other), inverse = 1.0f / anchor.p.total;
  float* const gradient = row.at(Row::GRADIENT);
  for (int64_t k = 0; k < row.width; k += LANES)
    store(gradient + k, load(gradient + k) + (load(anchor.p.values + k) * inverse - each) * slope);
  gradient[row.label] -= slope * static_cast<float>(label - other);
}

#include "distill_pairs.h"

enum class Compared { AT_1, AT_TAU, AT_TAU_SQUARED };  // the last one at τ, and times τ²

struct Form {
  Traits traits;
  void (*add)(Row&, Anchor&);  // what comes to the anchor's cross-entropy, value and gradient
  Compared pair;
};

constexpr Compared AT_1 = Compared::AT_1, AT_TAU = Compared::AT_TAU, SQUARED = Compared::AT_TAU_SQUARED;

// To add one: a row here, with a function of (row, anchor) such as those above.
constexpr Form FORMS[] = {
    {{"ce", false, -1, true}, cross_entropy_alone, AT_1},
    {{"kd", false, -1, true}, divergence<false>, SQUARED},
    {{"sftn", true, PARTNER_CE_WEIGHT, true}, divergence<true>, SQUARED},
    {{"sftn_reverse", true, PARTNER_CE_WEIGHT, true}, divergence<false>, SQUARED},
    {{"dkd", false, OTHERS_WEIGHT, true}, decoupled, SQUARED},
    {{"nkd", false, OTHERS_WEIGHT, true}, normalised, SQUARED},
    {{"rld", false, OTHERS_WEIGHT, true}, refined, SQUARED},
    {{"ttm", false, -1, true}, transformed<false>, AT_1},
    {{"wttm", false, -1, true}, transformed<true>, AT_1},
    {{"ab", false, -1, true}, alpha_beta<false>, AT_TAU},
    {{"ab_continuous", false, -1, true}, alpha_beta<true>, AT_TAU},
    {{"jsd", false, -1, true}, jensen_shannon, AT_TAU},
    {{"kd_standardised", false, -1, true}, standardised<divergence<false>>, SQUARED},
    {{"dkd_standardised", false, OTHERS_WEIGHT, true}, standardised<decoupled>, SQUARED},
    {{"nkd_standardised", false, OTHERS_WEIGHT, true}, standardised<normalised>, SQUARED},
    {{"rld_standardised", false, OTHERS_WEIGHT, true}, standardised<refined>, SQUARED},
    {{"ttm_standardised", false, -1, true}, standardised<transformed<false>>, AT_1},
    {{"wttm_standardised", false, -1, true}, standardised<transformed<true>>, AT_1},
    {{"ab_standardised", false, -1, true}, standardised<alpha_beta<false>>, AT_TAU},
    {{"ab_continuous_standardised", false, -1, true}, standardised<alpha_beta<true>>, AT_TAU},
    {{"jsd_standardised", false, -1, true}, standardised<jensen_shannon>, AT_TAU},
    {{"virtual", false, -1, true}, virtual_teacher<Virtual::PLAIN>, AT_1},
    {{"virtual_softened", false, -1, true}, virtual_teacher<Virtual::SOFTENED>, AT_1},
    {{"smoothing_others", false, -1, false}, virtual_teacher<Virtual::OTHERS>, AT_1},
    {{"smoothing_all", false, -1, false}, virtual_teacher<Virtual::ALL>, AT_1},
};

// The rows first … end-1, one after the other.
inline void distill_rows(const Distillation& given, int form, int64_t first, int64_t end, Sums& sums) {
  const int64_t width = (given.classes + LANES - 1) / LANES * LANES;
  Room room(Row::ROOMS * width);
  const float* const numbers = given.numbers;
  const Form& chosen = FORMS[form];
  const Traits& traits = chosen.traits;
  Row row{given, traits, 0, 0, width, room.aligned, sums};
  if (chosen.pair != AT_1) row.rate = 1.0f / numbers[TEMPERATURE];
  if (chosen.pair == SQUARED && given.tau_squared) row.squared = numbers[TEMPERATURE] * numbers[TEMPERATURE];
  if (traits.partners_learn) row.ce_rate = 1.0f / numbers[CE_TEMPERATURE];
  if (traits.anchor_ce) row.ce_slope = numbers[ANCHOR_CE_WEIGHT] * given.per_row * row.ce_rate;
  row.pair_slope = numbers[PAIR_WEIGHT] * given.per_row * row.squared * row.rate;
  if (traits.third_weight >= 0) row.third_slope = numbers[traits.third_weight] * given.per_row;
  for (row.index = first; row.index < end; ++row.index) {
    if (given.labels[row.index] == given.ignore_index) {
      for (int64_t k = 0; k < width; k += LANES) store(row.at(Row::GRADIENT) + k, Floats{});
      for (int64_t network = 0; network < given.networks; ++network) row.write_gradient(network, Row::GRADIENT);
      continue;
    }
    row.label = given.labels[row.index];
    Anchor anchor;
    anchor.z = row.load_logits(0, Row::ANCHOR);
    row.count_hits(0, anchor.z);
    anchor.p = row.softmax(anchor.z, row.ce_rate, Row::ANCHOR_CE);
    sums.anchor_ce += row.cross_entropy(anchor.z, anchor.p, row.ce_slope, Row::GRADIENT);
    chosen.add(row, anchor);
    row.write_gradient(0, Row::GRADIENT);
  }
}

// Multiplies a contiguous gradient.
inline void scale(const Gradient& gradient, int64_t first, int64_t end, float by) {
  float* const floats = static_cast<float*>(gradient.data);
  uint16_t* const shorts = static_cast<uint16_t*>(gradient.data);
  int64_t k = first;
  for (; k + LANES <= end; k += LANES) {
    if (gradient.bfloat16)
      *reinterpret_cast<Shorts*>(shorts + k) = narrowed(widened(shorts + k, Type::BFLOAT16) * by);
    else
      store(floats + k, load(floats + k) * by);
  }
  for (; k < end; ++k) {
    if (!gradient.bfloat16) {
      floats[k] *= by;
      continue;
    }
    uint16_t rest[LANES] = {shorts[k]};
    *reinterpret_cast<Shorts*>(rest) = narrowed(widened(rest, Type::BFLOAT16) * by);
    shorts[k] = rest[0];
  }
}
