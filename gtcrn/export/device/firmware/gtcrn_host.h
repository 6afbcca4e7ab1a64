/* The float part around a network of integers: samples in, samples out, one hop at a time.
 *
 *     samples -> frame -> FFT -> |S|, re, im -> bands -> codes -> [ the network ] -> codes -> mask of the bands
 *                          |                                                                       |
 *     samples <- overlap-add <- inverse FFT <- spectrum x mask of the bins <-----------------------+
 *
 * C99 and sqrtf and rintf of the mathematical library; no allocation, no global variables: a stream is a gtcrn_host.
 * Sizes, scales and tables are those of gtcrn_model.h and gtcrn_model.c, which were written for one network.
 *
 * Samples are numbers in [-1, 1] at GTCRN_SAMPLE_RATE, one channel. The output is later than the input by
 * GTCRN_LATENCY samples.
 */
#ifndef GTCRN_HOST_H
#define GTCRN_HOST_H

#include "gtcrn_model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    float past[GTCRN_LATENCY];      /* the newest samples: what the next frame begins with */
    float overlap[GTCRN_LATENCY];   /* what the frames so far give to samples that are not complete yet */
    float spectrum[2 * GTCRN_BINS]; /* real and imaginary part of every bin; the FFTs work in this place */
    float bands[3 * GTCRN_BANDS];   /* |S|, re and im of every band */
    gtcrn_input_code input[GTCRN_INPUT_SIZE]; /* of the network */
    gtcrn_mask_code mask[GTCRN_MASK_SIZE];    /* its output */
} gtcrn_host;

/* Runs the network once, from input to mask and from its states to its next states, which it keeps itself.
 * Gives 0, or anything else if it could not. */
typedef int (*gtcrn_network)(void *context, const gtcrn_input_code *input, gtcrn_mask_code *mask);

/* Begins a stream. The network's states have to begin anew too: see gtcrn_states in gtcrn_model.h. */
void gtcrn_reset(gtcrn_host *host);

/* One hop of GTCRN_HOP samples, which may be enhanced in their own place. Gives what the network gave: if that is not
 * 0, the hop comes out as it came in, GTCRN_LATENCY later, as it does without a network (NULL). */
int gtcrn_process(gtcrn_host *host, gtcrn_network network, void *context, const float *samples, float *enhanced);

/* What gtcrn_process does, in parts: samples to spectrum and input; mask times spectrum; spectrum to samples. */
void gtcrn_analyse(gtcrn_host *host, const float *samples);
void gtcrn_apply_mask(gtcrn_host *host);
void gtcrn_synthesise(gtcrn_host *host, float *enhanced);

#ifdef __cplusplus
}
#endif

#endif
