/* Programs of sockets, and the one that changes what they count in, as one text for the compiler. */
#include "socket/connect.c"
#include "socket/datagrams.c"
#include "placement/apply.c"
