/* The single-neuron map as a C loop: what the simulator is compared with.

   SAM on f(x, y) = l(xy) for many cells, none of which stops early:
       z = xy, s = l'(z), g = (s y, s x), c = rho |g|^-p, up = (x, y) + c g,
       (x, y) -= eta * gradient at up.
   l'(z) is tanh z, or z / sqrt(1 + z^2).

   Two orders of the loops. "rows": all cells take a step, then all take the next, as an array
   program does. "blocks": a few cells take all their steps before the next few begin, so that
   nothing leaves the caches. The second is what a C programmer would keep.

   Built by simulator_c.py. */

#include <math.h>

#define BLOCK 512

/* tanh to the last digits near 0 too, from what compilers can put into vectors: exp. */
static inline double slope_of(int sqrt_loss, double z)
{
    if (sqrt_loss)
        return z / sqrt(1 + z * z);
    double s = z * z;
    double near = z * (1 - s * (1.0 / 3 - s * (2.0 / 15 - s * (17.0 / 315
                    - s * (62.0 / 2835 - s / 112.825)))));
    double far = 1 - 2 / (1 + exp(2 * z));
    return s < 0.0064 ? near : far;
}

static inline void one(int sqrt_loss, int general, double power, double eta, double rho,
                       double *x, double *y)
{
    double s = slope_of(sqrt_loss, *x * *y);
    double gx = s * *y, gy = s * *x;
    double squared = gx * gx + gy * gy;
    double factor = rho * (general ? pow(squared, -0.5 * power) : 1 / sqrt(squared));
    factor = squared > 0 ? factor : (general && power == 0 ? rho : 0);
    double up = *x + factor * gx, over = *y + factor * gy;
    s = slope_of(sqrt_loss, up * over);
    *x -= eta * (s * over);
    *y -= eta * (s * up);
}

#define BOTH(NAME, SQRT, GENERAL)                                                                 \
    void NAME##_rows(long cells, long steps, double power, const double *eta, const double *rho, \
                     double *x, double *y)                                                       \
    {                                                                                             \
        _Pragma("omp parallel num_threads(2)")                                                    \
        for (long t = 0; t < steps; t++) {                                                        \
            _Pragma("omp for simd schedule(static)")                                              \
            for (long i = 0; i < cells; i++)                                                      \
                one(SQRT, GENERAL, power, eta[i], rho[i], x + i, y + i);                          \
        }                                                                                         \
    }                                                                                             \
    void NAME##_blocks(long cells, long steps, double power, const double *eta,                  \
                       const double *rho, double *x, double *y)                                  \
    {                                                                                             \
        _Pragma("omp parallel for schedule(static) num_threads(2)")                               \
        for (long from = 0; from < cells; from += BLOCK) {                                        \
            long to = from + BLOCK < cells ? from + BLOCK : cells;                                \
            for (long t = 0; t < steps; t++) {                                                    \
                _Pragma("omp simd")                                                               \
                for (long i = from; i < to; i++)                                                  \
                    one(SQRT, GENERAL, power, eta[i], rho[i], x + i, y + i);                      \
            }                                                                                     \
        }                                                                                         \
    }

BOTH(log_cosh, 0, 0)
BOTH(log_cosh_power, 0, 1)
BOTH(sqrt_loss, 1, 0)
BOTH(sqrt_loss_power, 1, 1)
