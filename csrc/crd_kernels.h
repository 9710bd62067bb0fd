// The CPU kernels of the CRD memory bank; each_target.h includes this once for each instruction set.
#include "crd_draws.h"
#include "crd_gather.h"
#include "crd_tiles.h"
