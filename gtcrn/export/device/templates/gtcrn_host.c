#include "gtcrn_host.h"

#include <math.h>
#include <string.h>

$float_part
int gtcrn_process(gtcrn_host *host, gtcrn_network network, void *context, const float *samples, float *enhanced)
{
    gtcrn_analyse(host, samples);
    const int failure = network ? network(context, host->input, host->mask) : 0;
    if (network && !failure)
        gtcrn_apply_mask(host);
    gtcrn_synthesise(host, enhanced);
    return failure;
}
