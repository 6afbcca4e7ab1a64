/* $name: see $name.h. In this order: sizes and tables, the float part, the kernels, the network's constants, the network
 * layer by layer, and what is called from outside. */
#include "$name.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

$sizes
typedef ${name}_state gtcrn_host;

static const gtcrn_bin gtcrn_erb[GTCRN_BINS] = {
$bin_rows
};

/* sin(pi n / GTCRN_N_FFT): half a window, and the FFT's factors. */
static const float gtcrn_sine[GTCRN_N_FFT / 2 + 1] = {
$sine_rows
};

/* ---- The float part: samples -> frame -> FFT -> |S|, re, im -> bands -> codes, and back from the mask. ---- */

$float_part
$kernels
/* ---- The constants of the network. ---- */

$constants
/* ---- The network, $macs multiplications: state->input to state->mask. ---- */

static void network(${name}_state *state)
{
    int8_t *const codes = state->codes;
$calls
}

/* ---- What is called from outside. ---- */

void ${name}_init(${name}_state *state)
{
    gtcrn_reset(state);
    memset(state->wide, 0, sizeof state->wide);
    memset(state->at, 0, sizeof state->at);
$first_states
}

void ${name}_process(${name}_state *state, const float in[${NAME}_HOP], float out[${NAME}_HOP])
{
    gtcrn_analyse(state, in);
    network(state);
    gtcrn_apply_mask(state);
    gtcrn_synthesise(state, out);
}

void ${name}_process_int16(${name}_state *state, const int16_t in[${NAME}_HOP], int16_t out[${NAME}_HOP])
{
    float samples[${NAME}_HOP];
    for (int n = 0; n < ${NAME}_HOP; n++)
        samples[n] = (float)in[n] / 32768.0f;
    ${name}_process(state, samples, samples);
    for (int n = 0; n < ${NAME}_HOP; n++) {
        const float code = rintf(samples[n] * 32768.0f);
        out[n] = (int16_t)(code > 32767.0f ? 32767.0f : code > -32768.0f ? code : -32768.0f);
    }
}
