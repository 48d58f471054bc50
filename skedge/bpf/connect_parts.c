/* Programs of sockets, and the one that changes what they count in, as one text for the compiler. */
#include "connect.c"
#include "apply.c"
