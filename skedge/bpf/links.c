/* Both programs of a link as one text for the compiler: what they share is read, and optimised, once. */
#include "link/ingress.c"
#include "link/egress.c"
