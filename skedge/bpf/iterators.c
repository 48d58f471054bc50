/* Iterators as one text for the compiler: what they share is read once. Compiled twice, as each of the two says. */
#include "placement/iterate.c"
#include "nat/iterate.c"
#if !defined(SECOND) && !defined(PLACEMENTS_V1)
#include "nat/stalled.c"
#include "socket/stalled.c"
#endif
