/* Iterators as one text for the compiler: what they share is read once. Compiled twice, as each of the two says. */
#include "iterate.c"
#include "lan_iterate.c"
